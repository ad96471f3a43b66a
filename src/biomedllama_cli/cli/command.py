"""A Typer command whose options are made from its settings tree when it is invoked."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

from typer.core import TyperCommand, TyperGroup

from biomedllama_cli.cli.logs import configure_logging
from biomedllama_cli.cli.output import print_error, print_report
from biomedllama_cli.errors import ThresholdError


class CommandGroup(TyperGroup):
    """The root: the same help page as its commands have."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        from biomedllama_cli.cli.help import print_help

        print_help(self, ctx)


class SettingsCommand(TyperCommand):
    """Generates its options at the first look at them, so that `biomedllama --help` pays for none."""

    _generated = False

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, generated from the settings tree of this command."""
        if not self._generated:
            from biomedllama_cli.cli.options import build_options

            self._generated = True
            self.params = build_options(str(self.name))
        return super().get_params(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        from biomedllama_cli.cli.help import print_help

        print_help(self, ctx)

    def invoke(self, ctx: Any) -> int:
        """Run the command and return its exit code; every failure becomes one sentence."""
        options = ctx.params
        configure_logging(options["verbose"])
        assert self.callback is not None
        try:
            with redirect_stdout(sys.stderr):  # stdout belongs to the report alone
                report = ctx.invoke(self.callback)
        except (Exception, KeyboardInterrupt) as error:
            # A result below its threshold comes from a process that has printed the report, the one document on stdout.
            as_json = options["json"] and not isinstance(error, ThresholdError)
            return print_error(error, as_json=as_json, debug=options["debug"])
        if report is None:
            return 0
        print_report(report, as_json=options["json"])
        problem = getattr(report, "problem", None)
        if problem is None:
            return 0
        from biomedllama_cli.engine.rank import tell_launcher

        if tell_launcher(problem) is not None:
            return 0  # the launcher ends with the problem's code, once this process has ended well
        # The report is the one document on stdout; what is wrong with it goes to stderr.
        return print_error(problem, as_json=False, debug=options["debug"])

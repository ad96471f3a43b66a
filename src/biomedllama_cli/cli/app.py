"""The `biomedllama` command: a Typer app whose commands make their options only when they are invoked."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.main import get_command

from biomedllama_cli.cli.certify import certify
from biomedllama_cli.cli.chat import chat
from biomedllama_cli.cli.command import CommandGroup, SettingsCommand
from biomedllama_cli.cli.curves import curves
from biomedllama_cli.cli.evaluate import evaluate
from biomedllama_cli.cli.export import export
from biomedllama_cli.cli.finetune import finetune
from biomedllama_cli.cli.instruct import instruct
from biomedllama_cli.cli.prepare import prepare
from biomedllama_cli.cli.pretrain import pretrain

app = typer.Typer(
    name="biomedllama",
    cls=CommandGroup,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes, presets and environment variables: docs/configuration.md",
)
for _command in (prepare, pretrain, finetune, instruct, evaluate, chat, export, certify, curves):
    app.command(cls=SettingsCommand)(_command)


def _print_version(asked: bool) -> None:
    if asked:
        from biomedllama_cli import __version__

        typer.echo(f"biomedllama {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt open language models to biomedicine, reproducibly, from data to published numbers."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; without arguments it shows the help.

    Args:
        arguments: what stands after `biomedllama`.
    """
    try:
        code = get_command(app).main(
            arguments or ["--help"], prog_name="biomedllama", standalone_mode=False, obj=arguments
        )
    except typer.TyperException as error:  # what Typer itself refuses: unknown commands and options
        from biomedllama_cli.cli.output import print_error
        from biomedllama_cli.cli.usage import explain_usage_error

        explained = explain_usage_error(error, arguments)
        return print_error(explained, as_json="--json" in arguments, debug="--debug" in arguments)
    return int(code or 0)

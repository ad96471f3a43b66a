"""Command line options generated from a settings tree."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.main import get_command

from biomedllama_cli.settings.leaves import Leaf, iter_leaves, load_tree

MAIN_PANEL = "Options"
COMMON_PANEL = "Settings and output (the same for every command)"


def build_options(command: str) -> list[Any]:
    """Return the options of a command, as Typer makes them.

    Values stay raw text: pydantic checks all of them, wherever they come from, so that a wrong one is
    refused in the same words.
    """
    leaves = list(iter_leaves(load_tree(command)))
    parameters = [_build_option(leaf) for leaf in leaves if not leaf.section]
    parameters += _common_options(command)
    parameters += [_build_option(leaf) for leaf in leaves if leaf.section]

    def stand_in() -> None: ...

    # Typer reads options off a function's signature: write the signature, let Typer do its part.
    stand_in.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    stand_in.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(stand_in)
    return get_command(app).params


def _build_option(leaf: Leaf) -> inspect.Parameter:
    switch = leaf.value_type is bool
    facts = f"[default: {leaf.default_text}] [env: {leaf.environment}]"
    if leaf.positional:
        return _build_argument(leaf, facts)
    option = typer.Option(
        f"{leaf.flag}/--no-{leaf.flag[2:]}" if switch else leaf.flag,
        help=f"{escape(leaf.description)}\n[dim]{escape(facts)}[/]",
        metavar="" if switch else f"<{leaf.type_name}>",
        show_default=False,
        rich_help_panel=leaf.section or MAIN_PANEL,
        autocompletion=_completion(dict.fromkeys(leaf.completions, "")) if leaf.completions else None,
    )
    kind = bool if switch else list[str] if leaf.repeatable else str
    return _parameter(leaf.name, kind, option, None)


def _build_argument(leaf: Leaf, facts: str) -> inspect.Parameter:
    argument = typer.Argument(
        help=f"{escape(leaf.description)}\n[dim]{escape(facts)}[/]",
        metavar=leaf.flag,
        show_default=False,
        rich_help_panel="Arguments",
    )
    return _parameter(leaf.name, str, argument, None)


def _common_options(command: str) -> list[inspect.Parameter]:
    def option(*flags: str, help: str, **more: Any) -> Any:
        return typer.Option(*flags, help=help, show_default=False, rich_help_panel=COMMON_PANEL, **more)

    return [
        _parameter("config", str, option("--config", metavar="<FILE.yaml>", help="Settings file."), None),
        _parameter(
            "preset",
            str,
            option(
                "--preset",
                metavar="<name>",
                help="Named settings; `list` shows them.",
                autocompletion=_completion(lambda: _presets(command)),
            ),
            None,
        ),
        _parameter(
            "print_config", bool, option("--print-config", help="Print every value with its origin."), False
        ),
        _parameter(
            "dry_run", bool, option("--dry-run", help="Say what would be done and write nothing."), False
        ),
        _parameter("json", bool, option("--json", help="Print one JSON document on stdout."), False),
        _parameter("debug", bool, option("--debug", help="Show the traceback of an error."), False),
        _parameter(
            "verbose",
            int,
            option("--verbose", "-v", count=True, metavar="", help="Log more; twice: libraries too."),
            0,
        ),
    ]


def _presets(command: str) -> dict[str, str]:
    from biomedllama_cli.settings.preset import list_presets  # loads YAML, which help has no use for

    return {**list_presets(command), "list": "Show the presets and stop."}


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _completion(
    values: dict[str, str] | Callable[[], dict[str, str]],
) -> Callable[[str], Iterator[tuple[str, str]]]:
    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        known = values() if callable(values) else values
        return ((name, text) for name, text in known.items() if name.startswith(incomplete))

    return complete

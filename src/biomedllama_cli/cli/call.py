"""From the parsed command line to validated settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

if TYPE_CHECKING:
    from biomedllama_cli.cli.output import Report
    from biomedllama_cli.settings.base import Settings

    T = TypeVar("T", bound=Settings)
else:
    T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One invocation of a command.

    Args:
        settings: what to do.
        dry_run: whether only to say so.
        answer: what to print instead of running, for `--print-config` and `--preset list`.
    """

    settings: T
    dry_run: bool
    answer: Report | None = None


def read_call(context: typer.Context, tree: type[T]) -> Call[T]:
    """Resolve the settings of an invocation from all their sources.

    Raises:
        SettingsError: a source names an unknown setting, or a value breaks its rule.
    """
    from biomedllama_cli.cli.answers import ConfigAnswer, PresetsAnswer
    from biomedllama_cli.settings.leaves import iter_leaves
    from biomedllama_cli.settings.preset import list_presets
    from biomedllama_cli.settings.resolve import resolve_settings

    options: dict[str, Any] = context.params
    command = str(context.command.name)
    if options["preset"] == "list":
        return Call(tree(), options["dry_run"], PresetsAnswer(command, list_presets(command)))
    given = {leaf.name: options[leaf.name] for leaf in iter_leaves(tree)}
    resolved = resolve_settings(
        tree,
        preset=options["preset"],
        config=Path(options["config"]) if options["config"] is not None else None,
        environment=os.environ,
        flags={name: value for name, value in given.items() if value not in (None, [], ())},
    )
    answer = ConfigAnswer(command, resolved) if options["print_config"] else None
    return Call(resolved.settings, options["dry_run"], answer)

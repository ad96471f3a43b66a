"""Which value every setting has, and where it came from.

Precedence, lowest first: defaults, preset, file, environment, flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.environment import read_environment
from biomedllama_cli.settings.explain import explain, show
from biomedllama_cli.settings.files import read_settings_file
from biomedllama_cli.settings.leaves import TREES, Leaf, find_command, iter_leaves, load_tree
from biomedllama_cli.settings.preset import load_preset
from biomedllama_cli.settings.suggest import suggest

T = TypeVar("T", bound=Settings)
LeafPath = tuple[str, ...]


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """A settings tree and the origin of each of its values.

    Args:
        settings: the validated tree.
        origins: dotted path of each leaf -> "default", "preset NAME", "file PATH", "environment NAME" or
            "flag --NAME".
    """

    settings: T
    origins: dict[str, str]


@dataclass(frozen=True)
class _Choice:
    raw: Any
    origin: str
    subject: str
    """How a message names the setting."""


def resolve_settings(
    tree: type[T],
    *,
    preset: str | None,
    config: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Resolved[T]:
    """Merge all sources leaf by leaf and validate the result.

    Args:
        tree: the command's settings class.
        preset: name of a preset of that command.
        config: YAML file of sections, optionally with a `command` key.
        environment: the process environment.
        flags: leaf name -> raw value, only those that were given.

    Raises:
        SettingsError: a source names an unknown setting, or a value breaks its rule.
    """
    leaves = {leaf.path: leaf for leaf in iter_leaves(tree)}
    chosen: dict[LeafPath, _Choice] = {}
    if preset is not None:
        source = f"preset {preset}"
        for leaf, raw in _flatten(load_preset(find_command(tree), preset), leaves, source, tree):
            chosen[leaf.path] = _Choice(raw, source, f"{leaf.dotted} in {source}")
    if config is not None:
        content = _check_command(read_settings_file(config), config, tree)
        for leaf, raw in _flatten(content, leaves, str(config), tree):
            chosen[leaf.path] = _Choice(raw, f"file {config}", f"{leaf.dotted} in {config}")
    for leaf, raw in _flatten(read_environment(tree, environment), leaves, "the environment", tree):
        chosen[leaf.path] = _Choice(
            _read_none(leaf, raw), f"environment {leaf.environment}", leaf.environment
        )
    by_name = {leaf.name: leaf for leaf in leaves.values()}
    for name, raw in flags.items():
        leaf = by_name[name]
        flag = leaf.flag if raw is not False else leaf.flag.replace("--", "--no-", 1)
        kind = "argument" if leaf.positional else "flag"
        chosen[leaf.path] = _Choice(_read_none(leaf, raw), f"{kind} {flag}", flag)

    settings = _validate(tree, leaves, chosen)
    origins = {
        leaf.dotted: chosen[leaf.path].origin if leaf.path in chosen else "default"
        for leaf in leaves.values()
    }
    return Resolved(settings, origins)


def _read_none(leaf: Leaf, raw: Any) -> Any:
    """Take the word `none` of a flag or variable for None where the setting may be None."""
    return None if leaf.optional and raw == "none" else raw


def _check_command(content: dict[str, Any], config: Path, tree: type[Settings]) -> dict[str, Any]:
    content, mine = dict(content), find_command(tree)
    command = content.pop("command", mine)
    if command != mine:
        raise SettingsError(
            f"--config is {config}, but that file is for {show(command)}, not for {mine!r}.",
            f"Run `biomedllama {command} --config {config}`." if command in TREES else "",
        )
    return content


def _flatten(
    content: Mapping[str, Any],
    leaves: Mapping[LeafPath, Leaf],
    source: str,
    tree: type[Settings],
    *,
    path: LeafPath = (),
) -> Iterator[tuple[Leaf, Any]]:
    """Yield each leaf a nested mapping sets, refusing keys the tree does not have."""
    sections = {known[: len(path) + 1] for known in leaves if len(known) > len(path) + 1}
    for key, value in content.items():
        here = (*path, str(key))
        if here in leaves:
            yield leaves[here], [value] if leaves[here].repeatable and isinstance(value, str) else value
        elif here not in sections:
            raise _unknown_key(here, source, leaves, tree)
        elif isinstance(value, Mapping):
            yield from _flatten(value, leaves, source, tree, path=here)
        elif value is not None:  # `section:` with nothing below it sets nothing
            raise SettingsError(
                f"{'.'.join(here)} in {source} is {show(value)}, but it is a section: a mapping of settings."
            )


def _unknown_key(
    path: LeafPath, source: str, leaves: Mapping[LeafPath, Leaf], tree: type[Settings]
) -> SettingsError:
    dotted, mine = ".".join(path), find_command(tree)
    for command in TREES:
        others = [leaf.path for leaf in iter_leaves(load_tree(command))]
        if command != mine and any(other[: len(path)] == path for other in others):
            return SettingsError(
                f"{dotted} in {source} is not a setting of {mine}, but of {command}.",
                f"Remove it, or run `biomedllama {command}`.",
            )
    known = [leaf.dotted for leaf in leaves.values()] + sorted({leaf.path[0] for leaf in leaves.values()})
    return SettingsError(f"{dotted} in {source} is not a setting of {mine}.", suggest(dotted, known))


def _validate(tree: type[T], leaves: Mapping[LeafPath, Leaf], chosen: Mapping[LeafPath, _Choice]) -> T:
    nested: dict[str, Any] = {}
    for path, choice in chosen.items():
        section = nested
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = choice.raw
    try:
        return tree.model_validate(nested)
    except ValidationError as error:
        sentences, hint = [], ""
        for problem in error.errors(include_url=False):
            location = tuple(str(part) for part in problem["loc"])
            path = next((each for each in leaves if location[: len(each)] == each), ())
            subject = chosen[path].subject if path in chosen else ".".join(location)
            sentences.append(explain(subject, problem))
            if path and leaves[path].choices and isinstance(problem["input"], str):
                hint = hint or suggest(problem["input"], leaves[path].choices)
        raise SettingsError(" ".join(dict.fromkeys(sentences)), hint) from error

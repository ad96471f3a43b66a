"""Settings that change while a chat goes on: `/set temperature 0.2`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.settings.explain import explain, show
from biomedllama_cli.settings.leaves import Leaf, iter_leaves
from biomedllama_cli.settings.suggest import suggest

_CHANGEABLE = ("seed", "reply", "sources.passages", "exam.profile")
"""Settings, and sections of them, that the next question can have otherwise."""
_LOADED = "the model is loaded with it when the chat begins"
_INDEXED = "the corpus is opened with it when the chat begins"
_REASONS = {
    "workspace": "it says where the chat looks for its model",
    "model": "a conversation belongs to the model that is loaded",
    "compare": "it is a command of its own",
    "overwrite": "it belongs to questions of a file",
    "questions": "it belongs to questions that are asked without a terminal",
    "style.template": "the conversation is written with it from its beginning",
    "style.system": "it is a command of its own",
    "sources.corpus": _INDEXED,
    "sources.passage_words": _INDEXED,
    "sources.rebuild_index": _INDEXED,
    "transcript.save": "it is a command of its own",
    "transcript.load": "it is a command of its own",
    "transcript.history_file": "what is typed is kept in it from the beginning",
    "compute": _LOADED,
}
"""Why the others cannot change."""
_COMMANDS = {
    "compare": "/compare MODEL",
    "style.system": "/system TEXT",
    "transcript.save": "/save FILE",
    "transcript.load": "/load FILE",
}
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"(?!\S)|\'[^\']*\'(?!\S)|\S+')


@dataclass(frozen=True, slots=True)
class CurrentValue:
    """A setting that can change, as a list of them shows it.

    Attributes:
        name: as `/set` takes it.
        value: as text.
        description: what it does.
        completions: values that may be offered; none where any number or text will do.
    """

    name: str
    value: str
    description: str
    completions: tuple[str, ...] = ()


def list_current(settings: ChatSettings) -> tuple[CurrentValue, ...]:
    """Return what can change during a chat, with its values."""
    return tuple(
        CurrentValue(leaf.name, show_value(_read(settings, leaf)), leaf.description, _complete(leaf))
        for leaf in _list_leaves()
        if _is_changeable(leaf)
    )


def change_setting(settings: ChatSettings, name: str, raw: str) -> tuple[ChatSettings, str]:
    r"""Return settings in which one has another value, and a sentence that says so.

    Args:
        settings: as they are.
        name: of the setting, as its flag, a file or `/set` writes it.
        raw: the value as somebody types it. Several texts stand side by side, in quotes where they hold blanks; those
            in double quotes are read as JSON, so that `"\n"` ends a line; `none` or nothing stands for no text.

    Raises:
        SettingsError: there is no such setting, it cannot change during a chat, or the value breaks its rule.
    """
    leaf = _find_changeable(name)
    before = _read(settings, leaf)
    value = _split(raw) if leaf.repeatable else raw.strip()
    if value == "":
        raise SettingsError(
            f"{leaf.name} needs a value: it is {show_value(before)} now.", f"Type /set {leaf.name} VALUE."
        )
    section = _validate(_find_section(settings, leaf), leaf, value)
    changed = settings.model_copy(update={leaf.path[0]: section}) if len(leaf.path) > 1 else section
    assert isinstance(changed, ChatSettings)
    after = _read(changed, leaf)
    if after == before:
        return changed, f"{leaf.name} is {show_value(after)} already."
    return changed, f"{leaf.name} is now {show_value(after)} (was {show_value(before)})."


def name_setting(name: str) -> str:
    """Return what the list of settings calls one that can change, however its name is written.

    Raises:
        SettingsError: there is no such setting, or it cannot change during a chat.
    """
    return _find_changeable(name).name


def show_value(value: Any) -> str:
    r"""Return the value of a setting as people read it.

    >>> show_value(0.7), show_value(True), show_value(()), show_value(("###", "\n"))
    ('0.7', 'on', 'none', '"###" "\\n"')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(json.dumps(each, ensure_ascii=False) for each in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _list_leaves() -> tuple[Leaf, ...]:
    return tuple(iter_leaves(ChatSettings))


def _is_changeable(leaf: Leaf) -> bool:
    return leaf.dotted in _CHANGEABLE or leaf.path[0] in _CHANGEABLE


def _complete(leaf: Leaf) -> tuple[str, ...]:
    return ("on", "off") if leaf.value_type is bool else leaf.completions


def _find(name: str) -> Leaf:
    wanted = name.strip().lstrip("-").replace("-", "_").lower()
    for leaf in _list_leaves():
        if wanted in (leaf.name, leaf.dotted):
            return leaf
    names = [leaf.name for leaf in _list_leaves() if _is_changeable(leaf)]
    begun = [f"Did you mean {each}?" for each in names if wanted and each.startswith(wanted)]
    hint = suggest(wanted, names) or (begun[0] if begun else "Type /set alone to see what can change.")
    raise SettingsError(f"{show(name.strip())} is no setting of a chat.", hint)


def _find_changeable(name: str) -> Leaf:
    leaf = _find(name)
    if not _is_changeable(leaf):
        raise _refuse(leaf)
    return leaf


def _refuse(leaf: Leaf) -> SettingsError:
    reason = _REASONS.get(leaf.dotted) or _REASONS[leaf.path[0]]
    command = _COMMANDS.get(leaf.dotted)
    hint = f"Type {command}." if command else f"Start `biomedllama chat` with {leaf.flag}."
    return SettingsError(f"{leaf.name} cannot be set during a chat: {reason}.", hint)


def _split(raw: str) -> list[str]:
    texts = [_unquote(found) for found in _VALUE.findall(raw)]
    return [] if texts == ["none"] and raw.strip() == "none" else texts


def _unquote(word: str) -> str:
    if len(word) < 2 or word[0] != word[-1] or word[0] not in "\"'":
        return word
    if word[0] == "'":
        return word[1:-1]
    try:
        return str(json.loads(word, strict=False))
    except ValueError:
        raise SettingsError(
            f"{word} is no text in quotes as JSON writes it.", r"Write \\ for a backslash and \" for a quote."
        ) from None


def _find_section(settings: ChatSettings, leaf: Leaf) -> Settings:
    section = getattr(settings, leaf.path[0]) if len(leaf.path) > 1 else settings
    assert isinstance(section, Settings)
    return section


def _read(settings: ChatSettings, leaf: Leaf) -> Any:
    return getattr(_find_section(settings, leaf), leaf.name)


def _validate(section: Settings, leaf: Leaf, value: str | Sequence[str]) -> Settings:
    try:
        return type(section).model_validate({**dict(section), leaf.name: value})
    except ValidationError as error:
        sentences = [explain(leaf.name, problem) for problem in error.errors(include_url=False)]
        near = suggest(value, leaf.choices) if isinstance(value, str) and leaf.choices else ""
        raise SettingsError(" ".join(dict.fromkeys(sentences)), near) from None

"""Conversations as OpenAI's chat interface and its tuning files write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example, Role, Turn
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.own_questions import read_id
from biomedllama_cli.tasks.records import Record, check_encodable

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
_LISTS = ("messages", "conversations")
_TOOL_FIELDS = ("tools", "functions", "tool_calls", "function_call", "tool_call_id")


def iter_messages(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn records of `messages`, a list of `role` and `content`, into examples.

    ShareGPT's names are read as well: `conversations`, a list of `from` (system, human, gpt) and `value`.

    First may stand one system message; then user and assistant in turn, the assistant last. Spaces around a content
    are no part of it. A message of the assistant with the weight 0 is read and not learnt. Tools, images and
    messages without text are refused, not left out silently.

    Raises:
        DataError: records are wrong: the first twenty by file and line, and how many there are.
    """
    return read_each(records, lambda record: _read(record, source), findings)


def read_turns(record: Record) -> tuple[Turn, ...]:
    """Return the messages of a record: one system message or none, then user and assistant in turn.

    Raises:
        DataError: they are something else.
    """
    name = _find_list(record)
    messages: Any = record.field(name)
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{record.where}: field `{name}` must be a list of messages")
    _refuse_tools(record.fields, record.where)
    turns = tuple(
        _read_message(message, f"{record.where}: {name}[{place}]") for place, message in enumerate(messages)
    )
    _check_order(turns, f"{record.where}: {name}")
    return turns


def _find_list(record: Record) -> str:
    """Return the name of the field that messages are in, or should be."""
    return next((name for name in _LISTS if name in record.fields), "messages")


def _read(record: Record, source: str) -> Example:
    turns = read_turns(record)
    if turns[-1].role != "assistant":
        raise DataError(
            f"{record.where}: {_find_list(record)}: the last message is the {turns[-1].role}'s; it must be the "
            "assistant's, to be learnt"
        )
    return Example(read_id(record), source, turns)


def _read_message(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise DataError(f"{where} is {type(message).__name__}; it must be an object with role and content")
    _refuse_tools(message, where)
    by, said, roles = ("role", "content", _ROLES)
    if "from" in message and "role" not in message:
        by, said, roles = ("from", "value", _SHAREGPT_ROLES)
    role, content = message.get(by), message.get(said)
    if not isinstance(role, str) or role not in roles:
        raise DataError(f"{where}: {by} is {role!r}; it must be {' or '.join(roles)}")
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1) or (weight == 0 and roles[role] != "assistant"):
        raise DataError(
            f"{where}: weight is {weight!r}; it must be 1, or for an answer that is not to be learnt 0",
            "Leave the field out where a message has the ordinary weight.",
        )
    if not isinstance(content, str):
        raise DataError(f"{where}: {said} is {type(content).__name__}; it must be text")
    if not content.strip():
        raise DataError(f"{where}: {said} is blank; it must be text with something in it")
    text = check_encodable(content, f"{where}: {said}").strip()
    return Turn(roles[role], text, learnt=weight == 1)


def _refuse_tools(fields: Mapping[str, Any], where: str) -> None:
    for name in _TOOL_FIELDS:
        if fields.get(name):
            raise DataError(f"{where}: field `{name}` is set; conversations with tools are not read")


def _check_order(turns: tuple[Turn, ...], where: str) -> None:
    begins = 1 if turns[0].role == "system" else 0
    for place, turn in enumerate(turns[begins:], start=begins):
        wanted = "assistant" if (place - begins) % 2 else "user"
        if turn.role != wanted:
            raise DataError(
                f"{where}[{place}] is the {turn.role}'s where the {wanted}'s must stand: one system "
                "message or none, then user and assistant in turn"
            )

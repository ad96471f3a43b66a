"""Conversations on disk: whole, private, and never at the cost of others."""

from __future__ import annotations

import json
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parrots import make_reply, make_session

from biomedllama_cli.chat.conversation import Conversation, Exchange, Passage, Reply
from biomedllama_cli.chat.transcript import (
    FILE_LIMIT,
    LINE_LIMIT,
    check_transcript,
    load_conversation,
    save_conversation,
)
from biomedllama_cli.chat.transcript_facts import TranscriptFacts, collect_facts
from biomedllama_cli.errors import DataError, OutputError

PASSAGE = Passage(
    "Water wets \u2028 what it touches.",
    "pmcid:PMC12.1",
    pmid=12,
    pmcid="PMC12",
    doi="10.1/x",
    title="On wetness — a “study”",
    licence="CC BY",
    year=1999,
    flags=("retracted",),
    source="pmc",
    score=12.345678901234567,
)
WHOLE = Conversation(
    "Be brief.",
    (
        Exchange(
            "Is water wet?",
            "[1] Water wets what it touches.\n\nIs water wet?",
            Reply("Yes [1].\x1b[2J😀", "end", 30, 4, 5, 2, 0.25, 1.75),
            Reply("No.", "repetition", 31, 0, 2, 0, 0.1, 0.3),
            (PASSAGE, Passage("Bare.", "blake2b:ab")),
            (1 << 63) - 1,
            (
                ("temperature", 0.7),
                ("stop", ("###", "\n")),
                ("repetition_guard", True),
                ("max_new_tokens", 64),
            ),
        ),
        Exchange("Why?", "Why?", make_reply("", "interrupted"), noise_seed=7),
        Exchange("Why not?", "Why not?", make_reply("Because it", "interrupted"), make_reply(" \n")),
    ),
)
FACTS = TranscriptFacts(
    "c0ffee",
    "2026-11-23T12:00:00+00:00",
    {"source": "some/model", "revision": None, "weights_sha256": "ab" * 32, "dtype": "fp32", "parameters": 7},
    {"source": "other"},
    {"reply": {"temperature": 0.7, "stop": ["###"]}, "style": {"system": "Be brief."}},
    3,
    "corpus identity",
    {"python": "3.11"},
)


def talk(*texts: str) -> Conversation:
    """Return a conversation of questions, each answered by itself in capitals."""
    return Conversation("", tuple(Exchange(text, text, make_reply(text.upper())) for text in texts))


def named(name: str) -> TranscriptFacts:
    """Return facts of a conversation of this id."""
    return replace(FACTS, id=name)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "talks.jsonl"
    save_conversation(path, WHOLE, FACTS)
    assert load_conversation(path) == (WHOLE, FACTS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_conversation_replaces_its_line_and_touches_no_other(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    foreign = '{"messages":[{"role":"user","content":"é"}],  "id": "a"}\r\n\n'
    path.write_text(foreign, newline="")
    for name in ("a", "b", "c"):
        save_conversation(path, talk(name), named(name))
    before = path.read_bytes().split(b"\n")
    save_conversation(path, talk("b", "more"), named("b"))
    after = path.read_bytes().split(b"\n")
    assert path.read_bytes().startswith(foreign.encode())  # `a` of elsewhere is not our `a`
    assert [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [3]
    assert json.loads(after[3])["messages"][2]["content"] == "more"
    assert load_conversation(path) == (talk("c"), named("c"))


def test_a_file_without_an_end_of_its_last_line_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"messages": []}')
    save_conversation(path, talk("a"), FACTS)
    assert path.read_text().startswith('{"messages": []}\n{"')
    save_conversation(path, talk("b"), FACTS)
    assert len(path.read_text().splitlines()) == 2


def test_many_writers_lose_no_conversation(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: save_conversation(path, talk(name), named(name)), map(str, range(24))))
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == sorted(
        map(str, range(24))
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            b'{"messages": []}\n{"messages": [{"role',
            r":2 is no JSON \(Unterminated string.*, column 16\): torn",
        ),
        (b'{"messages": [' + b"1" * 5000 + b"]}\n", ":1 cannot be read: Exceeds the limit"),
        (b"question,answer\n", r":1 is no JSON"),
        (b'{"question": "wet?"}\n', r":1 is no conversation"),
        (b'[{"messages": []}]\n', r":1 is no conversation"),
        (b'{"messages": []}\n\xff\xfe\n', r":2 is no UTF-8 text"),
        (b"\x00\x01\x02", r":1 is no JSON"),
        (b"[" * 100_000, r":1 is nested too deeply"),
    ],
)
def test_a_file_that_is_no_transcript_is_never_overwritten(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=problem):
        save_conversation(path, talk("a"), FACTS)
    with pytest.raises(OutputError, match=problem):
        check_transcript(path)
    with pytest.raises(DataError, match=problem):
        load_conversation(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (FILE_LIMIT + 1, "has 1,073,741,825 bytes, more than 1,073,741,824"),
        (LINE_LIMIT + 1, "talks.jsonl:1 is no conversation: it is longer than 67,108,864 bytes"),
        (9, "talks.jsonl:1 is no JSON: it holds a zero byte"),
    ],
)
def test_what_is_far_from_a_transcript_is_not_read_whole(tmp_path: Path, size: int, problem: str) -> None:
    path = tmp_path / "talks.jsonl"
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=problem):
        load_conversation(path)
    with pytest.raises(OutputError, match=problem):
        save_conversation(path, talk("a"), FACTS)
    assert path.stat().st_size == size


def test_a_long_transcript_is_never_in_memory_at_once(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    long = json.dumps({"messages": [{"role": "user", "content": "a" * (1 << 20)}]}) + "\n"
    path.write_text(long * 40)
    save_conversation(path, talk("a"), named("a"))
    tracemalloc.start()
    try:
        save_conversation(path, talk("b"), named("a"))
        assert load_conversation(path) == (talk("b"), named("a"))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert path.read_text().startswith(long * 40 + "{")


def test_a_file_is_checked_before_there_is_a_conversation(tmp_path: Path) -> None:
    check_transcript(tmp_path / "none" / "yet.jsonl")
    assert not (tmp_path / "none").exists()
    save_conversation(tmp_path / "talks.jsonl", WHOLE, FACTS)
    check_transcript(tmp_path / "talks.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "talks.jsonl")
    with pytest.raises(OutputError, match="is a symbolic link"):
        check_transcript(tmp_path / "link")


def test_a_conversation_without_any_reply_is_not_written_and_an_older_state_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    silent = Conversation("Be brief.", (Exchange("Why?", "Why?", make_reply("", "interrupted")),))
    assert not save_conversation(path, silent, named("a"))
    assert not path.exists()
    for name in ("a", "b"):
        assert save_conversation(path, talk(name), named(name))
    assert not save_conversation(path, silent, named("a"))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["b"]


def test_half_of_a_character_in_a_files_name_does_not_lose_the_conversation(tmp_path: Path) -> None:
    facts = replace(FACTS, model={"source": "caf\udce9"})
    save_conversation(tmp_path / "talks.jsonl", talk("a"), facts)
    assert load_conversation(tmp_path / "talks.jsonl")[1].model == {"source": "caf?"}


PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is water wet?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_messages_of_elsewhere_are_read(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(mark + json.dumps({"id": 7, "messages": PLAIN}).encode() + b"\n \n")
    conversation, facts = load_conversation(path)
    assert facts == TranscriptFacts()
    assert conversation.turns() == [(each["role"], each["content"]) for each in PLAIN[:3]]
    assert [each.question for each in conversation.exchanges] == ["Is water wet?", "Why?"]
    assert conversation.exchanges[1].reply.text == ""  # so that it can be asked again
    session = make_session()
    session.resume(conversation, conversation_id=facts.id)
    session.finish(session.retry(), [make_reply("Since it wets.")])
    save_conversation(path, session.conversation, collect_facts(session, {}))
    first, _, second = path.read_bytes().removeprefix(mark).splitlines()
    assert json.loads(first)["messages"] == PLAIN
    assert json.loads(second)["messages"] == [*PLAIN, {"role": "assistant", "content": "Since it wets."}]


def read_saved(tmp_path: Path) -> dict[str, Any]:
    """Return the fields of a saved conversation."""
    save_conversation(tmp_path / "saved.jsonl", WHOLE, FACTS)
    fields: dict[str, Any] = json.loads((tmp_path / "saved.jsonl").read_text())
    return fields


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    fields = read_saved(tmp_path)
    fields["mood"] = "calm"
    fields["messages"][0]["weight"] = 1
    fields["exchanges"][0]["mood"] = fields["exchanges"][0]["reply"]["mood"] = "calm"
    fields["exchanges"][0]["sources"][0]["pages"] = [1]
    (tmp_path / "talks.jsonl").write_text(json.dumps(fields))
    assert load_conversation(tmp_path / "talks.jsonl") == (WHOLE, FACTS)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("seed",), "3", "seed is '3', but must be a whole number"),
        (("id",), 3, "id is 3, but must be text"),
        (("schema_version",), 2, "schema_version is 2, but must be one of 1"),
        (
            ("exchanges", 0, "noise_seed"),
            1.5,
            r"exchanges\[0\]\.noise_seed is 1\.5, but must be a whole number",
        ),
        (
            ("exchanges", 0, "reply", "finish"),
            "bored",
            r"exchanges\[0\]\.reply\.finish is 'bored', but must be one of",
        ),
        (
            ("exchanges", 0, "reply", "seconds"),
            "1",
            r"exchanges\[0\]\.reply\.seconds is '1', but must be a number",
        ),
        (
            ("exchanges", 0, "sources", 0, "pmid"),
            "12",
            r"sources\[0\]\.pmid is '12', but must be a whole number",
        ),
        (("exchanges", 0, "sources", 0, "text"), None, r"sources\[0\]\.text is none, but must be text"),
        (("exchanges", 0, "question"), ..., r"exchanges\[0\]\.question is missing"),
        (("created",), ..., r"created is missing"),
        (("exchanges", 2), ..., r"`messages` hold 2 questions with a reply and `exchanges` 1"),
        (("messages", 2), ..., r"messages\[2\] is the user's where the assistant's must stand"),
        (("messages", 0, "role"), "tool", r"messages\[0\]\.role is 'tool', but must be one of"),
        (("messages", 1, "content"), ["x"], r"messages\[1\]\.content is \['x'\], but must be text"),
        (("messages", 1, "content"), " ", r"messages\[1\] is the user's and says nothing"),
        (("messages", 4, "content"), "\ud800", "Invalid JSON: unexpected end of hex escape"),
    ],
)
def test_what_is_wrong_is_told_by_file_line_and_field(
    tmp_path: Path, place: tuple[str | int, ...], value: object, problem: str
) -> None:
    fields = holder = read_saved(tmp_path)
    for part in place[:-1]:
        holder = holder[part]  # type: ignore[index]
    if value is ...:
        del holder[place[-1]]  # type: ignore[arg-type]
    else:
        holder[place[-1]] = value  # type: ignore[index]
    (tmp_path / "saved.jsonl").write_text(json.dumps(fields) + "\n")
    with pytest.raises(DataError, match=rf"saved\.jsonl:1(:| cannot be read:) .*{problem}"):
        load_conversation(tmp_path / "saved.jsonl")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.jsonl", "there is no such file"),
        ("blank.jsonl", "it is empty"),
        ("folder.jsonl", "Is a directory"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "blank.jsonl").write_text(" \n\n")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=rf"{name}.*{problem}"):
        load_conversation(tmp_path / name)

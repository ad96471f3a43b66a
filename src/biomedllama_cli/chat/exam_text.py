"""A multiple-choice question as people type it, paste it, or keep it in a file.

- one line: `Question? | option | option | ...`;
- lines: the question, then `A. option` (also `A)` and `(A)`) or `- option`, one per line; before the question there may
  be `Context: ...` (then the question is the line after `Question:`, or the last one before the options), after the
  options `Answer: B`;
- `FILE.jsonl:7`: the seventh question of a file in the schema of one's own questions (`tasks.own_questions`), whose
  answer may be missing; `medqa=FILE:7`: of a file in a benchmark's own schema; `sample-questions:7`.

Options `yes`, `no` and `maybe` (or `yes` and `no`), also written `yes/no/maybe`, are the labels of PubMedQA whatever
their case, and are asked like these. Line breaks inside the question and the context stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from biomedllama_cli.chat.exam_file import find_place, read_place
from biomedllama_cli.chat.exam_question import SYNTAX, ExamQuestion, find_remarks
from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.audit import fold_text
from biomedllama_cli.tasks.options import LETTERS
from biomedllama_cli.tasks.prompts import LABEL_SETS
from biomedllama_cli.tasks.records import check_encodable

# Of lines without the spaces around them.
_LETTERED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[.)])(?:\s+(.*))?$")
_DASHED = re.compile(r"[-*•–](?:\s+(.*))?$")
_ANSWER = re.compile(r"answer:\s*(.*)$", re.IGNORECASE)
_CONTEXT = re.compile(r"\s*(?:context|abstract):\s*", re.IGNORECASE)
_QUESTION = re.compile(r"\s*(?:question|q):\s*", re.IGNORECASE)
_ANSWER_LETTER = re.compile(r"\(?([A-Za-z])[.):]?(?:\s+(.*))?$")


def parse_exam(text: str) -> ExamQuestion:
    """Return the question that a text holds or names.

    Raises:
        DataError: it holds none, its options are not 2 to 26 or one is empty, their letters are not A, B, C and on, its
            answer names no option, or the file it names has no such question.
    """
    text = check_encodable(text, "the question").replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise DataError("there is no question", SYNTAX)
    if "\n" not in text and "|" not in text:
        place = find_place(text)
        if place is not None:
            return read_place(*place)
    question = _parse_lines(text.split("\n"))
    return replace(question, remarks=find_remarks(question))


def _parse_lines(lines: list[str]) -> ExamQuestion:
    answer = _ANSWER.match(lines[-1].strip())
    if answer is not None:
        lines = lines[:-1]
    start = next((number for number, line in enumerate(lines) if _QUESTION.match(line)), 0)
    head, options = _split_options(lines, start)
    if not options and "|" in "".join(lines):
        return _parse_pieces("\n".join(lines), answer)
    context, question = _split_context(head, start)
    return _finish(context, question, options, answer)


def _parse_pieces(text: str, answer: re.Match[str] | None) -> ExamQuestion:
    pieces = [piece.strip() for piece in text.split("|")]
    last = _ANSWER.match(pieces[-1])
    if last is not None:
        pieces, answer = pieces[:-1], last
    context = None
    heading = _CONTEXT.match(pieces[0])
    if heading is not None and len(pieces) > 1:
        context, pieces = pieces[0][heading.end() :], pieces[1:]
    marked = [_LETTERED.match(piece) for piece in pieces[1:]]
    # A letter is taken off only where all options have theirs: the option `E. coli` begins like one.
    letters = [(found[1] or found[2]).upper() for found in marked if found is not None]
    if letters and letters == list(LETTERS[: len(marked)]):
        options = [found[3] or "" for found in marked if found is not None]
    else:
        options = pieces[1:]
    return _finish(context, _QUESTION.sub("", pieces[0], count=1), options, answer)


def _split_options(lines: Sequence[str], start: int) -> tuple[list[str], list[str]]:
    """Return the lines up to the options and the options' texts; the first line of a question is never an option."""
    for number in range(start + 1, len(lines)):
        found = _LETTERED.match(lines[number].strip())
        if found is not None and (found[1] or found[2]).upper() == "A":
            return list(lines[:number]), _read_lettered(lines[number:])
    for number in range(start + 1, len(lines)):
        if _DASHED.match(lines[number].strip()):
            return list(lines[:number]), _read_dashed(lines[number:])
    if len(lines) > 1 and _spell_labels(lines[-1]):
        return list(lines[:-1]), [lines[-1].strip()]
    return list(lines), []


def _read_lettered(lines: Sequence[str]) -> list[str]:
    options: list[str] = []
    for line in lines:
        found = _LETTERED.match(line.strip())
        if found is None:
            _continue(options, line)
            continue
        letter = (found[1] or found[2]).upper()
        if letter in LETTERS[: len(options)]:
            raise DataError(f"option {letter} is there twice; every option has a letter of its own", SYNTAX)
        if letter != LETTERS[len(options)]:
            before = LETTERS[len(options) - 1]
            raise DataError(
                f"option {letter} stands after {before}; the letters must be A, B, C and on", SYNTAX
            )
        options.append(found[3] or "")
    return options


def _read_dashed(lines: Sequence[str]) -> list[str]:
    options: list[str] = []
    for line in lines:
        found = _DASHED.match(line.strip())
        if found is None:
            _continue(options, line)
        else:
            options.append(found[1] or "")
    return options


def _continue(options: list[str], line: str) -> None:
    """Add a line without a mark to the option it wraps from."""
    if line.strip():
        options[-1] = f"{options[-1]} {line.strip()}".strip()


def _split_context(head: Sequence[str], start: int) -> tuple[str | None, str]:
    """Return the context and the question of the lines before the options."""
    text = "\n".join(head)
    heading = _CONTEXT.match(text)
    if heading is None:
        return None, _QUESTION.sub("", text, count=1) if start == 0 else text
    if start:
        before, asked = head[:start], head[start:]
    else:
        lines = list(head)
        while lines and not lines[-1].strip():
            lines.pop()
        before, asked = lines[:-1], lines[-1:]
    if not before:
        raise DataError(
            "there is a context and no question",
            "Write the question on a line of its own after the context, best as `Question: ...`.",
        )
    return "\n".join(before)[heading.end() :].strip(), _QUESTION.sub("", "\n".join(asked), count=1)


def _finish(
    context: str | None, question: str, options: Sequence[str], answer: re.Match[str] | None
) -> ExamQuestion:
    """Return a question whose parts fit."""
    if not question.strip():
        raise DataError("the question is empty", SYNTAX)
    if context is not None and not context.strip():
        raise DataError("the context is empty; it must be text", "Leave `Context:` out where there is none.")
    texts = tuple(option.strip() for option in options)
    if len(texts) == 1:
        texts = _spell_labels(texts[0]) or texts
    labels = tuple(text.casefold() for text in texts)
    texts = labels if labels in LABEL_SETS else texts
    _check_options(texts)
    answer_index = None if answer is None or not answer[1] else _read_answer(answer[1], texts)
    return ExamQuestion(question.strip(), texts, answer_index, context)


def _spell_labels(text: str) -> tuple[str, ...] | None:
    """Return the labels that a text like `Yes / no` spells, or None.

    >>> _spell_labels("Yes / No / Maybe"), _spell_labels("on/off")
    (('yes', 'no', 'maybe'), None)
    """
    labels = tuple(part.strip().casefold() for part in text.split("/"))
    return labels if labels in LABEL_SETS else None


def _check_options(options: Sequence[str]) -> None:
    count = len(options)
    if not 2 <= count <= len(LETTERS):
        has = "no options" if not count else "1 option" if count == 1 else f"{count} options"
        raise DataError(f"the question has {has}; it must have 2 to {len(LETTERS)}", SYNTAX)
    for letter, option in zip(LETTERS, options, strict=False):
        if not option:
            raise DataError(f"option {letter} is empty; every option must be text", SYNTAX)


def _read_answer(text: str, options: Sequence[str]) -> int:
    """Return the option that an answer names: by its letter, its text, or both."""
    letters = LETTERS[: len(options)]
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    equal = [index for index, option in enumerate(options) if fold_text(option) == fold_text(text)]
    if len(equal) == 1:
        return equal[0]
    found = _ANSWER_LETTER.match(text)
    if found is not None and found[1].upper() in letters:
        index = letters.index(found[1].upper())
        if not found[2] or fold_text(found[2]) == fold_text(options[index]):
            return index
    raise DataError(
        f"the answer is {text[:60]!r}; it must be a letter of A to {letters[-1]} or the text of one option",
        "Leave it out where it is not known.",
    )

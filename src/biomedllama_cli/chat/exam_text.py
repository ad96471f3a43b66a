"""A multiple-choice question as people type it, paste it, or keep it in a file.

- one line: `Question? | option | option | ...`;
- lines: the question, then `A. option` (also `A)` and `(A)`) or `- option`, one per line; before the question there may
  be `Context: ...` (then the question is the line after `Question:`, or the last one before the options), after the
  options `Answer: B` (also `Correct answer: B` and `Answer B`). What stands below the answer is left out, and so is
  what begins with `Explanation:`, `Source:` and the like; a line right below an option goes on with it;
- `FILE.jsonl:7`: the seventh question of a file in the schema of one's own questions (`tasks.own_questions`), whose
  answer may be missing; `medqa=FILE:7`: of a file in a benchmark's own schema; `sample-questions:7`.

Options `yes`, `no` and `maybe` (or `yes` and `no`), also written `yes/no/maybe`, are the labels of PubMedQA whatever
their case, and are asked like these. Line breaks inside the question and the context stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from biomedllama_cli.chat.exam_file import find_place, read_place
from biomedllama_cli.chat.exam_question import SYNTAX, ExamQuestion, find_remarks
from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.audit import fold_text
from biomedllama_cli.tasks.options import LETTERS
from biomedllama_cli.tasks.prompts import LABEL_SETS
from biomedllama_cli.tasks.records import check_encodable

# Of lines without the spaces around them.
_LETTERED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[.)])(?:\s+(?P<text>.*))?$")
_DASHED = re.compile(r"[-*•–](?:\s+(?P<text>.*))?$")
_NAMED_ANSWER = r"(?:the\s+)?(?:(?:correct|right)\s+)?(?:answer|ans\.?)(?:\s+is)?"
_ANSWER = re.compile(rf"{_NAMED_ANSWER}\s*:\s*(.*)$", re.IGNORECASE)
# Without a colon only a letter is an answer: an option may go on with `answer to it was wrong`.
_BARE_ANSWER = re.compile(rf"{_NAMED_ANSWER}\s+(\([A-Z]\)|[A-Z](?:[.)](?:\s.*)?)?)$", re.IGNORECASE)
_NOTE = re.compile(
    r"(?:explanation|rationale|reasoning|discussion|comment|notes?|hint|sources?|references?|citation|topic|subject"
    r"|chapter|category|difficulty|tags?|keywords?):",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"\A\s*(?:context|abstract):\s*", re.IGNORECASE)
_QUESTION = re.compile(r"\A\s*(?:question|q):\s*", re.IGNORECASE)
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
        found = _read_named(text)
        if found is not None:
            return found
    question = _parse_lines(text.split("\n"))
    return replace(question, remarks=find_remarks(question))


def _read_named(text: str) -> ExamQuestion | None:
    """Return the question of a file that a text names; None where it names none."""
    try:
        place = find_place(text)
        return None if place is None else read_place(*place)
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, nobody's home, a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the question's file cannot be read: {reason}", SYNTAX) from error


def _parse_lines(lines: list[str]) -> ExamQuestion:
    start = _find_question(lines)
    # An answer's explanation may go through the options once more.
    answers = (number for number in range(start + 1, len(lines)) if _ANSWER.match(lines[number].strip()))
    end = next(answers, len(lines))
    first = _find_options(lines[:end], start)
    if first is None and "|" in "".join(lines[:end]):
        return _parse_pieces(lines, end)
    if first is None:
        first = _find_options(lines, start) or len(lines)
    count, answer = _split_below(lines[first:])
    options = _read_options(lines[first : first + count])
    _refuse_options(lines[first + count :], len(options))
    context, question = _split_context(lines[:first], start)
    return _finish(context, question, options, answer)


def _parse_pieces(lines: Sequence[str], end: int) -> ExamQuestion:
    last = max(number for number, line in enumerate(lines[:end]) if "|" in line)
    count, answer = _split_below(lines[last:])
    _refuse_apart(lines[last : last + count], None)
    pieces = [piece.strip() for piece in "\n".join(lines[: last + count]).split("|")]
    found = _ANSWER.match(pieces[-1])
    if found is not None:
        pieces, answer = pieces[:-1], found[1]
    context, question, pieces = _split_pieces(pieces)
    marked = [_LETTERED.match(piece) for piece in pieces]
    # A letter is taken off only where all options have theirs: the option `E. coli` begins like one.
    letters = [(found[1] or found[2]).upper() for found in marked if found is not None]
    if letters and letters == list(LETTERS[: len(marked)]):
        options = [found["text"] or "" for found in marked if found is not None]
    else:
        options = pieces
    return _finish(context, question, options, answer)


def _split_pieces(pieces: Sequence[str]) -> tuple[str | None, str, list[str]]:
    r"""Return the context, the question and the other pieces; a context may be a piece, or begin that of the question.

    >>> _split_pieces(["Context: a", "b?", "c", "d"]) == _split_pieces(["Context: a\nb?", "c", "d"])
    True
    """
    head = pieces[0].split("\n")
    start = _find_question(head)
    heading = _CONTEXT.match(pieces[0])
    if heading is not None and len(pieces) > 1 and not start:
        follows = pieces[1]
        asks = _QUESTION.match(follows) or (follows.endswith("?") and not head[-1].endswith("?"))
        if asks or len(head) == 1:
            question = _QUESTION.sub("", follows)
            return pieces[0][heading.end() :], question, list(pieces[2:])
    return *_split_context(head, start), list(pieces[1:])


def _find_question(lines: Sequence[str]) -> int:
    """Return the number of the line that begins with `Question:`, or 0."""
    return next((number for number, line in enumerate(lines) if _QUESTION.match(line)), 0)


def _find_options(lines: Sequence[str], start: int) -> int | None:
    """Return the number of the first option's line, if any; the first line of a question is never an option."""
    numbers = range(start + 1, len(lines))
    for number in numbers:
        found = _LETTERED.match(lines[number].strip())
        if found is not None and (found[1] or found[2]).upper() == "A":
            return number
    for number in numbers:
        if _DASHED.match(lines[number].strip()):
            return number
    return next((number for number in reversed(numbers) if _spell_labels(lines[number])), None)


def _split_below(lines: Sequence[str]) -> tuple[int, str | None]:
    """Return how many lines belong to the options, and the text of the answer below them, if there is one.

    Args:
        lines: from the first that holds options on.
    """
    headed, answers, ends = [], [], []
    for number, line in enumerate(lines[1:], 1):
        found = _ANSWER.match(line.strip())
        bare = _BARE_ANSWER.match(line.strip())
        headed += [found[1]] if found else []
        answers += [match[1] for match in (found, bare) if match and match[1]]
        ends += [number] if found or bare or _NOTE.match(line.strip()) else []
    if len(set(headed)) > 1:
        raise DataError(
            "there are two answers, as if these were two questions", "Ask one question at a time."
        )
    return min(ends, default=len(lines)), next(iter(answers), None)


def _read_options(lines: Sequence[str]) -> list[str]:
    """Return the options' texts; lines without a mark go on with the option right above them."""
    mark = next((mark for mark in (_LETTERED, _DASHED) if lines and mark.match(lines[0].strip())), None)
    _refuse_apart(lines if mark else ["", *lines[1:]], mark)  # labels have one line
    options: list[str] = []
    for line in lines if mark else ():
        found = mark.match(line.strip()) if mark else None
        if found is None:
            options[-1] = f"{options[-1]} {line.strip()}".strip()
            continue
        if mark is _LETTERED:
            _check_letter((found[1] or found[2]).upper(), len(options))
        options.append(found["text"] or "")
    return options if mark else [line.strip() for line in lines[:1]]


def _refuse_apart(lines: Sequence[str], mark: re.Pattern[str] | None) -> None:
    """Refuse text that stands below options, and not right below one."""
    for above, line in pairwise(line.strip() for line in lines):
        if line and not above and (mark is None or mark.match(line) is None):
            raise DataError(
                f"below the options stands {line[:60]!r}, which is none of them",
                "Leave it out; a long option goes on in the line right below it.",
            )


def _refuse_options(lines: Sequence[str], count: int) -> None:
    """Refuse what would be the next of `count` options, below an answer or a note."""
    for line in lines:
        found = _LETTERED.match(line.strip())
        if found is not None and (found[1] or found[2]).upper() in LETTERS[count : count + 1]:
            raise DataError(
                f"option {LETTERS[count]} stands below {lines[0].strip()[:60]!r}",
                "Put all options together, and below them what belongs to none.",
            )


def _check_letter(letter: str, count: int) -> None:
    """Check the letter of an option that stands below `count` others."""
    if letter in LETTERS[:count]:
        raise DataError(f"option {letter} is there twice; every option has a letter of its own", SYNTAX)
    if letter != LETTERS[count]:
        before = LETTERS[count - 1]
        raise DataError(f"option {letter} stands after {before}; the letters must be A, B, C and on", SYNTAX)


def _split_context(head: Sequence[str], start: int) -> tuple[str | None, str]:
    """Return the context and the question of the lines before the options."""
    text = "\n".join(head)
    heading = _CONTEXT.match(text)
    if heading is None:
        return None, _QUESTION.sub("", text) if start == 0 else text
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
    return "\n".join(before)[heading.end() :].strip(), _QUESTION.sub("", "\n".join(asked))


def _finish(context: str | None, question: str, options: Sequence[str], answer: str | None) -> ExamQuestion:
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
    answer_index = _read_answer(answer, texts) if answer else None
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

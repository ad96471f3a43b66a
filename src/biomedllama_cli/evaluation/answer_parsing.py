r"""The option a generated text answers with: the original's exact match, and a parser that admits what it cannot read.

The parser looks for evidence in this order and stops at the first kind it finds; where that kind names two options,
the answer is unparsed:

1. a statement (`the answer is (C)`, `Answer: B`, `\boxed{D}`, `option A is correct`); the last one counts;
2. the beginning or the last line of the text, where it is an option or a letter;
3. a conclusion (`therefore C`, `the most likely diagnosis is ...`); the last one counts;
4. the only option that is named at all, and not denied.

What follows a new question is not read: models without an end of their own go on asking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from biomedllama_cli.evaluation.answer_mentions import OptionTexts, normalize, prepare_options
from biomedllama_cli.evaluation.answer_reading import (
    Reading,
    find_letters,
    is_denied,
    is_rest_empty,
    read_object,
    read_subject,
)
from biomedllama_cli.tasks.question import Question

_LONGEST_SENTENCE = 300
"""How far behind a statement's opening its option is looked for (in characters)."""

_MOST = r"most\s+(?:likely|appropriate|probable|suitable|accurate)"
_QUALITY = rf"(?:final|correct|best|right|my|single|only|suitable|{_MOST})"
_WHERE = r"(?:\s+(?:here|choice|option|(?:to|for|among|from|of|in)\s+[^.\n:]{1,40}?))?"
_BE = r"(?:\b(?:is|would\s+be|should\s+be|must\s+be|will\s+be)\b|:|=|->|>|\s-\s)"
_STATEMENT = re.compile(
    rf"(?<![\w-])(?:(?:{_QUALITY}\s+)*ans(?:wers?|\.)?|(?:the|{_QUALITY})\s+(?:option|choice|response)){_WHERE}[\s*_]*{_BE}"
    r"|\\boxed\s*\{"
    r"|\b(?:i|we)(?:'d|'ll|\s+would|\s+will|\s+shall)?\s+(?:therefore\s+|thus\s+)?"
    r"(?:choose|chose|select|pick|go\s+with|opt\s+for|answer)\b",
    re.IGNORECASE,
)
_OTHER_THAN_THE_ANSWER = re.compile(
    r"(?:\b(?:incorrect|wrong|worst|other|another|not\s+(?:the|an?)|least\s+likely)|n't\s+(?:the|an?))\s+$",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"\b(?:is|was|would\s+be|must\s+be)\s+(?:(?:the|therefore|thus|clearly|definitely|indeed|my|our|likely|probably|hence)\s+)*"
    rf"(?:correct\b|right\b|true\b|(?:{_QUALITY}\s+)*(?:answer|option|choice|response)\b)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|so|consequently|in\s+(?:conclusion|summary)|conclusion)\b[,:]?(?:\s+it(?:'s|\s+is|\s+must\s+be))?"
    r"|\b(?:most\s+(?:likely|appropriate|probable|suitable|common)|best|correct)\s+(?:[\w-]+\s+){0,6}?(?:is\b|would\s+be\b|:)",
    re.IGNORECASE,
)
_IS_BEST = re.compile(
    r"\b(?:is|would\s+be)\s+(?:the\s+)?(?:most\s+(?:likely|appropriate|probable|suitable)|best)\b",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(
    r"\n[\s*#]*(?:(?:question|options|abstract|context|instruction|input)\b\s*\d*\s*[:.\n]|Q\d*\s*[:.]"
    r"|the following is a )",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\W*\?")
_ASKED_LATER = re.compile(r"[^.\n]{0,40}\?")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(]|\s*$)|\n")


def trim_answer(text: str) -> str:
    """Return an answer as the original trims it: both sides of the comparison, always alike.

    >>> trim_answer("(A) Aspirin"), trim_answer("A) Aspirin "), trim_answer(" (B) Iron (oral)")
    ('A) Aspirin', 'A) Aspirin', 'B) Iron (oral')
    """
    return text.lstrip("( ").strip(" )")


def trimmed_match(prediction: str, gold: str) -> bool:
    r"""Tell whether the original counts a prediction as right: equal to the gold answer once both are trimmed.

    >>> trimmed_match("A) Aspirin", "(A) Aspirin"), trimmed_match("A) Aspirin\n", "(A) Aspirin")
    (True, False)
    """
    return trim_answer(prediction) == trim_answer(gold)


def parse_answer(text: str, question: Question) -> int | None:
    r"""Return the index of the option a text answers with, or None where it names none, or more than one.

    Letters count from A in the question's own order; where the options are yes, no and maybe there are none.

    >>> question = Question("1", "Which one thins the blood?", ("Iron", "Aspirin"), 1)
    >>> parse_answer("B) Aspirin", question), parse_answer("I think A is wrong. The answer is aspirin.", question)
    (1, 1)
    >>> parse_answer("A or B", question), parse_answer("A patient came.", question)
    (None, None)
    """
    return sole_option(find_named_options(text, question))


def sole_option(named: frozenset[int]) -> int | None:
    """Return the one option that is named, or None where none is, or several are.

    >>> sole_option(frozenset({2})), sole_option(frozenset({0, 2})), sole_option(frozenset())
    (2, None, None)
    """
    return min(named) if len(named) == 1 else None


def find_named_options(text: str, question: Question) -> frozenset[int]:
    r"""Return the indices of all options that the strongest evidence in a text names: several are no answer.

    >>> question = Question("1", "Which one thins the blood?", ("Iron", "Aspirin"), 1)
    >>> sorted(find_named_options("(A) Aspirin", question)), sorted(find_named_options("A patient came.", question))
    ([0, 1], [])
    """
    texts = prepare_options(question.options)
    written = _without_next_question(normalize(text))
    if len(equal := texts.find_equal(written)) == 1:
        return equal
    for evidence in (_find_statement, _find_edges, _find_conclusion, _find_only_mention):
        found = evidence(written, texts)
        if found is not None:
            return found
    return frozenset()


def _without_next_question(text: str) -> str:
    for match in _NEXT_QUESTION.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _find_statement(text: str, texts: OptionTexts) -> frozenset[int] | None:
    readings = [
        *_iter_objects(text, texts, _STATEMENT, searches=True),
        *_iter_subjects(text, texts, _IS_RIGHT),
    ]
    return _last(readings)


def _find_conclusion(text: str, texts: OptionTexts) -> frozenset[int] | None:
    readings = [
        *_iter_objects(text, texts, _CONCLUSION, searches=False),
        *_iter_subjects(text, texts, _IS_BEST),
    ]
    return _last(readings)


def _last(readings: Sequence[Reading]) -> frozenset[int] | None:
    return max(readings, key=lambda reading: reading.start).options if readings else None


def _iter_objects(
    text: str, texts: OptionTexts, cue: re.Pattern[str], *, searches: bool
) -> Iterator[Reading]:
    """Yield what stands behind each cue; with `searches`, also the only option named in its sentence."""
    for match in cue.finditer(text):
        if _OTHER_THAN_THE_ANSWER.search(text[max(0, match.start() - 40) : match.start()]):
            continue
        reading = read_object(text, match.end(), texts)
        if reading is None and searches:
            end = _SENTENCE_END.search(text, match.end() + 1)
            sentence = text[match.end() : end.start() if end else len(text)][:_LONGEST_SENTENCE]
            named = _agree(_iter_named(sentence, texts))
            if named is not None and len(named) == 1:
                reading = Reading(named, match.end(), match.end() + len(sentence))
        if reading is not None and not _ASKED.match(text, reading.end):
            yield reading


def _iter_subjects(text: str, texts: OptionTexts, predicate: re.Pattern[str]) -> Iterator[Reading]:
    for match in predicate.finditer(text):
        reading = read_subject(text, match.start(), texts)
        if reading is not None and not _ASKED_LATER.match(text, match.end()):
            yield reading


def _find_edges(text: str, texts: OptionTexts) -> frozenset[int] | None:
    """Read the beginning and the last line; lines that list several options are no answer."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    readings = [read_object(line, 0, texts, leads=True) for line in lines]
    found: list[frozenset[int]] = []
    for place, neighbour in ((0, 1), (len(lines) - 1, len(lines) - 2)):
        reading = readings[place]
        if reading is None or (place > 0 and not is_rest_empty(lines[place], reading.end)):
            continue
        beside = readings[neighbour] if 0 <= neighbour < len(lines) else None
        found.append(reading.options | (beside.options if beside is not None else frozenset()))
    return frozenset().union(*found) if found else None


def _find_only_mention(text: str, texts: OptionTexts) -> frozenset[int] | None:
    return _agree(_iter_named(text, texts))


def _iter_named(text: str, texts: OptionTexts) -> Iterator[frozenset[int]]:
    for mention in (*texts.find_mentions(text), *find_letters(text, texts)):
        if not (is_denied(text, mention.start, mention.end, texts) or _ASKED.match(text, mention.end)):
            yield mention.options


def _agree(named: Iterable[frozenset[int]]) -> frozenset[int] | None:
    """Return the options all mentions can mean; all that were named where they disagree; None for no mention."""
    sets = list(named)
    if not sets:
        return None
    return frozenset.intersection(*sets) or frozenset.union(*sets)

"""Reading a letter or an option's text at one place of a generated text."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from biomedllama_cli.evaluation.answer_mentions import GENERIC, Mention, OptionTexts, Word, find_words

_MARKUP = re.compile(r"(?:[\s*_`\"'$#>~:]|\\(?:text|textbf|mathrm|mathbf|boxed|bf|rm)\s*\{?|\\[(\[]|\{)*")
_FILLER = re.compile(
    r"(?:option|choice|letter|answer|the|that|therefore|thus|clearly|definitely|probably|most\s+likely|likely|indeed"
    r"|either|both|it\s+is|it's|to\s+be|as\s+follows|an?(?=\s+[a-z]))(?![\w'])[\s:]*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?P<open>[(\[{]?)[\s*_`$\"']*(?P<letter>[A-Ja-j])(?!\w|'\w|-\w)")
_CLOSERS = re.compile(r"[\s]*[)\]}]+[*_`$\"']*|[*_`$\"']+")
_SEPARATORS = re.compile(r"[ \t]*[.:=-]?[ \t*_`\"'(]*")
_CONNECTIVES = re.compile(
    r"\s+(?:because|since|as|due|is|would|which|based|given|and|or|but|not|rather|instead|for|in|here|with)\b"
)
_CLAUSE = re.compile(
    r"\s+(?:because|since|as|due|based|given|it|they|this|there|these|that|the|he|she|we|according)\b"
)
_OF_THESE = re.compile(
    r"\s+of\s+(?:the\s+)?(?:above|these|those|options|choices|following|listed)\b", re.IGNORECASE
)
_ENDS = re.compile(r"\s*(?:$|[.,;:!?)\]}*\"'`$/\\(<]|\n|- )")
_AND = re.compile(
    r"[)\]*_`\s]*(?:,?\s*\b(?:and/or|and|or|as\s+well\s+as)\b|[,/&+])\s*|[ \t]+(?=[(\[][A-J][)\]])"
)
_NEXT_CLAUSE = re.compile(r"\W*(?:is|are|was|would|can|could|does|should|has)\b")
_NOT = re.compile(r"\W*(?:\w+\s+)?(?:not|never|neither)\b", re.IGNORECASE)
_BUT = re.compile(
    r"\b(?:but(?:\s+rather)?|rather(?!\s+than)|instead(?!\s+of)|(?<=,\s)it(?:\s+is|'s))\b", re.IGNORECASE
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|except|exclud\w+|eliminat\w+|rul\w+\s+out|reject\w*|unlike|rather\s+than|instead\s+of"
    r"|incorrect|wrong)\b|n't\b)(?:\s+(?:option|choice|answer|the|be|likely|in|for|by|is|are|an?|correct)\b)*[\s:(\[\"'*]*$",
    re.IGNORECASE,
)
_GAP = r"(?:(?!\b(?:because|since|as|while|but|whereas|although|is|are|was|which|so)\b)[^.;\n]){0,80}?"
_DENIED_AFTER = re.compile(
    rf"{_GAP}(?:\b(?:is|are|was|were|would\s+be|can\s+be|could\s+be|seems?|has\s+been)\s+(?:\w+\s+){{0,2}}?"
    r"(?:not|incorrect|wrong|unlikely|ruled\s+out|excluded|false|inappropriate|contraindicated|less\s+likely|eliminated)\b"
    r"|\b(?:isn't|aren't|cannot|can't|doesn't|don't|wouldn't|does\s+not|do\s+not|would\s+not)\b)",
    re.IGNORECASE,
)
_STRONG_LETTER = re.compile(
    r"[(\[](?P<a>[A-J])[)\]]|\*\*(?P<b>[A-J])\*\*|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+[(\"'*]*(?P<c>[A-J])(?!\w|'\w|-\w)"
)
_SUBJECT_LETTER = re.compile(r"(?:^|[\s(\[*\"'])(?P<letter>[A-J])[)\]*\"'.,:\s]*$")
_JOINED_BEFORE = re.compile(r"\b(?:and|or|nor)\s+(?:option|choice)?[\s(\[*\"']*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at a place; several options where the text names several."""

    options: frozenset[int]
    start: int
    end: int


def read_object(text: str, at: int, texts: OptionTexts, *, leads: bool = False) -> Reading | None:
    """Return the options named from `at` on, after markup and small words; None where none is.

    Args:
        text: normalised.
        at: where to begin.
        texts: the question's options.
        leads: the text begins here, so that an option's text must end its clause and small words are not skipped.
    """
    words = find_words(text)
    reading = _read_after_fillers(text, at, texts, words, leads=leads)
    if reading is None:
        sentence = text[at : at + 200].split("\n")[0]
        turn = _BUT.search(sentence) if not leads and _NOT.match(sentence) else None
        return read_object(text, at + turn.end(), texts) if turn else None
    if is_denied(text, reading.start, reading.end, texts):
        return None
    joined = _AND.match(text, reading.end)
    if joined is not None:
        other = _read_after_fillers(text, joined.end(), texts, words, leads=False)
        if other is not None and not _NEXT_CLAUSE.match(text, other.end):
            return Reading(reading.options | other.options, reading.start, other.end)
    return reading


def _read_after_fillers(
    text: str, at: int, texts: OptionTexts, words: tuple[Word, ...], *, leads: bool
) -> Reading | None:
    for _ in range(8):
        matched = _MARKUP.match(text, at)
        assert matched is not None
        at = matched.end()
        reading = _read_text(text, at, texts, words, leads=leads) or _read_letter(text, at, texts, words)
        if reading is not None:
            return reading
        filler = _FILLER.match(text, at)
        if filler is None or (leads and not re.match(r"option|choice|answer", filler[0], re.IGNORECASE)):
            return None
        at = filler.end()
    return None


def _read_text(
    text: str, at: int, texts: OptionTexts, words: tuple[Word, ...], *, leads: bool
) -> Reading | None:
    mention = _match_text(text, at, texts, words)
    if mention is None or (mention.end - mention.start == 1 and text[mention.start].isalpha()):
        return None
    if leads and not _ends_clause(text, mention):
        return None
    return Reading(mention.options, mention.start, mention.end)


def _match_text(text: str, at: int, texts: OptionTexts, words: tuple[Word, ...]) -> Mention | None:
    """Return the option whose text begins at `at`; an everyday word must end its clause."""
    first = bisect_left(words, at, key=lambda word: word.start)
    if first == len(words) or text[at : words[first].start].strip(" ([{-"):
        return None
    mention = texts.match_at(words, first)
    if mention is None:
        return None
    word = words[first].text
    short = mention.end == words[first].end and (word in GENERIC or len(word) <= 2 or word[0].isdigit())
    return None if short and not _ends_clause(text, mention) else mention


def _ends_clause(text: str, mention: Mention) -> bool:
    word = text[mention.start : mention.end].casefold()
    if _ENDS.match(text, mention.end) or word in ("yes", "maybe"):
        return True
    if word in ("none", "all"):
        return _OF_THESE.match(text, mention.end) is not None
    return _CLAUSE.match(text, mention.end) is not None


def _read_letter(text: str, at: int, texts: OptionTexts, words: tuple[Word, ...]) -> Reading | None:
    """Return the option a letter stands for, unless it is a word, an abbreviation or part of a name."""
    match = _LETTER.match(text, at)
    index = texts.letter_index(match["letter"]) if match else None
    if match is None or index is None:
        return None
    closed = _CLOSERS.match(text, match.end())
    after = closed.end() if closed else match.end()
    separated = _SEPARATORS.match(text, after)
    assert separated is not None
    mention = _match_text(text, separated.end(), texts, words)
    if mention is not None and index in mention.options:
        return Reading(frozenset({index}), match.start(), mention.end)
    if mention is not None and _ENDS.match(text, mention.end):
        return Reading(mention.options | {index}, match.start(), mention.end)
    if closed is None and not _stands_for_option(text, after, match["letter"]):
        return None
    return Reading(frozenset({index}), match.start(), after)


def _stands_for_option(text: str, after: int, letter: str) -> bool:
    """Tell a letter from an article, a pronoun and the first half of a name such as `E. coli`."""
    if re.match(r"\.\s?[a-z]", text[after:]):
        return False
    if re.match(r"[ \t]*(?:$|\n|[.,:;!?/&=}<\\]|- )", text[after:]):
        return True
    return letter.isupper() and letter != "I" and _CONNECTIVES.match(text, after) is not None


def read_subject(text: str, end: int, texts: OptionTexts) -> Reading | None:
    """Return the one option that is named right before `end`, as in `(C) is correct`; None where none is."""
    start = max(text.rfind("\n", 0, end), text.rfind(". ", 0, end) if end else -1, end - 300, -1) + 1
    clause = text[start:end]
    for mention in reversed(texts.find_mentions(clause)):
        if not clause[mention.end :].strip(" )]*\"',"):
            return _unless_denied(text, Reading(mention.options, start + mention.start, end))
    letter = _SUBJECT_LETTER.search(clause)
    index = texts.letter_index(letter["letter"]) if letter else None
    if letter is None or index is None:
        return None
    return _unless_denied(text, Reading(frozenset({index}), start + letter.start("letter"), end))


def _unless_denied(text: str, reading: Reading) -> Reading | None:
    before = text[max(0, reading.start - 80) : reading.start]
    return None if _DENIED_BEFORE.search(before) or _JOINED_BEFORE.search(before) else reading


def find_letters(text: str, texts: OptionTexts) -> list[Mention]:
    """Return the letters that can be nothing but options: `(C)`, `**C**`, `option C`."""
    found = []
    for match in _STRONG_LETTER.finditer(text):
        index = texts.letter_index(match["a"] or match["b"] or match["c"])
        if index is not None:
            found.append(Mention(frozenset({index}), match.start(), match.end()))
    return found


def is_denied(text: str, start: int, end: int, texts: OptionTexts) -> bool:
    """Tell whether the option named there is said not to be the answer; `No, it is not` denies no label."""
    before = text[max(0, start - 80) : start]
    return bool(_DENIED_BEFORE.search(before)) or (
        not texts.of_labels and bool(_DENIED_AFTER.match(text, end))
    )


def is_rest_empty(text: str, at: int) -> bool:
    """Tell whether nothing but punctuation follows."""
    return not re.search(r"\w", text[at:])

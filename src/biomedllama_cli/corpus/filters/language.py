"""Which language a document is written in, and whether it is a wanted one.

Two methods, the cheap one first. English prose is recognised by the share of its function words (Grefenstette 1995,
"Comparing two language identification schemes", JADT); whatever that leaves open is decided by naive Bayes over byte
n-grams (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool", ACL), in the package
py3langid, whose wheel carries its model. docs/decisions/0011-filters.md has the measurements behind the numbers here.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from biomedllama_cli.errors import SettingsError

REASON = "other_language"
_WINDOW_CHARACTERS = 500
_WINDOWS = 5
# Words of English that no other language of the Latin script uses as often. 596 abstracts: at least 10 % of the words;
# abstracts in 22 other languages: at most 2 %.
_FUNCTION_WORDS = frozenset(
    ("the", "of", "and", "with", "were", "that", "this", "from", "which", "these", "by", "been", "their")
)
_ENGLISH_SHARE = 0.06
_LEAST_LETTERS = 0.5
# (bytes, least confidence): no window of English abstracts and papers is taken for another language.
_LONG_TEXT, _LONG_CONFIDENCE, _SHORT_CONFIDENCE = 160, 0.5, 0.8
_NO_LANGUAGE = frozenset(("und", "zxx", "mul"))  # ISO 639-2: undetermined, none, several
_SAME = {"eng": "en", "nb": "no", "nn": "no", "nob": "no", "nno": "no", "nor": "no"}


class LanguageFilter:
    """Tell documents in wanted languages from others.

    Args:
        languages: ISO 639-1 codes of the wanted languages.

    Raises:
        SettingsError: no language is given, or one that the identifier does not know.
    """

    def __init__(self, languages: tuple[str, ...]) -> None:
        self.languages = frozenset(filter(None, map(normalise_code, languages)))
        if not self.languages:
            raise SettingsError("selection.language names no language.", "Give ISO 639-1 codes, such as en.")
        if self.languages != {"en"}:
            unknown = sorted(self.languages - set(_load_identifier().labels))
            if unknown:
                raise SettingsError(
                    f"selection.language {unknown[0]!r} is no language that the identifier knows.",
                    "Give ISO 639-1 codes in lower case, such as en or de.",
                )

    def find_problem(self, text: str, declared: str | None = None) -> str | None:
        """Return why a document is not wanted, or None.

        The text decides. What the record declares counts only where the text does not say: the Language of a PubMed
        citation is that of the article, whose abstract is mostly English; xml:lang of JATS is "en" by default of its
        DTD; and either can be wrong. A document of which nothing is known is kept.

        Args:
            text: the document.
            declared: the record's own language code, or None.
        """
        votes = [self._is_wanted(window) for window in choose_windows(text)]
        wanted, unwanted = votes.count(True), votes.count(False)
        if wanted or unwanted:
            return REASON if unwanted > wanted else None
        code = normalise_code(declared or "")
        return REASON if code and code not in self.languages else None

    def _is_wanted(self, window: str) -> bool | None:
        """Tell whether a piece of text is in a wanted language; None where that cannot be told."""
        words = window.lower().split()
        if len(words) >= 10 and sum(map(_FUNCTION_WORDS.__contains__, words)) >= _ENGLISH_SHARE * len(words):
            return "en" in self.languages
        window = window[:_WINDOW_CHARACTERS]  # more changes no answer and costs time
        visible = len(window) - sum(map(str.isspace, window))
        if sum(map(str.isalpha, window)) < _LEAST_LETTERS * max(visible, 1):
            return None  # rows of tables, sequences of numbers
        code, confidence = _load_identifier().classify(window)
        size = len(window.encode("utf-8", "surrogatepass"))
        least = _LONG_CONFIDENCE if size >= _LONG_TEXT else _SHORT_CONFIDENCE
        if confidence < least or code in _NO_LANGUAGE:
            return None
        return normalise_code(code) in self.languages


def choose_windows(text: str) -> list[str]:
    """Return a short text whole, and of a long one five pieces of 500 characters spread evenly.

    An article with an English abstract before a body in another language is judged by both.

    >>> [len(window) for window in choose_windows("x" * 2500)], choose_windows(" ")
    ([2500], [])
    >>> [window[0] for window in choose_windows("".join(chr(65 + i // 500) for i in range(10_000)))]
    ['A', 'E', 'J', 'O', 'T']
    """
    text = text.strip()
    if len(text) <= _WINDOWS * _WINDOW_CHARACTERS:
        return [text] if text else []
    last = len(text) - _WINDOW_CHARACTERS
    starts = [last * i // (_WINDOWS - 1) for i in range(_WINDOWS)]
    return [text[start : start + _WINDOW_CHARACTERS] for start in starts]


def normalise_code(code: str) -> str | None:
    """Return a language code without region, in lower case, or None for one that names no language.

    >>> normalise_code("en-US"), normalise_code("ENG"), normalise_code("und"), normalise_code("")
    ('en', 'en', None, None)
    """
    short = re.split(r"[-_]", code.strip().lower(), maxsplit=1)[0]
    return None if not short or short in _NO_LANGUAGE else _SAME.get(short, short)


@functools.lru_cache(maxsize=1)
def _load_identifier() -> Any:
    """Load the model once per process: half a second and 160 MB, only when a text is not plainly English."""
    import numpy as np
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.nb_ptc = identifier.nb_ptc.astype(np.float32)  # processors are slow at half precision
    return identifier

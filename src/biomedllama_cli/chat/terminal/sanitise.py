"""Text that cannot drive a terminal: whatever a model, a corpus, a file or a paste holds.

A terminal obeys characters of its input: ESC begins commands that move the cursor, set the clipboard (OSC 52), the
title or a link whose target is hidden (OSC 8); in an 8-bit terminal U+0080 to U+009F do the same. Direction overrides
make text read as what it is not, and characters without a shape hide text. Each of them is shown as one visible
character in its place, so that nobody overlooks that it was there. What is sent to the model is not changed by this: it
is for the screen only.
"""

from __future__ import annotations

import json
import re

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
"""C0 and DEL have pictures of their own: ESC is shown as the letters ESC in one cell."""

_SHAPELESS = (
    "\u0080-\u009f"  # C1: the 8-bit forms of ESC [, ESC ], ...
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, overrides and isolates
    "\u00ad\u034f\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\ufeff\u3164\uffa0"  # no shape of their own
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff0-\ufffb"  # format characters of scripts and of annotations
    "\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and variation selectors that can carry a whole hidden text
    "\ud800-\udfff\ufffe\uffff"  # halves of characters, and what is none
)
_REPLACEMENT = "\ufffd"
_SPOKEN = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f{_SHAPELESS}\u2028\u2029]")
_JOINER = re.compile("(?<![^\\x00-\u00ff\u200c\u200d])[\u200c\u200d]")
"""Joiners belong to emoji and to Arabic and Indic scripts; after a Latin letter or in a row they hide."""
_LINE_END = re.compile("\r\n|[\u2028\u2029]")


def sanitise(text: str) -> str:
    r"""Return text whose every character is shown and none obeyed; newlines and tabs stay.

    >>> sanitise("a\x1b[31mb\r\nc\x9b1m \u202efdp.exe")
    'a␛[31mb\nc�1m �fdp.exe'
    """
    return _JOINER.sub(_REPLACEMENT, _SPOKEN.sub(_show, _LINE_END.sub("\n", text)))


def sanitise_line(text: str) -> str:
    r"""Return text on one line, for titles and names.

    >>> sanitise_line("Aspirin\n\n in\tadults\x07")
    'Aspirin in adults␇'
    """
    return sanitise(" ".join(text.split()))


def show_character(text: str) -> str:
    r"""Return text of the same length, character by character, for an editor whose cursor counts them.

    >>> show_character("a\r\n\u202e")
    'a␍\n�'
    """
    return _JOINER.sub(_REPLACEMENT, _SPOKEN.sub(_show, text))


def escape_json(document: str) -> str:
    r"""Return a JSON document that says the same without any character that `sanitise` would replace.

    >>> print(escape_json('{"title": "a\x9b1m \u202efdp.exe é"}'))
    {"title": "a\u009b1m \u202efdp.exe é"}
    """
    return _JOINER.sub(_escape, _SPOKEN.sub(_escape, document))


def repair_text(text: str) -> str:
    r"""Return text that can be written as UTF-8: the bytes a terminal sent that are none become U+FFFD.

    The model is given everything else as it was pasted, control characters included: a log or a sequence file is asked
    about as it is, and a tokenizer has ids for every character but not for half of one.

    >>> repair_text("caf\udce9 \x1b[0m")
    'caf� \x1b[0m'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _show(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\u2028\u2029":
        return " "
    return _PICTURES.get(ord(character), _REPLACEMENT)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


class StreamSanitiser:
    r"""Sanitises text that comes in pieces exactly as if it came at once.

    >>> stream = StreamSanitiser()
    >>> stream.feed("a\r"), stream.feed("\nb\x1b"), stream.feed("[2J"), stream.close()
    ('a', '\nb␛', '[2J', '')
    """

    def __init__(self) -> None:
        self._held = ""
        self._last = ""

    def feed(self, piece: str) -> str:
        """Return what may be shown by now."""
        text = self._held + piece
        # A carriage return is half a line end until the next character tells; a joiner is judged by the one before.
        self._held = "\r" if text.endswith("\r") else ""
        return self._clean(text.removesuffix("\r") if self._held else text)

    def close(self) -> str:
        """Return what was held back."""
        text, self._held = self._held, ""
        return self._clean(text)

    def _clean(self, text: str) -> str:
        if not text:
            return ""
        shown = sanitise(self._last + text)
        cut = len(sanitise(self._last))
        self._last = text[-1]
        return shown[cut:]

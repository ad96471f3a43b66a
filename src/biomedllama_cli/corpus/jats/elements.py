"""Elements of JATS by what they are for a reader of the text; all others are part of the line they stand in.

Tag library: https://jats.nlm.nih.gov/archiving/tag-library/1.3/
"""

from __future__ import annotations

from biomedllama_cli.corpus.jats.formulas import MATHML

OASIS = "{http://www.niso.org/standards/z39-96/ns/oasis-exchange/table}"
FIGURES = ("fig", "fig-group", "supplementary-material", "media", "graphic", "chem-struct-wrap")
FLOATS = (*FIGURES, "table-wrap", "table-wrap-group", "boxed-text", "fn")
"""What hangs on a place in a paragraph without being part of it: it follows the paragraph."""
# fmt: off
BLOCKS = (
    "title", "subtitle", "sec", "body", "back", "app", "app-group", "ack", "notes", "bio", "abstract",
    "glossary", "fn-group", "floats-group", "floats-wrap", "table-wrap-foot", "disp-quote", "verse-group",
    "verse-line", "attrib", "statement", "speech", "sig", "sig-block", "term-head", "def-head", "def",
    "product", "question-wrap", "question", "answer-set", "answer", "explanation", "option", "addr-line",
    "list-item", "def-item", "disp-formula-group", "ref", "citation-alternatives",
)
# fmt: on
LISTS = ("list", "def-list", "disp-formula", "ref-list")
"""Blocks of lines inside a paragraph that goes on behind them."""
# fmt: off
SKIPPED = (
    "inline-graphic", "object-id", "permissions", "alt-text", "long-desc", "kwd-group", "subj-group",
    "sec-meta", "front-stub", "index-term", "index-term-range-end", "private-char", "glyph-data",
    "contrib-group", "aff", "author-notes", "trans-abstract", "trans-title", "col", "colgroup",
    "milestone-start", "milestone-end", "processing-meta", "custom-meta-group", "funding-group",
    "alt-title", "self-uri", "pub-id",
)
# fmt: on
FORMS = ("tex-math", f"{MATHML}math", "table", f"{OASIS}table", "array", "textual-form")
"""Forms of the same thing in `alternatives`, best first."""
NOTE_MARKS = ("fn", "aff", "corresp", "author-notes")
"""Kinds of reference that mean nothing in a title."""

"""The text of JATS elements in reading order: paragraphs, headings, lists, boxes, tables, captions and formulas.

Mixed content is read by one loop with a stack of its own, so that neither depth nor length of a document matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lxml import etree

from biomedllama_cli.corpus.jats.blocks import BlockBuffer
from biomedllama_cli.corpus.jats.citations import hold_marker
from biomedllama_cli.corpus.jats.elements import (
    BLOCKS,
    FIGURES,
    FLOATS,
    FORMS,
    LISTS,
    NOTE_MARKS,
    OASIS,
    SKIPPED,
)
from biomedllama_cli.corpus.jats.formulas import MATHML, join_text, read_mathml, read_tex
from biomedllama_cli.corpus.jats.permissions import may_be_kept
from biomedllama_cli.corpus.licences import Licence
from biomedllama_cli.settings.prepare import ArticleSettings

Opener = Callable[[etree._Element], bool]
"""Called where an element begins; False leaves out what is in it."""
Closer = Callable[[etree._Element], None]


class TextWriter:
    """Collects the text of elements.

    Blocks are separated by a blank line; the lines of a list, a table, a caption and a displayed formula by a line
    break. Headings are lines like others, whatever their depth.

    Args:
        options: what becomes text.
        licence: of the article; figures, tables and boxes that permit less are left out.
        reference_ids: ids of the article's references, for markers that do not say what they are.
    """

    def __init__(self, options: ArticleSettings, licence: Licence, reference_ids: frozenset[str]) -> None:
        self._options = options
        self._licence = licence
        self._reference_ids = reference_ids
        self._out = BlockBuffer()
        self._paragraphs = 0
        self._waiting_floats: list[etree._Element] = []
        self._stack: list[tuple[Iterator[etree._Element], Closer | None, etree._Element | None]] = []
        self._actions = self._build_actions()

    def write(self, elements: Iterable[etree._Element]) -> None:
        """Add elements, each as a block of its own; floats in their paragraphs are moved behind these."""
        for element in elements:
            self._walk(element)
            self._out.end_block()

    def write_line(self, text: str) -> None:
        """Add a line of text as a block."""
        self._out.write_line(text)

    def take_text(self) -> str:
        """Return everything written and forget it."""
        return self._out.take_text()

    def read_title(self, element: etree._Element | None) -> str:
        """Return a title in one line, without footnotes and their marks."""
        if element is None:
            return ""
        writer = TextWriter(self._options, self._licence, self._reference_ids)
        writer._paragraphs = 1  # so that notes are put off, and never written
        writer._actions["xref"] = (writer._open_title_reference, None)
        writer._walk(element)
        writer._out.end_block()
        return " ".join(writer.take_text().split())

    def _build_actions(self) -> dict[object, tuple[Opener, Closer | None]]:
        out, options = self._out, self._options
        skipped = [*SKIPPED, etree.Comment, etree.PI, etree.Entity]
        skipped += [] if options.references else ["ref-list"]
        skipped += [] if options.tables else ["table", "array", f"{OASIS}table", "table-wrap-foot"]
        skipped += [] if options.captions else FIGURES
        actions: dict[object, tuple[Opener, Closer | None]] = {}
        actions |= dict.fromkeys(BLOCKS, (self._open_block, self._close_block))
        actions |= dict.fromkeys(LISTS, (self._open_list, self._close_list))
        actions |= dict.fromkeys(FLOATS, (self._open_float, self._close_float))
        actions |= dict.fromkeys(("table", "array", f"{OASIS}table"), (self._open_block, self._close_block))
        actions |= dict.fromkeys(("tr", f"{OASIS}row"), (self._open_row, lambda _: out.close_row()))
        actions |= dict.fromkeys(("td", "th", f"{OASIS}entry"), (self._open_cell, None))
        actions |= dict.fromkeys(("break", "hr", f"{OASIS}break"), (self._open_space, None))
        actions |= dict.fromkeys(("term", "speaker"), (self._open_label, lambda _: out.close_label(":")))
        actions |= dict.fromkeys(("preformat", "code"), (self._write_lines, None))
        actions |= dict.fromkeys(("element-citation", "nlm-citation"), (self._write_fields, None))
        actions |= {
            "p": (self._open_paragraph, self._close_paragraph),
            "label": (self._open_label, self._close_label),
            "caption": (self._open_caption, lambda _: out.break_block()),
            "sup": (self._open_superscript, None),
            "xref": (self._open_reference, None),
            "alternatives": (self._open_alternatives, None),
            "tex-math": (self._write_tex, None),
            f"{MATHML}math": (self._write_mathml, None),
        }
        return actions | dict.fromkeys(skipped, (self._skip, None))

    def _walk(self, root: etree._Element) -> None:
        """Add an element's text, without its tail."""
        stack, actions, append = self._stack, self._actions, self._out.inline.append
        stack.append((iter((root,)), None, None))
        while stack:
            children, close, owner = stack[-1]
            for child in children:
                action = actions.get(child.tag)
                if action is None:
                    if text := child.text:
                        append(text)
                    if len(child):
                        stack.append((iter(child), None, child))
                        break
                elif action[0](child):
                    if text := child.text:
                        append(text)
                    stack.append((iter(child), action[1], child))
                    break
                if (tail := child.tail) and child is not root:
                    append(tail)
            else:
                stack.pop()
                if owner is not None:
                    if close is not None:
                        close(owner)
                    if (tail := owner.tail) and owner is not root:
                        append(tail)

    def _skip(self, element: etree._Element) -> bool:
        return False

    def _open_space(self, element: etree._Element) -> bool:
        self._out.inline.append(" ")
        return True

    def _open_block(self, element: etree._Element) -> bool:
        self._out.break_block()
        return True

    def _close_block(self, element: etree._Element) -> None:
        self._out.end_block()

    def _open_paragraph(self, element: etree._Element) -> bool:
        self._out.break_block()
        self._paragraphs += 1
        return True

    def _close_paragraph(self, element: etree._Element) -> None:
        self._out.end_block()
        self._paragraphs -= 1
        if not self._paragraphs and self._waiting_floats:
            self._stack.append((iter(self._waiting_floats), None, None))
            self._waiting_floats = []

    def _open_float(self, element: etree._Element) -> bool:
        if element.tag == "graphic" and not len(element):
            return False
        if element.find("permissions") is not None and not may_be_kept(element, self._licence):
            return False
        if self._paragraphs:
            self._out.inline.append(element.tail or "")
            element.tail = None  # written: not once more behind the float
            self._waiting_floats.append(element)
            return False
        if element.tag == "boxed-text":
            self._out.break_block()
        else:
            self._out.open_lines()
        return True

    def _close_float(self, element: etree._Element) -> None:
        if element.tag == "boxed-text":
            self._out.end_block()
        else:
            self._out.close_lines()

    def _open_list(self, element: etree._Element) -> bool:
        self._out.open_lines(attached=self._paragraphs > 0)
        return True

    def _close_list(self, element: etree._Element) -> None:
        self._out.close_lines(attached=self._paragraphs > 0)

    def _open_caption(self, element: etree._Element) -> bool:
        self._out.break_block()
        return not self._is_unwanted_caption(element)

    def _is_unwanted_caption(self, element: etree._Element) -> bool:
        parent = element.getparent()
        return not self._options.captions and parent is not None and parent.tag == "table-wrap"

    def _open_label(self, element: etree._Element) -> bool:
        if self._is_unwanted_caption(element):
            return False
        self._out.open_label()
        return True

    def _close_label(self, element: etree._Element) -> None:
        parent = element.getparent()
        has_caption = parent is not None and parent.tag in FLOATS and parent.find("caption") is not None
        self._out.close_label("." if has_caption else "")

    def _open_row(self, element: etree._Element) -> bool:
        self._out.open_row()
        return True

    def _open_cell(self, element: etree._Element) -> bool:
        self._out.open_cell()
        return True

    def _open_superscript(self, element: etree._Element) -> bool:
        """Keep powers apart from their base: 10<sup>5</sup> is not 105."""
        inline = self._out.inline
        if inline and inline[-1][-1:].isdigit() and (element.text or "").lstrip(" -−–+")[:1].isdigit():
            inline.append("^")
        return True

    def _open_reference(self, element: etree._Element) -> bool:
        kind = element.get("ref-type")
        if self._options.citations or (kind != "bibr" and kind is not None):
            return True
        if kind is None and element.get("rid") not in self._reference_ids:
            return True
        self._out.inline.append(hold_marker(join_text(element)))
        return False

    def _open_title_reference(self, element: etree._Element) -> bool:
        return element.get("ref-type") not in NOTE_MARKS and self._open_reference(element)

    def _open_alternatives(self, element: etree._Element) -> bool:
        """Keep one of several forms of the same: the one that says most as text."""
        children = list(element)
        best = (child for tag in FORMS for child in children if child.tag == tag)
        chosen = next(best, children[0] if children else None)
        for child in children:
            if child is not chosen:
                element.remove(child)
        return True

    def _write_tex(self, element: etree._Element) -> bool:
        self._out.inline.append(read_tex(element))
        return False

    def _write_mathml(self, element: etree._Element) -> bool:
        parent = element.getparent()
        if parent is None or parent.find("tex-math") is None:
            self._out.inline.append(read_mathml(element))
        return False

    def _write_lines(self, element: etree._Element) -> bool:
        """Keep the lines of program code and the like."""
        self._out.open_lines(attached=self._paragraphs > 0)
        for line in join_text(element).splitlines():
            self._out.write_line(line)
        self._out.close_lines(attached=self._paragraphs > 0)
        return False

    def _write_fields(self, element: etree._Element) -> bool:
        """Part the fields of a reference, which have nothing between them."""
        for field in element:
            # A field without text of its own has fields in it, as a name has; other markup is in its text.
            parts = [join_text(field)] if (field.text or "").strip() else map(str, field.itertext())
            self._out.inline += (" ", " ".join(parts))
        return False

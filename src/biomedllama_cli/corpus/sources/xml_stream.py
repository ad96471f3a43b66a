"""Elements of an XML file too large for the memory, from a source that is not trusted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from lxml import etree

from biomedllama_cli.corpus.sources.streams import BrokenStreamError

MAX_RECORD_BYTES = 16 << 20
"""Most XML of one record (in bytes): papers with thousands of authors reach a few MB; markup takes 30 times its
bytes as a tree, so this is what bounds the memory."""
_FEED = 1 << 16


def iter_elements(
    blocks: Iterable[bytes],
    tags: tuple[str, ...],
    root_tag: str,
    max_bytes: int = MAX_RECORD_BYTES,
    *,
    known_roots: Mapping[str, str] | None = None,
) -> Iterator[etree._Element]:
    """Yield the root's children of some tags, each complete and no longer there when two more were asked for.

    No entity is replaced, no DTD is loaded and nothing is fetched.

    Args:
        blocks: the XML document in pieces.
        tags: children wanted.
        root_tag: what the document must be.
        max_bytes: most bytes between the ends of two wanted children.
        known_roots: what to say of a document of another root.

    Raises:
        BrokenStreamError: `broken_xml` (not well-formed, or it breaks off), `record_too_large`, or `other_xml`
            (another root). What comes before the break has been yielded.
    """
    parser = etree.XMLPullParser(
        events=("end",),
        tag=tags,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
    )
    waiting = 0
    for block in blocks:
        for start in range(0, len(block), _FEED):
            chunk = block[start : start + _FEED]
            broken = _feed(parser, chunk)
            waiting += len(chunk)
            for _, found in parser.read_events():
                element = cast("etree._Element", found)
                parent = element.getparent()
                if parent is None or parent.tag != root_tag or parent.getparent() is not None:
                    continue
                while element.getprevious() is not None:
                    del parent[0]  # or the tree grows with the file
                yield element
                waiting = 0
            if broken is not None:
                raise broken
            if waiting > max_bytes:
                raise BrokenStreamError("record_too_large", f"a record is longer than {max_bytes} bytes")
    try:
        root = parser.close()
    except etree.XMLSyntaxError as error:
        raise _explain(error) from None
    if root.tag != root_tag:
        raise _explain_root(str(root.tag), root_tag, known_roots or {})


def _explain_root(found: str, wanted: str, known: Mapping[str, str]) -> BrokenStreamError:
    remark = f"; {known[found]}" if found in known else ""
    return BrokenStreamError("other_xml", f"it is a document of {found[:80]!r}, not {wanted!r}{remark}")


def _feed(parser: etree.XMLPullParser, chunk: bytes) -> BrokenStreamError | None:
    """Return what is wrong instead of raising it: elements finished before the break are still to be read."""
    try:
        parser.feed(chunk)
    except etree.XMLSyntaxError as error:
        return _explain(error)
    return None


def _explain(error: etree.XMLSyntaxError) -> BrokenStreamError:
    message = describe_syntax_error(error.msg or "") or "nothing in it"
    return BrokenStreamError("broken_xml", f"the XML is not well-formed ({message})")


def describe_syntax_error(message: str) -> str:
    """Return libxml2's message on one line, short, with each line number named once.

    >>> describe_syntax_error("Couldn't find end of Start Tag X line 272, line 272, column 17 (<string>, line 272)")
    "Couldn't find end of Start Tag X, line 272, column 17"
    """
    message = re.sub(r" \(<string>, line \d+\)$", "", " ".join(message.split()))
    return re.sub(r" line (\d+), line \1\b", r", line \1", message)[:200]

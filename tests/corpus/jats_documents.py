"""Small JATS articles made for the tests."""

from __future__ import annotations

from biomedllama_cli.corpus.document import Dropped, Metadata, Record
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings

NAMESPACES = (
    'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML" '
    'xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'
)
CC_BY = '<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"/></permissions>'


def build_article(
    body: str = "<p>Text.</p>",
    meta: str = "",
    rest: str = "",
    attributes: str = 'article-type="research-article"',
) -> bytes:
    """Return an article with a title, what is given, and the references b1 to b3."""
    return (
        f"<article {NAMESPACES} {attributes}><front><article-meta><title-group><article-title>Title</article-title>"
        f"</title-group>{meta}</article-meta></front><body>{body}</body><back><ref-list><title>References</title>"
        '<ref id="b1"><label>1</label><mixed-citation>Hites R. <source>Science</source> 2004.</mixed-citation></ref>'
        '<ref id="b2"><element-citation><name><surname>Orr</surname><given-names>A</given-names></name>'
        f"<year>2000</year></element-citation></ref></ref-list></back>{rest}</article>"
    ).encode()


def read_text(body: str = "", rest: str = "", meta: str = "", **options: bool) -> str:
    """Return the text of an article behind its title."""
    record = parse_article(build_article(body, meta, rest), "a.xml", ArticleSettings(**options))
    assert isinstance(record, Record), record
    return record.text.removeprefix("Title\n\n")


def read_metadata(
    meta: str = "", attributes: str = 'article-type="research-article"', title: str = "Title"
) -> Metadata:
    """Return the metadata of an article."""
    data = build_article(meta=meta, attributes=attributes).replace(b">Title<", f">{title}<".encode())
    metadata = parse_article(data, "a.xml", ArticleSettings()).metadata
    assert metadata is not None
    return metadata


def parse(data: bytes) -> Record | Dropped:
    """Return what is read with the default options."""
    return parse_article(data, "a.xml", ArticleSettings())

"""What of a JATS article becomes text, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings

CITE = '<xref ref-type="bibr" rid="b1">{}</xref>'
ONE, TWO, THREE = (CITE.format(number) for number in "123")
BRACKETED = CITE.format("[1]")
NAME = CITE.format("Hites 2004")


def test_title_abstracts_sections_and_notes_stand_in_reading_order(jats: Any) -> None:
    meta = (
        "<abstract><sec><title>Aims</title><p>Why.</p></sec></abstract>"
        '<abstract abstract-type="summary"><title>Author Summary</title><p>In short.</p></abstract>'
        '<abstract abstract-type="toc"><p>Teaser.</p></abstract>'
        '<trans-abstract xml:lang="fr"><p>Pourquoi.</p></trans-abstract>'
        "<kwd-group><kwd>thyroid</kwd></kwd-group>"
    )
    body = (
        "<p>Opening.</p><sec><label>1</label><title>Methods</title><p>How.</p>"
        "<sec><label>1.1.</label><title>Mice</title><p>Which.</p></sec></sec>"
    )
    data = jats.build_article(body, meta).replace(
        b"<back>",
        b"<back><ack><p>Thanks.</p></ack><app-group><app><title>Appendix</title><p>A.</p></app></app-group>",
    )
    record = parse_article(data, "a.xml", ArticleSettings())
    assert isinstance(record, Record)
    assert record.text == (
        "Title\n\nAbstract\n\nAims\n\nWhy.\n\nAuthor Summary\n\nIn short.\n\nTeaser.\n\nOpening.\n\n1 Methods\n\n"
        "How.\n\n1.1. Mice\n\nWhich.\n\nThanks.\n\nAppendix\n\nA."
    )


def test_mixed_content_keeps_tails_and_white_space_is_made_single(jats: Any) -> None:
    body = "<p>A <bold>b<italic>c</italic> d</bold>e\n\t f\u00a0g<sub>2</sub> <!-- no -->h<?pi no?>i<break/>j</p>"
    assert jats.read_text(body) == "A bc de f g2 hi j"


def test_powers_stay_apart_from_their_base(jats: Any) -> None:
    assert jats.read_text(
        "<p>10<sup>5</sup> cells, 10<sup>−3</sup> M, Ca<sup>2+</sup>, x<sup>2</sup></p>"
    ) == ("10^5 cells, 10^−3 M, Ca2+, x2")


def test_lists_boxes_quotes_and_definitions_are_kept_in_place(jats: Any) -> None:
    body = (
        "<p>Steps: <list><list-item><label>1.</label><p>Wash.</p></list-item><list-item><p>Dry.</p><p>Well.</p>"
        "</list-item></list> and wait.</p><disp-quote><p>Said.</p><attrib>Orr</attrib></disp-quote>"
        "<boxed-text><caption><title>Box</title></caption><p>Inside.</p><p>More.</p></boxed-text>"
        "<def-list><def-item><term>BMI</term><def><p>body mass index</p></def></def-item></def-list>"
        "<p>Code: <preformat>for x\n  in y</preformat></p>"
    )
    assert jats.read_text(body) == (
        "Steps:\n1. Wash.\nDry.\nWell.\nand wait.\n\nSaid.\n\nOrr\n\nBox\n\nInside.\n\nMore.\n\n"
        "BMI: body mass index\n\nCode:\nfor x\nin y"
    )


def test_floats_follow_the_paragraph_they_stand_in(jats: Any) -> None:
    body = (
        "<p>Before <fig><label>Figure 1</label><caption><title>Mice.</title><p>White.</p></caption>"
        "<graphic><alt-text>no</alt-text></graphic></fig>after"
        "<fn><label>a</label><p>A note<fn><p>of a note</p></fn>.</p></fn>, still.</p><p>Next.</p>"
    )
    assert jats.read_text(body) == (
        "Before after, still.\n\nFigure 1. Mice.\nWhite.\n\na A note.\nof a note\n\nNext."
    )


TABLE = (
    "<table-wrap><label>Table 1</label><caption><p>Doses.</p></caption><alternatives><table><thead><tr>"
    "<th>Drug</th><th>Dose</th></tr></thead><tbody><tr><td><p>A</p><p>or B</p></td><td/></tr><tr><td>C<break/>D</td>"
    "<td>5<table><tr><td>in</td><td>ner</td></tr></table></td></tr><tr><td> </td><td></td></tr></tbody></table>"
    "<graphic/></alternatives><table-wrap-foot><fn><label>a</label><p>Foot.</p></fn></table-wrap-foot></table-wrap>"
)


def test_tables_are_rows_of_cells(jats: Any) -> None:
    assert jats.read_text(TABLE) == "Table 1. Doses.\nDrug | Dose\nA or B |\nC D | 5 in ner\na Foot."


def test_tables_and_captions_are_switches(jats: Any) -> None:
    figure = "<fig><label>Fig 1</label><caption><p>Mice.</p></caption></fig><p>Text.</p>"
    assert jats.read_text(TABLE + figure, tables=False) == "Table 1. Doses.\n\nFig 1. Mice.\n\nText."
    assert jats.read_text(TABLE + figure, captions=False) == (
        "Drug | Dose\nA or B |\nC D | 5 in ner\na Foot.\n\nText."
    )


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("<alternatives><tex-math>$$x^2$$</tex-math><mml:math><mml:mi>y</mml:mi></mml:math><graphic/></alternatives>",
         "$x^2$"),
        ("<tex-math>\\documentclass{a}\\begin{document}$\\alpha$\\end{document}</tex-math><mml:math/>", "$\\alpha$"),
        ("<alternatives><inline-graphic/><mml:math><mml:msup><mml:mi>y</mml:mi><mml:mn>2</mml:mn></mml:msup></mml:math>"
         "</alternatives>", "y^2"),
        ("<mml:math alttext='a+b'><mml:mi>z</mml:mi></mml:math>", "a+b"),
        ("<mml:math><mml:semantics><mml:mi>z</mml:mi><mml:annotation encoding='application/x-tex'>\\zeta"
         "</mml:annotation></mml:semantics></mml:math>", "\\zeta"),
        ("<mml:math><mml:msubsup><mml:mi>σ</mml:mi><mml:mrow><mml:mi>i</mml:mi><mml:mo>+</mml:mo><mml:mn>1</mml:mn>"
         "</mml:mrow><mml:mn>2</mml:mn></mml:msubsup><mml:mo>=</mml:mo><mml:msqrt><mml:mi>x</mml:mi></mml:msqrt>"
         "</mml:math>", "σ_{i+1}^2=sqrt(x)"),
        ("<mml:math><mml:mover><mml:mi>x</mml:mi><mml:mo>¯</mml:mo></mml:mover><mml:mo>\u2062</mml:mo><mml:mi>log"
         "</mml:mi><mml:mi>n</mml:mi></mml:math>", "x\u0304log n"),
        ("<mml:math><mml:mfenced separators=';,'><mml:mi>a</mml:mi><mml:mi>b</mml:mi><mml:mi>c</mml:mi></mml:mfenced>"
         "</mml:math>", "(a; b, c)"),
        ("<mml:math><mml:mtable><mml:mtr><mml:mtd><mml:mn>1</mml:mn></mml:mtd><mml:mtd><mml:mn>0</mml:mn></mml:mtd>"
         "</mml:mtr><mml:mtr><mml:mtd><mml:mn>0</mml:mn></mml:mtd></mml:mtr></mml:mtable></mml:math>", "1 0; 0"),
        ("<inline-graphic/>", ""),
    ],
)  # fmt: skip
def test_formulas_are_kept_once_as_text(jats: Any, formula: str, text: str) -> None:
    assert jats.read_text(
        f"<p>so <inline-formula>{formula}</inline-formula> holds</p>"
    ) == f"so {text} holds".replace("  ", " ")


def test_displayed_formulas_are_lines_of_their_paragraph(jats: Any) -> None:
    formula = "<disp-formula><label>(1)</label><mml:math><mml:mi>E</mml:mi></mml:math></disp-formula>"
    assert jats.read_text(f"<p>Thus {formula} where E.</p>{formula}<p>End.</p>") == (
        "Thus\n(1) E\nwhere E.\n\n(1) E\n\nEnd."
    )


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        (f"as shown [{ONE}].", "as shown."),
        (f"as shown [{ONE}, {TWO}–{THREE}], so", "as shown, so"),
        (f"as shown {BRACKETED}–{BRACKETED}, {BRACKETED}.", "as shown."),
        (f"shown<sup>{ONE},{TWO}</sup>. In", "shown. In"),
        (f"shown{CITE.format('<sup>1</sup>')} in", "shown in"),
        (f"shown [{ONE}]in", "shown in"),
        (f"Shamir [{ONE}] first", "Shamir first"),
        (f"parts (see {BRACKETED} for a review). Some", "parts. Some"),
        (f"(for review, see {BRACKETED}).", "."),
        (f"whole (plate A; {BRACKETED}).", "whole (plate A)."),
        (f"whole ({BRACKETED}; plate A).", "whole (plate A)."),
        (f"rats ({NAME}; {NAME}).", "rats."),
        (f"rats (Fig. 1; {NAME}).", "rats (Fig. 1)."),
        (f"yet {NAME} found", "yet Hites 2004 found"),
        (f"yet {NAME} and {NAME} found", "yet Hites 2004 and Hites 2004 found"),
        (f"yet Hites {CITE.format('(2004)')} found", "yet Hites found"),
        (f"shown, {BRACKETED}. In", "shown. In"),
        (f"by {ONE} and {TWO}.", "by."),
        ('see <xref ref-type="fig" rid="f1">Figure 1</xref> [a]', "see Figure 1 [a]"),
        ('as<sup><xref rid="b1">1</xref></sup> and <xref rid="other">S1</xref>', "as and S1"),
    ],
)
def test_citation_markers_go_with_their_brackets(jats: Any, marked: str, plain: str) -> None:
    assert jats.read_text(f"<p>{marked}</p><p>x</p>") == f"{plain}\n\nx"


def test_citations_and_references_are_switches(jats: Any) -> None:
    body = f"<p>as shown [{ONE}, {TWO}].</p>"
    assert jats.read_text(body, citations=True) == "as shown [1, 2]."
    assert jats.read_text(body, references=True) == (
        "as shown.\n\nReferences\n1 Hites R. Science 2004.\nOrr A 2000"
    )


def test_titles_lose_the_marks_of_their_notes(jats: Any) -> None:
    title = (
        '<article-title>T <italic>b</italic><xref ref-type="fn">*</xref><fn><p>no</p></fn></article-title>'
    )
    data = jats.build_article().replace(
        b"<article-title>Title</article-title>", title.encode() + b"<subtitle>S</subtitle>"
    )
    record = parse_article(data, "a.xml", ArticleSettings())
    assert record.metadata is not None
    assert record.metadata.title == "T b: S"


def build_sub_article(text: str, attributes: str = "", permissions: str = "") -> str:
    return (
        f"<sub-article {attributes}><front-stub><title-group><article-title>Reply</article-title></title-group>"
        f"{permissions}</front-stub><body><p>{text}</p></body></sub-article>"
    )


def test_sub_articles_are_further_sections_unless_translated_or_licensed_otherwise(jats: Any) -> None:
    stricter = jats.CC_BY.replace("/by/", "/by-nc/")
    rest = (
        build_sub_article("One.", 'article-type="reply"')
        + build_sub_article("Two.", 'article-type="translation"')
        + build_sub_article("Three.", 'xml:lang="fr"')
        + build_sub_article("Four.", permissions=jats.CC_BY)
        + build_sub_article("Five.", permissions=stricter)
    )
    data = jats.build_article("<p>Body.</p>", jats.CC_BY, rest, 'xml:lang="en"')
    record = parse_article(data, "a.xml", ArticleSettings())
    assert isinstance(record, Record)
    assert record.text == "Title\n\nBody.\n\nReply\n\nOne.\n\nReply\n\nFour."


def test_parts_that_permit_less_than_the_article_are_left_out(jats: Any) -> None:
    figure = "<fig><caption><p>{}</p></caption><permissions>{}</permissions></fig>"
    body = (
        "<p>Text.</p>"
        + figure.format("Own.", "<copyright-statement>© The authors</copyright-statement>")
        + figure.format(
            "Theirs.", "<copyright-statement>Reproduced with permission of X</copyright-statement>"
        )
        + figure.format("NC.", '<license license-type="cc-by-nc"/>')
        + figure.format("Free.", '<license license-type="CC0"/>')
    )
    assert jats.read_text(body, meta=jats.CC_BY) == "Text.\n\nOwn.\n\nFree."


def test_an_article_without_text_is_dropped_with_its_metadata(jats: Any) -> None:
    dropped = parse_article(jats.build_article("<sec><title/></sec>", jats.CC_BY), "a.xml", ArticleSettings())
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.problem, dropped.text) == ("no_text", "", "Title")
    assert dropped.metadata is not None
    assert dropped.metadata.licence == "CC BY"


def test_wrappers_and_namespaces_of_services_are_seen_through(jats: Any) -> None:
    plain = parse_article(jats.build_article("<p>T<sub>4</sub>.</p>"), "a.xml", ArticleSettings())
    wrapped = b"<pmc-articleset>" + jats.build_article("<p>T<sub>4</sub>.</p>") + b"</pmc-articleset>"
    spaced = jats.build_article("<p>T<sub>4</sub>.</p>").replace(
        b"<article ", b'<article xmlns="https://jats.nlm.nih.gov/" '
    )
    for data in (wrapped, spaced):
        assert parse_article(data, "a.xml", ArticleSettings()) == plain


def test_entities_of_html_are_characters(jats: Any) -> None:
    data = b'<!DOCTYPE article PUBLIC "-//NLM//DTD" "x.dtd">' + jats.build_article(
        "<p>&alpha;-<i>&beta;</i>&nbsp;&lt;x</p>"
    )
    record = parse_article(data, "a.xml", ArticleSettings())
    assert isinstance(record, Record)
    assert record.text == "Title\n\nα-β <x"

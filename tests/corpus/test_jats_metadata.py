"""What a JATS article says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from biomedllama_cli.corpus.jats.article import parse_article
from biomedllama_cli.settings.prepare import ArticleSettings

IDS = (
    '<article-id pub-id-type="pmid">123</article-id><article-id pub-id-type="pmcid">PMC77</article-id>'
    '<article-id pub-id-type="pmcid-ver">PMC77.3</article-id><article-id pub-id-type="pmcaid">9</article-id>'
    '<article-id pub-id-type="doi">https://doi.org/10.1371/Journal.X</article-id>'
)
DATES = (
    '<pub-date pub-type="pmc-release"><year>1999</year></pub-date><pub-date pub-type="collection"><year>2012</year>'
    '</pub-date><pub-date date-type="pub" iso-8601-date="2011-12-30"/>'
)


def test_identifiers_year_language_and_type(jats: Any) -> None:
    found = jats.read_metadata(IDS + DATES, 'article-type="review-article" xml:lang="EN-us"')
    assert (found.pmid, found.pmcid, found.version, found.doi) == (123, 77, 3, "10.1371/journal.x")
    assert (found.year, found.language, found.publication_types) == (2011, "en", ("review-article",))
    assert (found.title, found.licence, found.retracts) == ("Title", None, ())


def test_nothing_said_is_nothing_known(jats: Any) -> None:
    found = jats.read_metadata(
        '<article-id pub-id-type="pmid">x</article-id><article-id pub-id-type="doi">none</article-id>'
        "<pub-date><year>soon</year></pub-date>",
        "",
    )
    assert (found.pmid, found.pmcid, found.version, found.doi) == (None, None, 1, None)
    assert (found.year, found.language, found.publication_types, found.flags) == (None, None, (), frozenset())


@pytest.mark.parametrize(
    ("attributes", "flag"),
    [
        ('article-type="retraction"', "retraction_notice"),
        ('article-type="correction"', "correction"),
        ('article-type="expression-of-concern"', "expression_of_concern"),
        ('article-type="preprint"', "preprint"),
    ],
)
def test_article_type_makes_a_flag(jats: Any, attributes: str, flag: str) -> None:
    assert jats.read_metadata(attributes=attributes).flags == {flag}


@pytest.mark.parametrize(
    ("title", "flags"),
    [
        ("RETRACTED: A study", {"retracted"}),
        ("[Retracted] A study", {"retracted"}),
        ("Retracted Article: A study", {"retracted"}),
        ("WITHDRAWN: A study", {"retracted"}),
        ("Retraction: A study", {"retraction_notice"}),
        ("Retraction Note to: A study", {"retraction_notice"}),
        ("Notice of retraction of a study", {"retraction_notice"}),
        ("Expression of Concern: A study", {"expression_of_concern"}),
        ("Correction to: A study", {"correction"}),
        ("Retraction of the tongue in infants", set()),
        ("Retracted drugs and their risks", set()),
        ("Correction of anaemia in kidney disease", set()),
        ("Withdrawal symptoms: a review", set()),
    ],
)
def test_title_tells_retractions_from_papers_about_retracting(jats: Any, title: str, flags: set[str]) -> None:
    assert jats.read_metadata(title=title).flags == flags


LINK = '<related-article related-article-type="{}" ext-link-type="{}" xlink:href="{}"/>'


@pytest.mark.parametrize(
    ("kind", "target", "retracts"),
    [
        ("uri", "info:doi/10.1371/Journal.pcbi.0030051", ("doi:10.1371/journal.pcbi.0030051",)),
        ("doi", "10.1371/journal.pcbi.0030051", ("doi:10.1371/journal.pcbi.0030051",)),
        ("uri", "https://doi.org/10.1371/journal.pcbi.0030051", ("doi:10.1371/journal.pcbi.0030051",)),
        ("pmid", "17335345", ("pmid:17335345",)),
        ("pmc", "PMC1808489", ("pmcid:1808489",)),
        ("pmcid", "1808489", ("pmcid:1808489",)),
        ("uri", "17335345", ()),
    ],
)
def test_a_notice_names_what_it_withdraws(
    jats: Any, kind: str, target: str, retracts: tuple[str, ...]
) -> None:
    found = jats.read_metadata(LINK.format("retracted-article", kind, target), 'article-type="retraction"')
    assert found.retracts == retracts
    assert found.flags == {"retraction_notice"}


def test_links_to_notices_make_flags_and_withdraw_nothing(jats: Any) -> None:
    for kind, flag in (("retraction-forward", "retracted"), ("concern-forward", "expression_of_concern")):
        found = jats.read_metadata(LINK.format(kind, "doi", "10.1000/notice"))
        assert (found.flags, found.retracts) == ({flag}, ())
    assert jats.read_metadata(LINK.format("companion", "doi", "10.1000/friend")).flags == frozenset()


def test_headings_and_events_of_retraction_are_seen(jats: Any) -> None:
    heading = (
        "<article-categories><subj-group><subject>Retraction</subject></subj-group></article-categories>"
    )
    assert jats.read_metadata(heading, 'article-type="other"').flags == {"retraction_notice"}
    event = '<history><date date-type="retracted"><year>2015</year></date></history>'
    assert jats.read_metadata(event).flags == {"retracted"}


def test_properties_of_pubmed_central_make_flags(jats: Any) -> None:
    custom = "<custom-meta><meta-name>pmc-prop-{}</meta-name><meta-value>{}</meta-value></custom-meta>"
    values = [
        ("open-access", "yes"),
        ("manuscript", "yes"),
        ("is-scanned-article", "yes"),
        ("preprint", "no"),
    ]
    group = "".join(custom.format(*value) for value in values)
    found = jats.read_metadata(f"<custom-meta-group>{group}</custom-meta-group>")
    assert found.flags == {"open_access", "author_manuscript", "historical_ocr"}


STATED = '<permissions><license license-type="{}"/></permissions>'
CODE = (
    "<custom-meta-group><custom-meta><meta-name>pmc-license-ref</meta-name><meta-value>{}</meta-value></custom-meta>"
    "</custom-meta-group>"
)


@pytest.mark.parametrize(
    ("meta", "licence", "conflict"),
    [
        (STATED.format("cc-by"), "CC BY", False),
        (STATED.format("cc-by") + CODE.format("CC BY"), "CC BY", False),
        (STATED.format("cc-by") + CODE.format("CC BY-NC"), None, True),
        (STATED.format("cc-by").replace("/>", "><license-p>CC BY-NC</license-p></license>"), None, True),
        (STATED.format("open-access") + CODE.format("TDM"), "TDM", False),
        ("<copyright-statement>© A. In the public domain.</copyright-statement>", "public domain", False),
        ("<permissions><license><license-p>See <ext-link xlink:href='http://creativecommons.org/licenses/by-sa/3.0/'>"
         "here</ext-link>.</license-p></license></permissions>", "CC BY-SA", False),
        ("<permissions><license><ali:license_ref>http://creativecommons.org/licenses/by/4.0/</ali:license_ref>"
         "</license></permissions>", "CC BY", False),
        ("", None, False),
    ],
)  # fmt: skip
def test_licence_and_conflict(jats: Any, meta: str, licence: str | None, conflict: bool) -> None:
    found = jats.read_metadata(meta)
    assert found.licence == licence
    assert ("licence_conflict" in found.flags) == conflict


def test_the_licence_of_a_figure_is_not_the_articles(jats: Any) -> None:
    figure = (
        '<fig><caption><p>c</p></caption><permissions><license license-type="cc-by"/></permissions></fig>'
    )
    data = jats.build_article(figure)
    assert jats.parse(data).metadata.licence is None


@pytest.mark.parametrize("link", ["retracted-article", "partial-retraction"])
def test_partial_retraction_counts_as_a_retraction(jats_files: Any, link: str) -> None:
    notice = jats_files.Article(
        7,
        kind="partial-retraction",
        front=f'<related-article related-article-type="{link}" ext-link-type="doi" xlink:href="10.1371/a"/>',
    )
    record = parse_article(notice.to_xml().encode(), "notice.xml", ArticleSettings())
    assert record.metadata is not None
    assert "retraction_notice" in record.metadata.flags
    assert record.metadata.retracts == ("doi:10.1371/a",)

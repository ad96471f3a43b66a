"""PubMed XML becomes documents with what PubMed says of them."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Record
from biomedllama_cli.corpus.sources.files import find_inputs
from biomedllama_cli.corpus.sources.pubmed import PubmedReader
from biomedllama_cli.errors import DataError

ReadOne = Callable[..., Item]


def read(*paths: Path) -> list[Item]:
    reader = PubmedReader()
    files = reader.list_inputs(tuple(map(str, paths)))
    return [item for file in files for item in reader.iter_documents(file, lambda position: None)]


@pytest.fixture
def read_one(tmp_path: Path, pubmed_files: Any) -> ReadOne:
    """Return what becomes of a citation with the fields given."""

    def build(**fields: Any) -> Item:
        (item,) = read(pubmed_files.write_set(tmp_path / "a.xml", [pubmed_files.Citation(1, **fields)]))
        return item

    return build


def metadata_of(item: Item) -> Any:
    assert not isinstance(item, Deletion)
    return item.metadata


def text_of(item: Item) -> str:
    assert isinstance(item, Record)
    return item.text


def test_structured_abstract_keeps_its_labels_and_leaves_the_copyright_line_out(read_one: ReadOne) -> None:
    item = read_one(
        title="Iron in anaemia.",
        abstract=(
            ("BACKGROUND", "Iron  is\n needed."),
            ("UNLABELLED", "Free text."),
            ("Results:", "It rose."),
        ),
    )
    assert (
        text_of(item) == "Iron in anaemia.\n\nBACKGROUND: Iron is needed.\n\nFree text.\n\nResults: It rose."
    )


def test_inline_markup_and_formulas_are_flattened_in_their_order(read_one: ReadOne) -> None:
    formula = (
        '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML">\n <mml:mi>x</mml:mi>\n <mml:mo>=</mml:mo>\n'
        " <mml:mrow><mml:mn>2</mml:mn>\n</mml:mrow>\n</mml:math>"
    )
    item = read_one(
        title="The <i>TERT</i> gene, <b>r<sup>2</sup></b> &lt; 1.",
        abstract=f"A<sub>1</sub> and <!-- no --> {formula} hold<?no thing?>.",
    )
    assert text_of(item) == "The TERT gene, r2 < 1.\n\nA1 and x=2 hold."
    assert metadata_of(item).title == "The TERT gene, r2 < 1."


def test_sentence_that_nlm_added_to_long_abstracts_is_no_text_of_the_authors(read_one: ReadOne) -> None:
    assert text_of(read_one(abstract="It ends.(ABSTRACT TRUNCATED AT 250 WORDS)")).endswith("It ends.")


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("[Iron in anaemia].", "Iron in anaemia.\n\nA made-up abstract."),
        ("[Is iron needed? (author's transl)].", "Is iron needed?\n\nA made-up abstract."),
        ("[3H]thymidine and [14C].", "[3H]thymidine and [14C].\n\nA made-up abstract."),
        ("[Not Available].", "A made-up abstract."),
        ("", "A made-up abstract."),
    ],
)
def test_brackets_of_a_translated_title_go(read_one: ReadOne, title: str, text: str) -> None:
    item = read_one(title=title, article="<VernacularTitle>Fer.</VernacularTitle>")
    assert text_of(item) == text
    assert metadata_of(item).title == (text.split("\n")[0] if "\n" in text else "Fer.")


def other(text: str, language: str = "eng", kind: str = "Publisher") -> str:
    return f'<OtherAbstract Type="{kind}" Language="{language}"><AbstractText>{text}</AbstractText></OtherAbstract>'


def test_other_abstracts_count_when_english_and_not_the_same_again(read_one: ReadOne) -> None:
    plain = other("In plain words.", kind="plain-language-summary")
    spanish = other("En otras palabras.", "spa") + other("En simples.", "spa", "plain-language-summary")
    second = other("Said again.")
    assert text_of(read_one(other=spanish + second + plain)) == (
        "A made-up title.\n\nA made-up abstract.\n\nIn plain words."
    )
    assert text_of(read_one(abstract=None, other=spanish + second)) == "A made-up title.\n\nSaid again."
    assert isinstance(read_one(abstract=None, other=spanish), Dropped)


def test_record_without_abstract_is_dropped_with_what_is_known_of_it(read_one: ReadOne) -> None:
    for abstract in (None, " \n ", (("BACKGROUND", ""),)):
        item = read_one(abstract=abstract, pmcid="PMC77")
        assert isinstance(item, Dropped)
        assert (item.reason, item.problem, item.text) == ("no_abstract", "", "A made-up title.")
        assert (item.metadata.pmid, item.metadata.pmcid) == (1, 77)


def test_identifiers_are_the_records_own_not_those_of_cited_papers(read_one: ReadOne) -> None:
    cited = (("pubmed", "9"), ("pmc", "PMC99"), ("doi", "10.9999/cited"))
    metadata = metadata_of(read_one(cites=cited))
    assert (metadata.pmid, metadata.pmcid, metadata.doi) == (1, None, None)
    metadata = metadata_of(read_one(version=3, pmcid="PMC12", doi="10.1000/ABC", cites=cited))
    assert (metadata.version, metadata.pmcid, metadata.doi) == (3, 12, "10.1000/abc")
    located = (
        '<ELocationID EIdType="pii" ValidYN="Y">10.1000/pii</ELocationID>'
        '<ELocationID EIdType="doi" ValidYN="N">10.1000/wrong</ELocationID>'
        '<ELocationID EIdType="doi" ValidYN="Y">10.1000/Right</ELocationID>'
    )
    assert metadata_of(read_one(article=located)).doi == "10.1000/right"


@pytest.mark.parametrize(
    ("date", "article", "year"),
    [
        ("<Year>1999</Year><Month>Jan</Month>", "", 1999),
        ("<MedlineDate>1998 Dec-1999 Jan</MedlineDate>", "", 1998),
        ("<MedlineDate>Winter 1976</MedlineDate>", "", 1976),
        ("", "<ArticleDate><Year>2020</Year></ArticleDate>", 2020),
        ("<Year>soon</Year>", "", None),
    ],
)
def test_year_of_publication(read_one: ReadOne, date: str, article: str, year: int | None) -> None:
    assert metadata_of(read_one(date=date, article=article)).year == year


@pytest.mark.parametrize(
    ("languages", "code"),
    [
        (("eng",), "en"),
        (("fre",), "fr"),
        (("ger", "eng"), "en"),
        (("und",), None),
        (("xxx",), "xxx"),
        ((), None),
    ],
)
def test_language_is_told_in_two_letters(
    read_one: ReadOne, languages: tuple[str, ...], code: str | None
) -> None:
    assert metadata_of(read_one(languages=languages)).language == code


def test_types_and_mesh_come_in_order_and_no_licence_is_claimed(read_one: ReadOne) -> None:
    metadata = metadata_of(read_one(types=("Review", "Journal Article"), mesh=("Humans", "Anemia & Iron")))
    assert metadata.publication_types == ("Review", "Journal Article")
    assert metadata.mesh == ("Humans", "Anemia & Iron")
    assert metadata.licence is None


@pytest.mark.parametrize(
    ("types", "links", "flags", "retracts"),
    [
        (("Retracted Publication",), (), {"retracted"}, ()),
        ((), (("RetractionIn", 5, "J"),), {"retracted"}, ()),
        (
            ("Retraction of Publication",),
            (("RetractionOf", 5, "J. 2020. doi: 10.1000/AB.5."), ("RetractionOf", None, "K. doi: 10.1000/C")),
            {"retraction_notice"},
            ("pmid:5", "doi:10.1000/ab.5", "doi:10.1000/c"),
        ),
        ((), (("RetractionOf", 5, "J"), ("CommentOn", 6, "J")), {"retraction_notice"}, ("pmid:5",)),
        ((), (("ExpressionOfConcernIn", 5, "J"),), {"expression_of_concern"}, ()),
        (("Published Erratum",), (("ErratumFor", 5, "J"),), {"correction"}, ()),
        (("Preprint",), (("ErratumIn", 5, "J"),), {"preprint"}, ()),
        (("Journal Article",), (("Cites", 5, "J"), ("CommentIn", 6, "J")), set(), ()),
    ],
)
def test_what_pubmed_says_of_retractions_and_corrections(
    read_one: ReadOne,
    types: tuple[str, ...],
    links: tuple[Any, ...],
    flags: set[str],
    retracts: tuple[str, ...],
) -> None:
    metadata = metadata_of(read_one(types=types, links=links))
    assert (metadata.flags, metadata.retracts) == (flags, retracts)


def test_book_chapters_with_an_abstract_are_documents(tmp_path: Path, pubmed_files: Any) -> None:
    chapter = (
        "<PubmedBookArticle><BookDocument><PMID Version='2'>7</PMID><ArticleIdList><ArticleId IdType='doi'>"
        "10.1000/Book</ArticleId></ArticleIdList><Book><BookTitle>Book</BookTitle><PubDate><Year>1993</Year></PubDate>"
        "</Book><ArticleTitle>A syndrome</ArticleTitle><Language>eng</Language><PublicationType>Review"
        "</PublicationType>{}</BookDocument></PubmedBookArticle>"
    )
    abstract = "<Abstract><AbstractText Label='SUMMARY'>It is rare.</AbstractText></Abstract>"
    path = pubmed_files.write_set(tmp_path / "a.xml", [chapter.format(abstract), chapter.format("")])
    item, without = read(path)
    metadata = metadata_of(item)
    assert text_of(item) == "A syndrome\n\nSUMMARY: It is rare."
    assert (metadata.pmid, metadata.version, metadata.doi) == (7, 2, "10.1000/book")
    assert (metadata.year, metadata.language, metadata.publication_types) == (1993, "en", ("Review",))
    assert isinstance(without, Dropped)
    assert without.reason == "no_abstract"


def test_release_is_read_in_number_order_with_its_deletions(tmp_path: Path, pubmed_files: Any) -> None:
    survivors = pubmed_files.write_release(tmp_path)
    items = read(tmp_path / "updatefiles", tmp_path / "baseline")
    seen = [
        (item.pmid if isinstance(item, Deletion) else metadata_of(item).pmid, type(item)) for item in items
    ]
    expected = [1001, 1002, 1003, 1004, 1005, 1006, 1002, 1007, 1008, 1004, 1003, 1005]
    assert [pmid for pmid, _ in seen] == expected
    assert [pmid for pmid, kind in seen if kind is Deletion] == [1004]
    last = {metadata_of(item).pmid: item for item in items if isinstance(item, Record)}
    for citation in survivors:
        assert last[citation.pmid].text == citation.text


def test_files_are_ordered_by_year_and_number_whatever_their_folders(
    tmp_path: Path, pubmed_files: Any
) -> None:
    names = [
        "z/pubmed25n1274.xml.gz", "updatefiles/pubmed26n0002.xml.gz", "baseline/pubmed26n0001.xml.gz",
        "a/pubmed26n10000.xml", "efetch.xml", "baseline/answers.xml",
    ]  # fmt: skip
    for name in reversed(names):
        pubmed_files.write_set(tmp_path / name, [])
    listed = PubmedReader().list_inputs((str(tmp_path),))
    assert [str(file.path.relative_to(tmp_path)) for file in listed] == [
        "z/pubmed25n1274.xml.gz", "baseline/pubmed26n0001.xml.gz", "updatefiles/pubmed26n0002.xml.gz",
        "a/pubmed26n10000.xml", "baseline/answers.xml", "efetch.xml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "form", ["MD5({name})= {md5}\n", "{md5}  {name}\n", "{md5} *./{name}\n", "{upper}\n"]
)
def test_md5_sidecars_of_every_form_are_checked(tmp_path: Path, pubmed_files: Any, form: str) -> None:
    path = pubmed_files.write_set(tmp_path / "pubmed26n0001.xml.gz", [pubmed_files.Citation(1)])
    for data, reasons in ((path.read_bytes(), []), (b"other", ["wrong_md5"])):
        md5 = hashlib.md5(data).hexdigest()
        sidecar = path.with_name(path.name + ".md5")
        sidecar.write_text(form.format(name=path.name, md5=md5, upper=md5.upper()))
        items = read(path)
        assert [item.reason for item in items if isinstance(item, Dropped)] == reasons
        assert sum(isinstance(item, Record) for item in items) == (not reasons)
    (dropped,) = items
    assert isinstance(dropped, Dropped)
    assert dropped.where == str(path)
    assert hashlib.md5(path.read_bytes()).hexdigest() in dropped.problem
    assert md5 in dropped.problem


def test_reader_reports_positions_travels_to_workers_and_names_what_is_missing(
    tmp_path: Path, pubmed_files: Any
) -> None:
    reader = pickle.loads(pickle.dumps(PubmedReader()))
    path = pubmed_files.write_set(tmp_path / "a.xml.gz", map(pubmed_files.Citation, range(1, 400)))
    positions: list[int] = []
    (file,) = reader.list_inputs((str(path),))
    assert sum(isinstance(item, Record) for item in reader.iter_documents(file, positions.append)) == 399
    assert positions == sorted(positions)
    assert positions[-1] == path.stat().st_size
    path.unlink()
    with pytest.raises(DataError, match=r"a\.xml\.gz cannot be read"):
        list(reader.iter_documents(file, positions.append))
    with pytest.raises(DataError, match="holds no file"):
        reader.list_inputs((str(tmp_path),))


def test_shared_documents_of_several_years_are_read(shared_data: Path) -> None:
    found = {}
    for item in read(shared_data / "pubmed"):
        if isinstance(item, Record):
            found[metadata_of(item).pmid] = item
        else:  # one of them breaks off in the middle of its only record
            assert isinstance(item, Dropped)
            assert (item.reason, "pubmed-29768149.xml" in item.where) == ("broken_xml", True)
    assert sorted(found) == [11700088, 11748933, 27797938, 29963580]
    article = found[27797938]
    labels = [part.split(":")[0] for part in article.text.split("\n\n")[1:]]
    assert labels == ["OBJECTIVE", "DESIGN", "RESULTS", "CONCLUSIONS"]
    assert "the TERT gene region" in article.text
    assert "BMJ Publishing Group" not in article.text
    assert (metadata_of(article).pmcid, metadata_of(article).year) == (5442267, 2017)
    assert "inhaled He3/Xe129 MRI ventilation" in found[29963580].text


def test_same_text_from_plain_and_gzipped_files(shared_data: Path, tmp_path: Path) -> None:
    plain = shared_data / "pubmed" / "pubmed4.xml"
    packed = tmp_path / "pubmed4.xml.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [text_of(item) for item in read(packed)] == [text_of(item) for item in read(plain)]
    assert len(find_inputs((str(packed),), PubmedReader.suffixes)) == 1

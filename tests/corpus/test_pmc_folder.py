"""PubMed Central's articles from folders, archives and the bucket's layout, with their metadata."""

from __future__ import annotations

import gzip
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Record
from biomedllama_cli.corpus.sources.pmc import PmcReader
from biomedllama_cli.errors import DataError
from biomedllama_cli.settings.prepare import ArticleSettings

ReadPair = Callable[..., Item]


def read(*paths: Path, options: ArticleSettings | None = None) -> list[Item]:
    reader = PmcReader(options or ArticleSettings())
    files = reader.list_inputs(tuple(map(str, paths)))
    return [item for file in files for item in reader.iter_documents(file, lambda position: None)]


def metadata_of(item: Item) -> Any:
    assert not isinstance(item, Deletion)
    assert item.metadata is not None
    return item.metadata


def pmcids(items: list[Item]) -> list[int | None]:
    return [metadata_of(item).pmcid for item in items if isinstance(item, Record)]


def reasons(items: list[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]


@pytest.fixture
def read_pair(tmp_path: Path, pmc_files: Any) -> ReadPair:
    """Return what becomes of an article and its metadata, as the bucket keeps them."""

    def build(xml: bytes | None = None, pmcid: int = 1, version: int = 1, **changes: Any) -> Item:
        xml = pmc_files.make_jats(pmcid) if xml is None else xml
        name = f"PMC{pmcid}.{version}"
        members = [
            (f"{name}/{name}.json", pmc_files.make_metadata(pmcid, xml, version, **changes)),
            (f"{name}/{name}.xml", xml),
        ]
        (item,) = read(pmc_files.write_tar(tmp_path / "a.tar", members))
        return item

    return build


def test_folder_of_files_plain_and_gzipped(tmp_path: Path, pmc_files: Any) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.nxml").write_bytes(pmc_files.make_jats(2))
    (tmp_path / "a.xml").write_bytes(pmc_files.make_jats(1))
    (tmp_path / "sub" / "c.xml.gz").write_bytes(gzip.compress(pmc_files.make_jats(3)))
    (tmp_path / "sub" / "d.nxml.gz").write_bytes(gzip.compress(pmc_files.make_jats(4)))
    (tmp_path / "PMC9.1.txt").write_text("An extraction of NLM's own.")
    items = read(tmp_path)
    assert pmcids(items) == [1, 2, 3, 4]
    first = items[0]
    assert isinstance(first, Record)
    assert first.where == str(tmp_path / "a.xml")
    assert "Serum ferritin rose." in first.text
    assert metadata_of(first).licence == "CC BY"


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_old_archives_are_read_whatever_their_packing(tmp_path: Path, pmc_files: Any, ending: str) -> None:
    members = [(f"PMC000xxxxxx/PMC{n}.xml", pmc_files.make_jats(n)) for n in range(1, 6)]
    members.insert(2, ("PMC000xxxxxx/PMC2.txt", b"text"))
    members.insert(0, ("PMC000xxxxxx", b""))
    folder = tarfile.TarInfo("PMC000xxxxxx")
    folder.type = tarfile.DIRTYPE
    members[0] = (folder, b"")
    path = tmp_path / f"oa_comm_xml{ending}"
    if ending == ".tar.zst":
        pmc_files.write_tar(tmp_path / "plain.tar", members)
        path.write_bytes(zstandard.compress((tmp_path / "plain.tar").read_bytes()))
        (tmp_path / "plain.tar").unlink()
    else:
        pmc_files.write_tar(path, members)
    items = read(path)
    assert (pmcids(items), reasons(items)) == ([1, 2, 3, 4, 5], [])
    assert isinstance(items[0], Record)
    assert items[0].where == f"{path}, PMC000xxxxxx/PMC1.xml"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_tar_format(tmp_path: Path, pmc_files: Any, kind: int) -> None:
    names = [f"{'folder/' * 14}{'n' * 90}{number}.nxml" for number in (1, 2)]
    if kind != tarfile.USTAR_FORMAT:
        names = [f"{'földer/' * 40}{number}.nxml" for number in (1, 2)]
    members = [
        (name, pmc_files.make_jats(number, text="x" * 511)) for number, name in enumerate(names, start=1)
    ]
    items = read(pmc_files.write_tar(tmp_path / "a.tar", members, format=kind))
    assert pmcids(items) == [1, 2]
    assert all(isinstance(item, Record) and item.where.startswith(f"{tmp_path}/a.tar, f") for item in items)


def test_archives_joined_end_to_end_are_read_to_the_last(tmp_path: Path, pmc_files: Any) -> None:
    parts = [
        pmc_files.write_tar(tmp_path / f"{n}.tgz", [(f"{n}.xml", pmc_files.make_jats(n))]) for n in (1, 2)
    ]
    both = tmp_path / "both.tar.gz"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert pmcids(read(both)) == [1, 2]


@pytest.mark.parametrize(
    "place", ["PMC7.2/PMC7.2.json", "metadata/PMC7.2.json", "PMC7.2/metadata/PMC7.2.json"]
)
def test_metadata_on_disk_are_found_beside_the_article_or_in_their_folder(
    tmp_path: Path, pmc_files: Any, place: str
) -> None:
    xml = pmc_files.make_jats(7)
    (tmp_path / "PMC7.2").mkdir()
    (tmp_path / "PMC7.2" / "PMC7.2.xml").write_bytes(xml)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(
        pmc_files.make_metadata(7, xml, 2, pmid=70, doi="10.1000/SEVEN", is_retracted=True)
    )
    (item,) = read(tmp_path)
    found = metadata_of(item)
    assert (found.pmcid, found.version, found.pmid, found.doi) == (7, 2, 70, "10.1000/seven")
    assert found.licence == "CC BY"
    assert {"retracted", "open_access"} <= found.flags


def test_flags_and_identifiers_of_the_metadata_are_added(read_pair: ReadPair) -> None:
    found = metadata_of(read_pair(version=3, pmid="44", is_manuscript=True, is_historical_ocr=True))
    assert (found.version, found.pmid, found.title, found.year) == (3, 44, "Title 1", 2021)
    assert {"author_manuscript", "historical_ocr"} <= found.flags
    assert "retracted" not in found.flags


def test_version_comes_from_the_name_where_there_are_no_metadata(tmp_path: Path, pmc_files: Any) -> None:
    (tmp_path / "PMC7.4.xml").write_bytes(pmc_files.make_jats(7))
    (tmp_path / "PMC8.xml").write_bytes(pmc_files.make_jats(8))
    assert [metadata_of(item).version for item in read(tmp_path)] == [4, 1]


@pytest.mark.parametrize("order", ["json first", "xml first", "media between", "apart"])
def test_pairs_in_an_archive_are_found_in_either_order(
    tmp_path: Path, pmc_files: Any, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    members = []
    for number in (1, 2, 3):
        xml = pmc_files.make_jats(number)
        name = f"PMC{number}.1/PMC{number}.1"
        pair = [
            (f"{name}.json", pmc_files.make_metadata(number, xml, is_retracted=True)),
            (f"{name}.xml", xml),
        ]
        pair = pair if order == "json first" else pair[::-1]
        if order == "media between":
            pair[1:1] = [(f"{name}.txt", b"text"), (f"{name}.pdf", b"%PDF"), ("other.json", b"{}")]
        members += pair
    if order == "apart":
        members.sort(key=lambda member: member[0].endswith("json"))
    items = read(pmc_files.write_tar(tmp_path / "a.tar", members))
    assert pmcids(items) == [1, 2, 3]
    retracted = ["retracted" in metadata_of(item).flags for item in items]
    assert retracted == [order != "apart"] * 3
    assert ("3 metadata JSON stand apart" in caplog.text) == (order == "apart")


@pytest.mark.parametrize(
    ("licence", "code", "combined", "conflict"),
    [
        ("CC BY", "CC BY", "CC BY", False),
        ("CC BY-NC", "CC BY-NC", "CC BY-NC", False),
        ("CC BY-NC", "CC BY", None, True),
        ("CC BY", "CC BY-NC", None, True),
        ("CC BY", None, None, True),
        ("CC BY", "CC BY-FREE", None, True),
        (None, "CC BY", None, False),
        (None, "TDM", "TDM", False),
        (None, None, None, False),
    ],
)
def test_licence_counts_only_where_article_and_metadata_agree(
    read_pair: ReadPair,
    pmc_files: Any,
    licence: str | None,
    code: str | None,
    combined: str | None,
    conflict: bool,
) -> None:
    found = metadata_of(read_pair(pmc_files.make_jats(1, licence=licence), license_code=code))
    assert found.licence == combined
    assert ("licence_conflict" in found.flags) == conflict


@pytest.mark.parametrize(("xml", "changes"), [({"pmcid": 2}, {}), ({"pmid": 5}, {"pmid": 6})])
def test_metadata_of_another_article_are_a_counted_drop(
    read_pair: ReadPair, pmc_files: Any, xml: dict[str, int], changes: dict[str, int]
) -> None:
    item = read_pair(pmc_files.make_jats(**{"pmcid": 1, **xml}), **changes)
    assert isinstance(item, Dropped)
    assert (item.reason, item.problem) == ("metadata_mismatch", "")
    assert metadata_of(item).licence is None


def test_settings_of_the_articles_reach_the_text_and_the_identity(tmp_path: Path, pmc_files: Any) -> None:
    table = "</p><table-wrap><table><tbody><tr><td>cell one</td></tr></tbody></table></table-wrap><p>"
    (tmp_path / "a.xml").write_bytes(pmc_files.make_jats(text=f"Before.{table}After."))
    for tables in (True, False):
        (item,) = read(tmp_path, options=ArticleSettings(tables=tables))
        assert isinstance(item, Record)
        assert ("cell one" in item.text) == tables
    assert PmcReader().identify() != PmcReader(ArticleSettings(tables=False)).identify()


def test_reader_travels_to_workers_and_reports_positions(tmp_path: Path, pmc_files: Any) -> None:
    reader = pickle.loads(pickle.dumps(PmcReader(ArticleSettings(citations=True))))
    assert reader == PmcReader(ArticleSettings(citations=True))
    members = [(f"{n}.xml", pmc_files.make_jats(n)) for n in range(1, 20)]
    path = pmc_files.write_tar(tmp_path / "a.tar.gz", members)
    positions: list[int] = []
    (file,) = reader.list_inputs((str(path),))
    assert len(list(reader.iter_documents(file, positions.append))) == 19
    assert positions == sorted(positions)
    assert positions[-1] == path.stat().st_size
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be read"):
        list(reader.iter_documents(file, positions.append))


def test_shared_articles_are_the_same_from_files_and_from_an_archive(
    shared_data: Path, tmp_path: Path, pmc_files: Any
) -> None:
    paths = sorted((shared_data / "jats").glob("*.nxml"))
    archive = pmc_files.write_tar(tmp_path / "a.tar.gz", [(path.name, path.read_bytes()) for path in paths])
    plain, packed = read(*paths), read(archive)
    assert len(plain) == 5
    for one, other in zip(plain, packed, strict=True):
        assert isinstance(one, Record)
        assert isinstance(other, Record)
        assert (one.text, one.metadata) == (other.text, other.metadata)
        assert len(one.text) > 10_000

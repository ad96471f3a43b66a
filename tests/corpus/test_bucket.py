"""Fetching articles from a bucket: decided by metadata, checked, tried again, and never asked for twice."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bucket_server import DATE, BucketServer, Paper, build_objects

from biomedllama_cli.corpus.bucket import BucketReader, FetchProgress, FetchResult, fetch_articles
from biomedllama_cli.corpus.bucket.client import Patience
from biomedllama_cli.corpus.document import Dropped, Item
from biomedllama_cli.corpus.locks import hold_lock
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.sources.pmc import PmcReader
from biomedllama_cli.errors import OutputError, UnavailableError
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

QUICK = Patience(attempts=4, first_delay=0.01, longest_delay=1.0, read_timeout=0.5)

Fetch = Callable[..., FetchResult]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Return a function that fetches from a server into a folder."""

    def run(server: BucketServer | str, folder: str = "pmc", **settings: Any) -> FetchResult:
        url = server if isinstance(server, str) else server.url
        selection = SelectionSettings(**settings.pop("selection", {}))
        patience = settings.pop("patience", QUICK)
        bucket = BucketSettings(**{"inventory": DATE, "bucket_url": url, "connections": 8} | settings)
        return fetch_articles(bucket, selection, tmp_path / folder, patience=patience)

    return run


def read_bundles(result: FetchResult) -> dict[str, list[str]]:
    """Return the member names of each bundle, by folder and name."""
    names = {}
    for path in result.bundles:
        with tarfile.open(path) as archive:
            names[f"{path.parent.name}/{path.name}"] = archive.getnames()
    return names


def test_articles_are_bundled_with_metadata_before_xml_in_the_order_of_pmcids(fetch: Fetch) -> None:
    papers = [Paper(n) for n in (30, 4, 200)]
    with BucketServer(build_objects(papers)) as server:
        result = fetch(server)
    assert (result.considered, result.kept, result.dropped) == (3, 3, {})
    assert read_bundles(result) == {
        "cc-by/articles-00000.tar": [
            f"PMC{n}.1/PMC{n}.1.{end}" for n in (4, 30, 200) for end in ("json", "xml")
        ]
    }
    with tarfile.open(result.bundles[0]) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in archive} == {(0, 0, 0, "")}
    for paper in papers:
        assert contents[f"{paper.name}/{paper.name}.json"] == paper.metadata
        assert contents[f"{paper.name}/{paper.name}.xml"] == paper.xml


def test_a_bundle_holds_a_thousand_articles(fetch: Fetch) -> None:
    with BucketServer(build_objects(Paper(n, xml=b"<article/>") for n in range(1, 1102))) as server:
        result = fetch(server)
        assert [len(names) // 2 for names in read_bundles(result).values()] == [1000, 101]
        asked = server.requests.total()
        assert fetch(server) == result
        assert server.requests.total() == asked


def test_only_the_newest_version_is_considered(fetch: Fetch) -> None:
    papers = [Paper(1, 1), Paper(1, 10), Paper(1, 9), Paper(2)]
    with BucketServer(build_objects(papers)) as server:
        result = fetch(server)
        asked = set(server.requests)
    assert result.dropped == {"superseded_version": 2}
    assert (result.considered, result.kept) == (4, 2)
    assert "metadata/PMC1.10.json" in asked
    assert not {"metadata/PMC1.1.json", "metadata/PMC1.9.json"} & asked


REFUSED = {
    "noncommercial_licence": Paper(11, licence="CC BY-NC"),
    "no_derivatives_licence": Paper(12, licence="CC BY-ND"),
    "retracted": Paper(13, claims={"is_retracted": True}),
    "historical_ocr": Paper(14, claims={"is_historical_ocr": True}),
    "no_xml": Paper(15, claims={"xml_url": None}),
}


def test_what_is_not_wanted_is_counted_by_reason_and_its_xml_never_asked_for(fetch: Fetch) -> None:
    with BucketServer(build_objects([Paper(1), *REFUSED.values()])) as server:
        result = fetch(server)
        assert result.dropped == dict.fromkeys(REFUSED, 1)
        assert result.kept == 1
        for paper in REFUSED.values():
            assert f"{paper.name}/{paper.name}.xml" not in server.requests


@pytest.mark.parametrize("code", [None, "TDM", "PLOS custom", "cc by"])
def test_other_licences_and_manuscripts_under_tdm_are_not_for_commercial_use(
    fetch: Fetch, code: str | None
) -> None:
    with BucketServer(build_objects([Paper(1, licence=code, claims={"is_manuscript": True})])) as server:
        result = fetch(server)
        assert (result.kept, sum(result.dropped.values())) == (0, 1)
        assert fetch(server, selection={"licences": "all"}).kept == 1


def test_a_manuscript_under_a_creative_commons_licence_is_kept(fetch: Fetch) -> None:
    with BucketServer(build_objects([Paper(1, claims={"is_manuscript": True})])) as server:
        assert fetch(server).kept == 1


def test_refused_articles_come_as_dropped_documents_with_licence_and_pmid(fetch: Fetch) -> None:
    with BucketServer(build_objects([Paper(1), *REFUSED.values()])) as server:
        result = fetch(server)
    reader = BucketReader(_NoArticles())
    files = reader.list_inputs(result.inputs)
    assert [file.path for file in files] == [*result.bundles, *result.refusals]
    positions: list[int] = []
    items = [item for file in files for item in reader.iter_documents(file, positions.append)]
    assert all(isinstance(item, Dropped) for item in items)
    assert [item.reason for item in items] == list(REFUSED)  # type: ignore[union-attr]
    licensed = items[0].metadata  # type: ignore[union-attr]
    assert licensed is not None
    assert (licensed.pmid, licensed.pmcid, licensed.licence) == (10_000_011, 11, "CC BY-NC")
    assert licensed.doi == "10.1234/made.11"
    assert items[2].metadata.flags == {"retracted", "open_access"}  # type: ignore[union-attr]
    assert not any(item.problem for item in items)  # type: ignore[union-attr]  # none is an error of the input
    assert positions[-1] == result.refusals[0].stat().st_size


class _NoArticles:
    """A reader of bundles that finds nothing in them."""

    suffixes: ClassVar[tuple[str, ...]] = (".tar",)

    def list_inputs(self, patterns: tuple[str, ...]) -> list[Any]:
        return []

    def iter_documents(self, file: Any, report_position: Any) -> Any:
        return iter(())

    def identify(self) -> dict[str, Any]:
        return {}


def test_a_wider_licence_gate_fetches_only_what_is_new(fetch: Fetch) -> None:
    papers = [Paper(n) for n in range(1, 20)] + [Paper(n, licence="CC BY-NC") for n in range(20, 25)]
    with BucketServer(build_objects(papers)) as server:
        narrow = fetch(server)
        stamps = {path: path.stat().st_mtime_ns for path in narrow.bundles}
        asked = server.requests.total()
        wide = fetch(server, selection={"licences": "noncommercial"})
        assert server.requests.total() == asked + 5
        assert {path: path.stat().st_mtime_ns for path in narrow.bundles} == stamps
        assert set(narrow.bundles) < set(wide.bundles)
        refusals = narrow.refusals[0].stat().st_mtime_ns
        assert fetch(server) == narrow
        assert narrow.refusals[0].stat().st_mtime_ns == refusals  # same content: not even touched


def test_a_finished_fetch_needs_no_network(fetch: Fetch) -> None:
    with BucketServer(build_objects([Paper(1), Paper(2)])) as server:
        result = fetch(server)
    assert fetch(server) == result  # the server is gone


def test_fewer_articles_are_an_even_choice_that_is_always_the_same(fetch: Fetch) -> None:
    papers = [Paper(n, xml=b"<article/>") for n in range(1, 301)]
    with BucketServer(build_objects(papers)) as server:
        ten, again, fifty = (
            fetch(server, name, max_articles=n) for name, n in (("a", 10), ("b", 10), ("c", 50))
        )
    chosen = [next(iter(read_bundles(result).values())) for result in (ten, again, fifty)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 20
    assert set(chosen[0]) < set(chosen[2])
    numbers = sorted(int(name.split("/")[0][3:-2]) for name in chosen[2])
    assert 90 < sum(numbers) / len(numbers) < 210  # not the first fifty


TROUBLES = ["503", "429", "500", "502", "504", "reset", "cut", "damaged", "damaged without etag", "stall"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_tried_again(fetch: Fetch, trouble: str) -> None:
    papers = [Paper(n) for n in range(1, 4)]
    with BucketServer(build_objects(papers)) as server:
        server.faults["metadata/PMC2.1.json"] = [trouble]
        server.faults["PMC3.1/PMC3.1.xml"] = [trouble, trouble]
        assert fetch(server).kept == 3
        assert server.requests["metadata/PMC2.1.json"] == 2
        assert server.requests["PMC3.1/PMC3.1.xml"] == 3


def test_retry_after_is_waited_for(fetch: Fetch) -> None:
    with BucketServer(build_objects([Paper(1)])) as server:
        server.faults["metadata/PMC1.1.json"] = ["retry-after 1"]
        begin = time.monotonic()
        assert fetch(server).kept == 1
        assert time.monotonic() - begin >= 1.0


def test_trouble_on_any_request_does_not_change_a_byte(fetch: Fetch) -> None:
    papers = [Paper(n) for n in range(1, 60)]
    with BucketServer(build_objects(papers)) as server:
        calm = fetch(server, "calm")
        for number, paper in enumerate(papers):
            server.faults[f"metadata/{paper.name}.json"] = [TROUBLES[number % 9]]
            server.faults[f"{paper.name}/{paper.name}.xml"] = [TROUBLES[(number + 4) % 9]]
        rough = fetch(server, "rough")
    assert [path.read_bytes() for path in calm.bundles] == [path.read_bytes() for path in rough.bundles]
    assert rough.dropped == calm.dropped == {}


def test_many_requests_run_at_the_same_time_and_no_more_than_allowed(fetch: Fetch) -> None:
    with BucketServer(build_objects(Paper(n) for n in range(1, 100)), latency=0.02) as server:
        fetch(server, connections=16)
        assert 8 < server.peak <= 16


def test_an_object_that_cannot_be_fetched_ends_the_run_and_the_next_one_goes_on(fetch: Fetch) -> None:
    papers = [Paper(n) for n in range(1, 40)]
    with BucketServer(build_objects(papers)) as server:
        whole = fetch(server, "whole")
        server.requests.clear()
        server.faults["PMC7.1/PMC7.1.xml"] = ["503"] * 4
        with pytest.raises(
            UnavailableError, match=r"1 object of .* could not be fetched \(PMC7\.1/PMC7\.1\.xml"
        ) as e:
            fetch(server)
        assert "same command" in e.value.hint
        result = fetch(server)
        assert [n for name, n in server.requests.items() if n > 1] == [5]
    assert result.kept == whole.kept == 39
    assert result.bundles[0].read_bytes() == whole.bundles[0].read_bytes()


def test_a_bucket_that_vanishes_midway_is_given_up_before_every_object_was_tried(fetch: Fetch) -> None:
    with BucketServer(build_objects(Paper(n) for n in range(1, 301))) as server:
        server.faults["*"] = []
        fetch(server, max_articles=1)
        server.faults["*"] = ["503"] * 5000
        with pytest.raises(UnavailableError, match="100 objects"):
            fetch(server, patience=replace(QUICK, attempts=2))
        assert server.requests.total() < 260


def test_removed_and_changed_objects_are_counted_and_remembered(fetch: Fetch) -> None:
    papers = [Paper(n) for n in range(1, 6)]
    with BucketServer(build_objects(papers)) as server:
        del server.objects["metadata/PMC1.1.json"]
        server.objects["metadata/PMC2.1.json"] = Paper(2, claims={"title": "Another"}).metadata
        del server.objects["PMC3.1/PMC3.1.xml"]
        server.objects["PMC4.1/PMC4.1.xml"] = b"<article>changed</article>"
        result = fetch(server)
        assert result.dropped == {"changed_since_inventory": 2, "removed_from_bucket": 2}
        assert read_bundles(result)["cc-by/articles-00000.tar"] == ["PMC5.1/PMC5.1.json", "PMC5.1/PMC5.1.xml"]
        server.objects |= build_objects(papers)  # what was found once holds for this inventory
        asked = server.requests.total()
        assert fetch(server) == result
        assert server.requests.total() == asked


def test_metadata_that_did_not_change_serves_the_next_inventory(fetch: Fetch) -> None:
    papers = [Paper(n) for n in range(1, 10)]
    with BucketServer(build_objects(papers)) as server:
        fetch(server)
        server.objects |= build_objects([*papers, Paper(10)], date="2026-11-21")
        server.requests.clear()
        assert fetch(server, inventory="2026-11-21").kept == 10
        assert [key for key in server.requests if key.startswith("metadata/")] == ["metadata/PMC10.1.json"]


def test_progress_ends_at_the_total_of_each_stage(tmp_path: Path) -> None:
    told: list[FetchProgress] = []
    with BucketServer(build_objects([*(Paper(n) for n in range(20, 49)), *REFUSED.values()])) as server:
        settings = BucketSettings(inventory=DATE, bucket_url=server.url)
        fetch_articles(settings, SelectionSettings(), tmp_path, told.append, QUICK)
    last = {progress.stage: progress for progress in told}
    assert list(last) == ["inventory", "metadata", "articles"]
    assert all(progress.done == progress.total for progress in last.values())
    assert (last["metadata"].total, last["articles"].total) == (34, 29)


def test_a_second_process_on_the_same_folder_is_refused(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "pmc").mkdir()
    with (
        BucketServer(build_objects([Paper(1)])) as server,
        hold_lock(tmp_path / "pmc" / "lock"),
        pytest.raises(OutputError, match="another process is fetching"),
    ):
        fetch(server)


def test_without_a_network_the_error_comes_within_seconds_and_names_the_way_out(fetch: Fetch) -> None:
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match="cannot be reached") as raised:
        fetch("http://127.0.0.1:9", patience=Patience())
    assert "--input DIR" in raised.value.hint
    assert time.monotonic() - begin < 8


def test_the_plos_papers_read_from_bundles_are_the_same_as_from_their_files(
    fetch: Fetch, shared_data: Path
) -> None:
    files = PmcReader().list_inputs((str(shared_data / "jats" / "plos"),))
    papers = [Paper(number, xml=file.path.read_bytes()) for number, file in enumerate(files, start=100)]
    with BucketServer(build_objects(papers)) as server:
        result = fetch(server)
    assert len(files) == result.kept == 90
    reader = BucketReader(PmcReader())
    bundled = [item for file in reader.list_inputs(result.inputs) for item in read(reader, file)]
    from_files = [item for file in files for item in read(PmcReader(), file)]
    assert [getattr(item, "text", None) for item in bundled] == [item.text for item in from_files]  # type: ignore[union-attr]
    assert [item.metadata.pmcid for item in bundled] == list(range(100, 190))  # type: ignore[union-attr]


def read(reader: BucketReader | PmcReader, file: InputFile) -> list[Item]:
    return list(reader.iter_documents(file, lambda position: None))

"""`prepare --source pmc --inventory DATE` from the first request to the data card, against a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bucket_server import DATE, BucketServer, Paper, build_objects

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.recipes.prepare import PrepareReport

Prepare = Callable[..., PrepareReport]
SELECTION = {"language_filter": "off", "quality_filter": "off", "near_duplicates": "off"}


def run(run_prepare: Prepare, server: BucketServer, tmp_path: Path, **more: Any) -> PrepareReport:
    return run_prepare(
        source={"source": ("pmc",)},
        bucket={"inventory": DATE, "bucket_url": server.url, "download_dir": tmp_path / "downloads"},
        selection=SELECTION,
        **more,
    )


def test_corpus_is_made_of_what_the_metadata_permit_and_says_which_inventory(
    run_prepare: Prepare, tmp_path: Path
) -> None:
    papers = [Paper(number) for number in range(1, 13)]
    papers += [
        Paper(20, licence="CC BY-NC"),
        Paper(21, licence=None),
        Paper(22, claims={"is_retracted": True}),
    ]
    with BucketServer(build_objects(papers)) as server:
        report = run(run_prepare, server, tmp_path)
        asked = dict(server.requests)
        again = run(run_prepare, server, tmp_path, output_dir=tmp_path / "again", executor={"tasks": 1})
        assert dict(server.requests) == asked, "what is there was fetched again"
    manifest = report.manifest
    assert manifest is not None
    assert again.manifest is not None
    assert manifest.documents.read == 15
    assert manifest.documents.dropped == {"no_licence": 1, "noncommercial_licence": 1, "retracted": 1}
    assert manifest.inventory is not None
    assert manifest.inventory["date"] == DATE
    assert manifest.inventory["fetched"] == 12
    rows = pq.read_table(tmp_path / "corpus" / "documents.parquet").to_pylist()
    assert {row["pmcid"] for row in rows} == {f"PMC{number}" for number in range(1, 13)}
    assert {row["licence"] for row in rows} == {"CC BY"}
    assert [entry.sha256 for entry in manifest.shards] == [entry.sha256 for entry in again.manifest.shards]
    assert DATE in (tmp_path / "corpus" / "DATA_CARD.md").read_text()
    assert json.loads((tmp_path / "corpus" / "data_card.json").read_text())["inventory"]["date"] == DATE


def test_abstract_is_licensed_by_an_article_that_was_never_fetched(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any
) -> None:
    # Retracted articles are refused before they are fetched, yet their abstracts go with them.
    papers = [Paper(1), Paper(2, claims={"is_retracted": True}), Paper(3, licence="CC BY-NC")]
    citations = [
        pubmed_files.Citation(10_000_000 + number, abstract=f"Abstract {number}.") for number in (1, 2, 3)
    ]
    pubmed_files.write_set(tmp_path / "pubmed" / "pubmed26n0001.xml.gz", citations)
    with BucketServer(build_objects(papers)) as server:
        report = run_prepare(
            tmp_path / "pubmed",
            source={"source": ("pubmed", "pmc")},
            bucket={"inventory": DATE, "bucket_url": server.url, "download_dir": tmp_path / "downloads"},
            selection=SELECTION,
        )
    assert report.manifest is not None
    dropped = {source.name: source.documents.dropped for source in report.manifest.sources}
    assert dropped["pubmed"] == {"abstract_without_licence": 1, "full_text_kept": 1, "retracted": 1}
    assert dropped["pmc"] == {"noncommercial_licence": 1, "retracted": 1}


def test_without_a_network_nothing_is_written_and_the_way_out_is_named(
    run_prepare: Prepare, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError) as caught:
        run_prepare(
            source={"source": ("pmc",)},
            bucket={"inventory": DATE, "bucket_url": "http://127.0.0.1:9", "download_dir": tmp_path / "d"},
        )
    assert "--input" in caught.value.hint
    assert not (tmp_path / "corpus").exists()


def test_inventory_of_another_source_is_refused(run_prepare: Prepare) -> None:
    with pytest.raises(SettingsError, match="pmc is not among the sources"):
        run_prepare(source={"source": ("pubmed",)}, bucket={"inventory": DATE})


def test_latest_inventory_is_told_by_its_day(run_prepare: Prepare, tmp_path: Path) -> None:
    """Slurm's last job asks again, and by then another one may be the latest."""
    with BucketServer(build_objects([Paper(1), Paper(2)])) as server:
        bucket = {"inventory": "latest", "bucket_url": server.url, "download_dir": tmp_path / "downloads"}
        report = run_prepare(source={"source": ("pmc",)}, bucket=bucket, selection=SELECTION)
    assert report.manifest is not None
    assert report.manifest.settings["bucket"]["inventory"] == DATE

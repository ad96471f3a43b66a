"""`prepare` where sources, options and interrupted work meet."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from biomedllama_cli.corpus.document import Metadata, Record
from biomedllama_cli.corpus.selection import Gate
from biomedllama_cli.corpus.source import Part, Source
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.sources.pile import PileReader
from biomedllama_cli.corpus.task_writer import is_current
from biomedllama_cli.corpus.vocabulary import choose_texts
from biomedllama_cli.corpus.work_folder import WorkIdentity, find_work_folder, open_work_folder
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.recipes.prepare_report import PrepareReport
from biomedllama_cli.settings.prepare import PrepareSettings

Prepare = Callable[..., PrepareReport]
KEEP_ALL = {"language_filter": "off", "quality_filter": "off", "near_duplicates": "off"}


def test_a_finished_task_that_left_files_unread_is_known_again(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        lines = [records.make_record(records.make_text(ord(name) * 100 + i)) for i in range(4)]
        records.write_records(tmp_path / "in" / f"{name}.jsonl", lines)
    general = [records.make_record(records.make_text(9000 + i), None) for i in range(9)]
    records.write_records(tmp_path / "general.jsonl", general)
    options: dict[str, Any] = {
        "source": {"max_documents": 4},
        "replay": {"replay": str(tmp_path / "general.jsonl"), "replay_fraction": 0.2},
    }
    with monkeypatch.context() as broken:
        broken.setattr("biomedllama_cli.recipes.prepare.build_corpus", _fail)
        with pytest.raises(RuntimeError, match="in between"):
            run_prepare(tmp_path / "in", **options)
    report = run_prepare(tmp_path / "in", **options)
    assert report.tasks_resumed == report.tasks == 1
    assert report.manifest is not None
    assert [Path(entry.path).name for entry in report.manifest.inputs] == ["a.jsonl", "general.jsonl"]


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("in between")


def test_a_task_is_made_again_when_a_file_it_read_has_changed(tmp_path: Path) -> None:
    files = [InputFile(tmp_path / name, name, 10, 1) for name in ("a", "b", "c")]
    changed = [InputFile(tmp_path / "c", "c", 10, 2)]
    stamps = [[file.label, file.size, file.modified_ns] for file in (files[0], files[2])]
    (tmp_path / "summary.json").write_text(json.dumps({"stamps": stamps}))
    assert is_current(tmp_path, files)
    assert not is_current(tmp_path, [*files[:2], *changed])
    assert not is_current(tmp_path, files[1:])


def test_work_thrown_away_by_half_is_no_strangers_work(tmp_path: Path) -> None:
    work = find_work_folder(tmp_path / "corpus")
    for name in ("benchmarks", "executor", "tasks"):
        (work / name).mkdir(parents=True)
    with open_work_folder(tmp_path / "corpus", WorkIdentity("job", 1, False), overwrite=True) as opened:
        assert not (opened.path / "benchmarks").exists()


def test_tasks_do_not_copy_the_list_of_inputs(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "a.jsonl", "a.jsonl", 1, 1)
    source = Source((Part("pile", PileReader(), (file,)),))
    assert copy.deepcopy([source])[0] is source
    assert source.inputs == [(0, file)]
    sent = source.__reduce_ex__(4)[2]
    assert set(sent) == {"parts", "max_documents"}, "other processes are sent what they can derive"


def test_a_vocabulary_is_not_trained_on_abstracts_without_a_licence(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any
) -> None:
    pubmed_files.write_release(tmp_path / "pubmed")
    jats_files.write_article(tmp_path / "pmc", jats_files.Article(9999, licence=jats_files.BY_NC))
    options: dict[str, Any] = {
        "source": {"source": ("pubmed", "pmc")},
        "tokenization": {"vocabulary_size": 300, "tokenizer": None},
    }
    with pytest.raises(DataError, match="train a vocabulary"):
        run_prepare(tmp_path / "pubmed", tmp_path / "pmc", selection=KEEP_ALL, **options)


def test_texts_of_unlicensed_sources_are_not_chosen_for_a_vocabulary() -> None:
    class Reader:
        def iter_documents(self, file: InputFile, report: Any) -> Any:
            yield Record(file.label, None, file.label, Metadata())

    files = [InputFile(Path(name), name, 1, 1) for name in ("abstract", "article")]
    parts = tuple(Part(name, Reader(), (file,)) for name, file in zip(("pubmed", "pmc"), files, strict=True))  # type: ignore[arg-type]
    gates = (Gate(), Gate())
    assert choose_texts(Source(parts), gates, 0.0) == ["abstract", "article"]
    assert choose_texts(Source(parts), gates, 0.0, unlicensed=frozenset({"pubmed"})) == ["article"]


def test_a_left_out_citation_tells_its_full_text_of_a_benchmark(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, pmc_files: Any
) -> None:
    """The article names no PMID: only the citation, which has no abstract, knows both numbers."""
    citations = [pubmed_files.Citation(77, abstract=None, pmcid="PMC70"), pubmed_files.Citation(78)]
    pubmed_files.write_set(tmp_path / "pubmed" / "a.xml", citations)
    (tmp_path / "pmc").mkdir()
    for number in (70, 71):
        text = f"Serum ferritin {number} rose."
        (tmp_path / "pmc" / f"PMC{number}.1.xml").write_bytes(pmc_files.make_jats(number, text=text))
    question = {"QUESTION": "Does nothing of this stand in any text that is read here at all?"}
    item = {**question, "CONTEXTS": ["A context."], "LONG_ANSWER": "No.", "final_decision": "yes"}
    (tmp_path / "qa.json").write_text(json.dumps({"77": item}))
    report = run_prepare(
        tmp_path / "pubmed",
        tmp_path / "pmc",
        source={"source": ("pubmed", "pmc")},
        selection=KEEP_ALL,
        decontamination={"benchmark": (f"pubmedqa={tmp_path / 'qa.json'}",)},
    )
    assert report.manifest is not None
    assert report.manifest.documents.dropped["contaminated_twin"] == 1


def test_inputs_of_one_source_are_read_as_one(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any
) -> None:
    """Update files that are named before the baseline still come after it."""
    expected = pubmed_files.write_release(tmp_path / "in")
    report = run_prepare(
        tmp_path / "in" / "updatefiles",
        tmp_path / "in" / "baseline",
        source={"source": ("pubmed", "pubmed")},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
    )
    assert report.manifest is not None
    assert [source.name for source in report.manifest.sources] == ["pubmed"]
    assert report.manifest.documents.kept == len(expected)
    assert report.manifest.documents.dropped["deleted_citation"] == 1


def test_new_metadata_of_an_article_make_another_corpus(
    run_prepare: Prepare, tmp_path: Path, pmc_files: Any
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2, 3):
        xml = pmc_files.make_jats(number, text=f"Serum ferritin {number} rose.")
        (folder / f"PMC{number}.1.xml").write_bytes(xml)
        (folder / f"PMC{number}.1.json").write_bytes(pmc_files.make_metadata(number, xml))
    options: dict[str, Any] = {"source": {"source": ("pmc",)}, "selection": KEEP_ALL}
    run_prepare(folder, **options)
    assert run_prepare(folder, **options).state == "already_finished"
    metadata = folder / "PMC2.1.json"
    metadata.write_bytes(pmc_files.make_metadata(2, (folder / "PMC2.1.xml").read_bytes(), is_retracted=True))
    later = metadata.stat().st_mtime_ns + 10**9
    os.utime(metadata, ns=(later, later))
    report = run_prepare(folder, overwrite=True, **options)
    assert report.state == "finished"
    assert report.manifest is not None
    assert report.manifest.documents.dropped == {"retracted": 1}


@pytest.mark.parametrize(
    ("source", "bucket", "message"),
    [
        ({"source": ("pubmed",)}, {}, "source = pubmed: there is no input"),
        ({"source": ("pmc",)}, {}, "source = pmc: there is no input"),
        ({}, {"inventory": "latest"}, "pmc is not among the sources"),
        ({"source": ("pubmed", "pmc")}, {"inventory": "latest"}, "source = pubmed: there is no input"),
        ({"source": ("pmc",), "weight": ("pubmed=2",)}, {"inventory": "latest"}, "not among the sources"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would_refuse(
    run_prepare: Prepare, source: dict[str, Any], bucket: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run_prepare(dry_run=True, source=source, bucket=bucket)


def test_a_dry_run_looks_into_a_local_dataset(run_prepare: Prepare, tmp_path: Path, records: Any) -> None:
    for part in range(2):
        lines = [{"text": records.make_text(part * 10 + i)} for i in range(5)]
        records.write_records(tmp_path / "data" / f"train-{part}.parquet", lines)
    report = run_prepare(dry_run=True, source={"source": ("text",), "hub_dataset": str(tmp_path / "data")})
    assert (report.inputs, report.tasks) == (2, 2)


@pytest.mark.parametrize(
    "source",
    [{"sample": True, "source": ("pubmed",)}, {"subset": "pubmed", "source": ("pmc",), "input": ("x",)}],
)
def test_options_that_would_be_ignored_are_refused(source: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="source"):
        PrepareSettings.model_validate({"source": source})


def test_replay_far_above_the_share_asked_for_is_told(
    run_prepare: Prepare, tmp_path: Path, records: Any, caplog: pytest.LogCaptureFixture
) -> None:
    few = [records.make_record(records.make_text(i)) for i in range(3)]
    records.write_records(tmp_path / "in.jsonl", few)
    records.write_records(tmp_path / "general.jsonl", [records.make_record(records.make_text(99, words=400))])
    run_prepare(tmp_path / "in.jsonl", replay={"replay": str(tmp_path / "general.jsonl")})
    assert "0.01 was asked for: one document" in caplog.text

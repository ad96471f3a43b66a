"""What `prepare` tells before and after: nothing a user needs to know comes only after hours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from biomedllama_cli.corpus.sources.pmc import PmcReader
from biomedllama_cli.errors import DataError, OutputError, SettingsError, UnavailableError
from biomedllama_cli.recipes.prepare import PrepareReport
from biomedllama_cli.settings.prepare import PrepareSettings

Prepare = Callable[..., PrepareReport]
KEEP_ALL = {"language_filter": "off", "quality_filter": "off", "near_duplicates": "off"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_abstracts_that_no_licence_can_cover_are_refused_before_a_byte_is_read(
    run_prepare: Prepare, tmp_path: Path, dry_run: bool
) -> None:
    # The input does not even exist: the refusal comes first.
    with pytest.raises(SettingsError, match="no licence is known of any abstract") as refused:
        run_prepare(tmp_path / "in", dry_run=dry_run, source={"source": ("pubmed",)})
    assert "--accept-abstract-copyright" in refused.value.hint
    with pytest.raises(DataError, match="matches no file"):
        run_prepare(tmp_path / "in", source={"source": ("pubmed",)}, selection={"licences": "all"})


def test_abstracts_beside_articles_of_which_none_stays_are_told(
    run_prepare: Prepare,
    tmp_path: Path,
    pubmed_files: Any,
    jats_files: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    citation = pubmed_files.Citation(1, title="Title.", abstract="Abstract.")
    pubmed_files.write_set(tmp_path / "pubmed" / "pubmed26n0001.xml.gz", [citation])
    jats_files.write_article(tmp_path / "pmc", jats_files.Article(5002, 2))
    both = {"source": {"source": ("pubmed", "pmc")}}
    run_prepare(tmp_path / "pubmed", tmp_path / "pmc", selection=KEEP_ALL, **both)
    assert "no abstract was kept" in caplog.text
    caplog.clear()
    accepting = {**KEEP_ALL, "accept_abstract_copyright": True}
    run_prepare(tmp_path / "pubmed", tmp_path / "pmc", selection=accepting, overwrite=True, **both)
    assert "no abstract was kept" not in caplog.text


@pytest.mark.parametrize(
    ("on_bad_record", "fate"), [("error", "the run would stop there"), ("skip", "would be counted")]
)
def test_a_dry_run_tells_records_that_cannot_be_read(
    run_prepare: Prepare, tmp_path: Path, records: Any, on_bad_record: str, fate: str
) -> None:
    path = records.write_records(
        tmp_path / "a.jsonl", [records.make_record(records.make_text(i)) for i in range(4)]
    )
    with path.open("a") as file:
        file.write('{"text": 7}\n{"text"\n')
    report = run_prepare(path, dry_run=True, source={"on_bad_record": on_bad_record})
    assert report.estimate is not None
    assert report.estimate.unreadable == 2
    text = "\n".join(report.lines())
    assert "2 records of the input cannot be read, first" in text
    assert "a.jsonl" in text
    assert fate in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decontamination": {"decontaminate": "report"}}, "decontaminate = report needs a benchmark"),
        ({"decontamination": {"decontaminate": "off", "benchmark": ["medqa"]}}, "looks for nothing"),
        ({"bucket": {"max_articles": 3}}, "inventory names none"),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PrepareSettings.model_validate(settings)


def test_a_dry_run_without_a_tokenizer_at_hand_says_why_it_estimates_nothing(
    run_prepare: Prepare, tmp_path: Path, records: Any
) -> None:
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(records.make_text(1))])
    report = run_prepare(path, dry_run=True, tokenization={"tokenizer": "huggyllama/llama-7b"})
    text = "\n".join(report.lines())
    assert "No estimate of tokens: the tokenizer huggyllama/llama-7b is on the hub" in text
    text = "\n".join(
        run_prepare(path, dry_run=True, tokenization={"tokenizer": None, "vocabulary_size": 300}).lines()
    )
    assert "the vocabulary is yet to be trained" in text


def test_a_dry_run_says_what_it_would_fetch(run_prepare: Prepare) -> None:
    report = run_prepare(dry_run=True, source={"source": ("pmc",)}, bucket={"inventory": "2026-11-20"})
    text = "\n".join(report.lines())
    assert (
        "Would fetch the articles of inventory 2026-11-20 of https://pmc-oa-opendata.s3.amazonaws.com" in text
    )
    assert "Would read 1 input" not in text
    assert "the input is not here" in text


def test_a_dry_run_stays_off_the_hub(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("biomedllama_cli.recipes.prepare_source.open_hub_dataset", fail)
    monkeypatch.setattr("biomedllama_cli.corpus.decontamination.items.iter_hub_records", fail)
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(records.make_text(1))])
    report = run_prepare(
        path,
        dry_run=True,
        replay={"replay": "owner/dataset"},
        decontamination={"benchmark": ("mmlu-medical", f"medqa={tmp_path / 'x.jsonl'}")},
    )
    assert report.estimate is not None
    assert report.unknown == (
        "Not looked at, for it is on the hub: the hub dataset owner/dataset of --replay; "
        "mmlu-medical of --benchmark",
    )


@pytest.mark.parametrize(("mode", "fate"), [("report", "kept"), ("drop", "left out")])
def test_the_summary_says_what_was_found_of_benchmarks(
    run_prepare: Prepare, tmp_path: Path, records: Any, mode: str, fate: str
) -> None:
    question = " ".join(f"word{i}" for i in range(40))
    item = {"QUESTION": question, "CONTEXTS": [question], "LONG_ANSWER": "It is.", "final_decision": "yes"}
    short = {"QUESTION": "Is it?", "CONTEXTS": ["So."], "LONG_ANSWER": "No.", "final_decision": "no"}
    benchmark = tmp_path / "items.json"
    benchmark.write_text(json.dumps({"a": item, "b": short}))
    lines = [records.make_record(records.make_text(i)) for i in range(3)]
    path = records.write_records(
        tmp_path / "a.jsonl", [*lines, records.make_record(f"Before. {question} After.")]
    )
    report = run_prepare(
        path, decontamination={"benchmark": (f"pubmedqa={benchmark}",), "decontaminate": mode}
    )
    assert (
        f"Benchmarks: 1 document held 1 of 2 items of 1 benchmark, {fate}: see contamination.jsonl; "
        "1 item could not be looked for" in report.lines()
    )


JATS = b"<article><front/><body><p>Text.</p></body></article>"
CITATIONS = b"<PubmedArticleSet><PubmedArticle><MedlineCitation/></PubmedArticle></PubmedArticleSet>"


@pytest.mark.parametrize(
    ("source", "content", "advice"),
    [("pubmed", JATS, "--source pmc reads articles"), ("pmc", CITATIONS, "--source pubmed reads citations")],
)
def test_xml_of_the_other_source_is_told_by_name(
    run_prepare: Prepare, tmp_path: Path, source: str, content: bytes, advice: str
) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(DataError, match=advice):
        run_prepare(tmp_path / "a.xml", source={"source": (source,)}, selection={"licences": "all"})


@pytest.mark.parametrize("named", ["folder", "file"])
def test_xml_without_a_source_asks_for_one(run_prepare: Prepare, tmp_path: Path, named: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_bytes(JATS)
    with pytest.raises(DataError) as refused:
        run_prepare(tmp_path / "in" / ("a.xml" if named == "file" else ""))
    assert "--source pmc" in refused.value.hint
    assert "--source pubmed" in refused.value.hint


def test_the_place_of_broken_xml_is_named_once(run_prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<article>\n<body")
    with pytest.raises(DataError) as refused:
        run_prepare(tmp_path / "a.xml", source={"source": ("pmc",)})
    assert refused.value.message.count("line") == 1


@pytest.mark.parametrize(
    ("weight", "hint"),
    [("pubmed=2", "--weight pile=2"), ("2", "--weight pile=2"), ("pile=x", "--weight pile=2")],
)
def test_hints_on_weights_name_a_source_that_is_there(
    run_prepare: Prepare, tmp_path: Path, weight: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        run_prepare(tmp_path / "a.jsonl", source={"weight": (weight,)})
    assert hint in refused.value.hint


def test_missing_text_to_replay_is_told_as_such(run_prepare: Prepare, tmp_path: Path, records: Any) -> None:
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(records.make_text(1))])
    with pytest.raises(DataError, match=r"replay\.replay: .*nofile\.jsonl") as refused:
        run_prepare(path, replay={"replay": str(tmp_path / "nofile.jsonl")})
    assert "--sample" not in refused.value.hint


@pytest.mark.parametrize(("name", "offered"), [("notes.txt", False), ("manifest.json", True)])
def test_replacing_is_offered_only_where_there_is_a_corpus(
    run_prepare: Prepare, tmp_path: Path, records: Any, name: str, offered: bool
) -> None:
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(records.make_text(1))])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / name).touch()
    with pytest.raises(OutputError) as refused:
        run_prepare(path)
    assert ("--overwrite" in refused.value.hint) is offered


@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_an_executor_that_is_not_here_is_refused_before_anything_is_written(
    run_prepare: Prepare, tmp_path: Path, records: Any, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(records.make_text(1))])
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("biomedllama_cli.corpus.ray_cluster.importlib.util.find_spec", lambda _: None)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnavailableError, match=executor):
        run_prepare(path, executor={"executor": executor})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("source", ["text", "pile"])
def test_training_text_not_searched_for_benchmarks_is_told(
    run_prepare: Prepare, tmp_path: Path, records: Any, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [records.make_record(records.make_text(i)) for i in range(3)]
    path = records.write_records(tmp_path / "a.jsonl", lines)
    run_prepare(path, source={"source": (source,)}, selection=KEEP_ALL)
    assert ("benchmark questions were not looked for" in caplog.text) is (source == "text")


def test_only_files_of_one_article_bound_the_documents(tmp_path: Path, jats_files: Any) -> None:
    reader = PmcReader()
    jats_files.write_article(tmp_path, jats_files.Article(1))
    (tmp_path / "more.tar").write_bytes(b"")
    assert {file.path.suffix: reader.holds_one(file) for file in reader.list_inputs((str(tmp_path),))} == {
        ".xml": True,
        ".tar": False,
    }

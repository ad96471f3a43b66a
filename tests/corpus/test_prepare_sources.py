"""`prepare` from PubMed and PubMed Central: what stays, why the rest goes, and where the text can be found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.recipes.prepare import PrepareReport

Prepare = Callable[..., PrepareReport]
KEEP_ALL = {"language_filter": "off", "quality_filter": "off", "near_duplicates": "off"}


def read_table(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "documents.parquet").to_pylist()
    return rows


def test_updates_are_applied_and_what_is_withdrawn_or_retracted_goes(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any
) -> None:
    expected = pubmed_files.write_release(tmp_path / "in")
    report = run_prepare(
        tmp_path / "in",
        source={"source": ("pubmed",)},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
    )
    assert report.manifest is not None
    assert report.manifest.documents.dropped == {
        "deleted_citation": 1,
        "no_abstract": 1,
        "retracted": 1,
        "retraction_notice": 1,
        "superseded_version": 3,
    }
    rows = read_table(tmp_path / "corpus")
    assert sorted(row["id"] for row in rows) == sorted(f"pmid:{c.pmid}.{c.version}" for c in expected)


def test_every_row_of_the_table_finds_its_text_again(
    run_prepare: Prepare, tmp_path: Path, tiny_tokenizer: Path, pubmed_files: Any
) -> None:
    expected = {c.pmid: c.text for c in pubmed_files.write_release(tmp_path / "in")}
    run_prepare(
        tmp_path / "in",
        source={"source": ("pubmed",)},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
        output={"validation_fraction": 0.3, "shard_tokens": 60},
    )
    corpus = load_corpus(tmp_path / "corpus")
    shards = {shard.path.name: shard for shard in (*corpus.train, *corpus.validation)}
    tokenizer = load_tokenizer(str(tiny_tokenizer))
    rows = read_table(tmp_path / "corpus")
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert len({row["shard"] for row in rows}) > 2
    for row in rows:
        shard = shards[row["shard"]]
        start, stop = shard.document_starts[row["document"]], shard.document_starts[row["document"] + 1]
        assert (start, stop - start) == (row["first_token"], row["tokens"])
        text = tokenizer.decode(shard.token_ids[start:stop].tolist())
        assert text == expected[row["pmid"]]
        assert row["bytes"] == len(text.encode())


def test_abstracts_need_a_licence_unless_their_copyright_is_accepted(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any
) -> None:
    pubmed_files.write_release(tmp_path / "in")
    jats_files.write_article(tmp_path / "pmc", jats_files.Article(9999, licence=jats_files.BY_NC))
    with pytest.raises(DataError, match="abstract_without_licence") as refused:
        run_prepare(
            tmp_path / "in", tmp_path / "pmc", source={"source": ("pubmed", "pmc")}, selection=KEEP_ALL
        )
    assert "--accept-abstract-copyright" in refused.value.hint
    report = run_prepare(
        tmp_path / "in", source={"source": ("pubmed",)}, selection={**KEEP_ALL, "licences": "all"}
    )
    assert report.manifest is not None
    assert report.manifest.documents.kept == 4


def write_both(folder: Path, pubmed_files: Any, jats_files: Any) -> None:
    """Write four citations and the articles of three of them: permitted, not permitted, and retracted."""
    citations = [
        pubmed_files.Citation(n, title=f"Title {n}.", abstract=f"Abstract {n}.", pmcid=f"PMC{n + 5000}")
        for n in (1, 2, 3)
    ]
    citations.append(pubmed_files.Citation(4, title="Title 4.", abstract="Abstract 4."))
    pubmed_files.write_set(folder / "pubmed" / "pubmed26n0001.xml.gz", citations)
    articles = [
        jats_files.Article(5001, 1, "10.1371/one"),
        jats_files.Article(5002, 2, "10.1371/two", licence=jats_files.BY_NC),
        jats_files.Article(5003, 3, "10.1371/three"),
        jats_files.Article(
            5004,
            front='<related-article related-article-type="retracted-article" ext-link-type="doi" '
            'xlink:href="10.1371/three"/>',
            kind="retraction",
        ),
    ]
    for article in articles:
        jats_files.write_article(folder / "pmc", article)


def test_full_text_takes_the_place_of_its_abstract_and_twins_share_fate(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any
) -> None:
    write_both(tmp_path, pubmed_files, jats_files)
    report = run_prepare(
        tmp_path / "pubmed", tmp_path / "pmc", source={"source": ("pubmed", "pmc")}, selection=KEEP_ALL
    )
    assert report.manifest is not None
    by_source = {source.name: source.documents.dropped for source in report.manifest.sources}
    # 1: full text kept; 2: its article is not for commercial use; 3: retracted with its article; 4: no article.
    assert by_source["pubmed"] == {"abstract_without_licence": 2, "full_text_kept": 1, "retracted": 1}
    assert by_source["pmc"] == {"noncommercial_licence": 1, "retracted": 1, "retraction_notice": 1}
    (row,) = read_table(tmp_path / "corpus")
    assert (row["id"], row["licence"], row["doi"]) == ("pmcid:PMC5001.1", "CC BY", "10.1371/one")


def test_noncommercial_purpose_keeps_both_texts_of_what_it_permits(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any
) -> None:
    write_both(tmp_path, pubmed_files, jats_files)
    run_prepare(
        tmp_path / "pubmed",
        tmp_path / "pmc",
        source={"source": ("pubmed", "pmc"), "weight": ("pmc=2",)},
        selection={**KEEP_ALL, "licences": "noncommercial"},
    )
    assert {row["pmcid"] for row in read_table(tmp_path / "corpus")} == {"PMC5001", "PMC5002"}
    corpus = load_corpus(tmp_path / "corpus")
    assert {source.name: source.weight for source in corpus.manifest.sources} == {"pubmed": 1.0, "pmc": 2.0}


@pytest.mark.parametrize("tasks", [2, 5])
def test_table_and_shards_do_not_depend_on_tasks_or_workers(
    run_prepare: Prepare, tmp_path: Path, tasks: int, pubmed_files: Any, jats_files: Any
) -> None:
    pubmed_files.write_release(tmp_path / "in")
    for number in range(6):
        jats_files.write_article(tmp_path / "pmc", jats_files.Article(7000 + number, 2000 + number))
    names = ["train-00000.bin", "train-00001.bin", "documents.parquet"]
    found = []
    for name, executor in (("one", {"tasks": 1}), ("more", {"tasks": tasks, "workers": 2})):
        run_prepare(
            tmp_path / "in",
            tmp_path / "pmc",
            output_dir=tmp_path / name,
            source={"source": ("pubmed", "pmc")},
            selection={**KEEP_ALL, "accept_abstract_copyright": True},
            executor=executor,
        )
        table = pq.read_table(tmp_path / name / "documents.parquet").to_pylist()
        found.append([table, *((tmp_path / name / shard).read_bytes() for shard in names[:2])])
    assert found[0] == found[1]


def test_replayed_text_is_the_share_asked_for_and_never_held_out(
    run_prepare: Prepare, tmp_path: Path, records: Any
) -> None:
    records.write_records(
        tmp_path / "in.jsonl", [records.make_record(records.make_text(i)) for i in range(120)]
    )
    records.write_records(
        tmp_path / "general.jsonl", [{"text": records.make_text(i, 12)} for i in range(1000, 1400)]
    )
    report = run_prepare(
        tmp_path / "in.jsonl",
        replay={"replay": str(tmp_path / "general.jsonl"), "replay_fraction": 0.1},
        output={"validation_fraction": 0.2},
    )
    assert report.manifest is not None
    sources = {source.name: source for source in report.manifest.sources}
    replayed = sources["replay"]
    assert replayed.documents.validation == 0
    assert set(replayed.documents.dropped) == {"replay_surplus"}
    share = replayed.train_tokens / report.manifest.tokens.train
    longest = max(row["tokens"] for row in read_table(tmp_path / "corpus") if row["source"] == "replay")
    assert 0.1 <= share <= 0.1 + longest / report.manifest.tokens.train
    assert {entry.source for entry in report.manifest.shards} == {"pile", "replay"}


def test_too_little_text_to_replay_is_said(
    run_prepare: Prepare, tmp_path: Path, records: Any, caplog: pytest.LogCaptureFixture
) -> None:
    records.write_records(
        tmp_path / "in.jsonl", [records.make_record(records.make_text(i)) for i in range(60)]
    )
    records.write_records(tmp_path / "general.jsonl", [{"text": "Some general text."}])
    run_prepare(
        tmp_path / "in.jsonl", replay={"replay": str(tmp_path / "general.jsonl"), "replay_fraction": 0.5}
    )
    assert "replay" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": ("pubmed",)}, "there is no input"),
        ({"source": ("pmc",)}, "there is no input"),
        ({"source": ("pile",), "input": ("x",), "weight": ("pmc=2",)}, "'pmc' is not among the sources"),
        ({"source": ("pile",), "input": ("x",), "weight": ("pile=0",)}, "above 0"),
        ({"source": ("pile",), "input": ("x",), "weight": ("pile=nan",)}, "above 0"),
        ({"source": ("pubmed", "pmc"), "input": ("a", "b", "c")}, "2 sources"),
    ],
)
def test_sources_inputs_and_weights_that_do_not_fit_are_refused(
    run_prepare: Prepare, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run_prepare(source=settings)


def test_many_inputs_are_listed_in_a_file_of_their_own(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.recipes.prepare_corpus._MAX_INPUTS_IN_MANIFEST", 3)
    for number in range(5):
        records.write_records(
            tmp_path / "in" / f"{number}.jsonl", [records.make_record(records.make_text(number))]
        )
    report = run_prepare(tmp_path / "in")
    assert report.manifest is not None
    (entry,) = report.manifest.inputs
    listed = [json.loads(line) for line in (tmp_path / "corpus" / entry.path).read_text().splitlines()]
    assert [Path(row["path"]).name for row in listed] == [f"{number}.jsonl" for number in range(5)]


@pytest.mark.parametrize("mode", ["report", "drop"])
def test_benchmark_items_are_reported_and_dropped(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any, mode: str
) -> None:
    pubmed_files.write_set(
        tmp_path / "pubmed" / "pubmed26n0001.xml.gz",
        [
            pubmed_files.Citation(n, title=f"Title {n}.", abstract=f"Abstract {n} on ferritin.")
            for n in (1, 2, 3)
        ],
    )
    jats_files.write_article(tmp_path / "pmc", jats_files.Article(5001, 1))
    item = {
        "QUESTION": "Is it?",
        "CONTEXTS": ["A context."],
        "LONG_ANSWER": "It is.",
        "final_decision": "yes",
    }
    benchmark = tmp_path / "ori_pqal.json"
    benchmark.write_text(json.dumps({"1": item, "77": item}))
    report = run_prepare(
        tmp_path / "pubmed",
        tmp_path / "pmc",
        source={"source": ("pubmed", "pmc")},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
        decontamination={"benchmark": (f"pubmedqa={benchmark}",), "decontaminate": mode},
    )
    assert report.manifest is not None
    dropped = report.manifest.documents.dropped
    # The article carries the PMID too; without decontamination it stays and its abstract goes.
    assert dropped == ({"contaminated": 2} if mode == "drop" else {"full_text_kept": 1})
    found = [json.loads(line) for line in (tmp_path / "corpus" / "contamination.jsonl").open()]
    assert [(line["item"], line["count"]) for line in found] == [("1", 2)]
    assert report.manifest.decontamination["mode"] == mode
    assert report.manifest.decontamination["benchmarks"]["pubmedqa"]["items"] == 2


def test_article_without_the_pmid_goes_with_its_contaminated_abstract(
    run_prepare: Prepare, tmp_path: Path, pubmed_files: Any, jats_files: Any
) -> None:
    pubmed_files.write_set(
        tmp_path / "pubmed" / "pubmed26n0001.xml.gz",
        [
            pubmed_files.Citation(1, abstract="Abstract 1.", pmcid="PMC5001"),
            pubmed_files.Citation(2, abstract="B."),
        ],
    )
    jats_files.write_article(tmp_path / "pmc", jats_files.Article(5001))
    benchmark = tmp_path / "ori_pqal.json"
    item = {
        "QUESTION": "Is it?",
        "CONTEXTS": ["A context."],
        "LONG_ANSWER": "It is.",
        "final_decision": "yes",
    }
    benchmark.write_text(json.dumps({"1": item}))
    report = run_prepare(
        tmp_path / "pubmed",
        tmp_path / "pmc",
        source={"source": ("pubmed", "pmc")},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
        decontamination={"benchmark": (f"pubmedqa={benchmark}",)},
    )
    assert report.manifest is not None
    assert report.manifest.documents.dropped == {"contaminated": 1, "contaminated_twin": 1}


def test_folder_says_what_it_is(run_prepare: Prepare, tmp_path: Path, pubmed_files: Any) -> None:
    pubmed_files.write_release(tmp_path / "in")
    report = run_prepare(
        tmp_path / "in",
        source={"source": ("pubmed",)},
        selection={**KEEP_ALL, "accept_abstract_copyright": True},
    )
    folder = tmp_path / "corpus"
    card = (folder / "DATA_CARD.md").read_text()
    assert "National Library of Medicine" in card
    assert "`deleted_citation`" in card
    assert (folder / "document_lengths.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "data_card.json").read_text())["documents"]["kept"] == 4
    assert report.manifest is not None
    listed = {entry.file for entry in report.manifest.files}
    shards = {path.name for path in folder.glob("*-0*")}
    assert {path.name for path in folder.iterdir()} == listed | shards | {"manifest.json", "tokenizer"}


def test_table_is_the_same_file_however_the_input_is_cut(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.corpus.document_table._ROWS_PER_GROUP", 16)
    for number in range(5):
        rows = [records.make_record(records.make_text(100 * number + i)) for i in range(23)]
        rows += [records.make_record(records.make_text(100 * number)), records.make_record(" ")]
        records.write_records(tmp_path / "in" / f"{number}.jsonl", rows)
    found = []
    for tasks in (1, 3, 5):
        folder = tmp_path / f"out-{tasks}"
        run_prepare(tmp_path / "in", output_dir=folder, executor={"tasks": tasks})
        examples = json.loads((folder / "data_card.json").read_text())["examples"]
        found.append(((folder / "documents.parquet").read_bytes(), examples))
    assert found[0] == found[1] == found[2]
    assert pq.ParquetFile(tmp_path / "out-1" / "documents.parquet").num_row_groups == 8


def test_finished_corpora_below_the_input_folder_are_no_input(
    run_prepare: Prepare, tmp_path: Path, records: Any
) -> None:
    records.write_records(
        tmp_path / "in" / "a.jsonl", [records.make_record(records.make_text(i)) for i in range(5)]
    )
    first = run_prepare(tmp_path / "in", output_dir=tmp_path / "in" / "corpora" / "x")
    again = run_prepare(tmp_path / "in", output_dir=tmp_path / "in" / "corpora" / "x")
    assert (first.state, again.state) == ("finished", "already_finished")


def test_a_large_source_of_replay_is_not_read_to_its_end(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.recipes.prepare_source.limit_replay", lambda *arguments: 5_000)
    records.write_records(
        tmp_path / "in.jsonl", [records.make_record(records.make_text(i)) for i in range(50)]
    )
    records.write_records(
        tmp_path / "general.jsonl", [{"text": records.make_text(i)} for i in range(1000, 2000)]
    )
    report = run_prepare(tmp_path / "in.jsonl", replay={"replay": str(tmp_path / "general.jsonl")})
    assert report.manifest is not None
    read = {source.name: source.documents.read for source in report.manifest.sources}
    assert read["pile"] == 50
    assert 1 < read["replay"] < 100

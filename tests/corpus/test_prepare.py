"""`prepare` as a whole: the folder it writes, what it counts, and when it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from biomedllama_cli.corpus.manifest import find_newest_corpus, load_corpus
from biomedllama_cli.corpus.split import hash_content
from biomedllama_cli.errors import DataError, ModelError, OutputError, SettingsError, UnavailableError
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.recipes.prepare import PrepareReport

Prepare = Callable[..., PrepareReport]


def read_documents(folder: Path) -> dict[str, list[list[int]]]:
    corpus = load_corpus(folder)
    return {
        split: [
            shard.token_ids[a:b].tolist()
            for shard in shards
            for a, b in zip(shard.document_starts[:-1], shard.document_starts[1:], strict=True)
        ]
        for split, shards in (("train", corpus.train), ("validation", corpus.validation))
    }


def read_shards(folder: Path) -> dict[str, bytes]:
    names = [*sorted(folder.glob("*-0*")), folder / "token_counts.npy"]
    return {path.name: path.read_bytes() for path in names}


@pytest.fixture
def inputs(tmp_path: Path, records: Any) -> Path:
    """Return a folder of five files: 60 abstracts, 10 papers, 5 others, 6 repeats, one blank text."""
    folder = tmp_path / "input"
    rows = [records.make_record(records.make_text(i)) for i in range(60)]
    rows += [records.make_record(records.make_text(i, 300), records.CENTRAL) for i in range(100, 110)]
    rows += [records.make_record(records.make_text(i), "DM Mathematics") for i in range(200, 205)]
    rows += [records.make_record(records.make_text(i)) for i in (0, 0, 17, 17, 42, 59)]
    rows += [records.make_record("  \n")]
    for number, name in enumerate(["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e.jsonl.zst"]):
        records.write_records(folder / name, rows[number::5])
    return folder


def test_every_token_of_every_document_is_there(
    run_prepare: Prepare, inputs: Path, records: Any, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    report = run_prepare(inputs, output={"validation_fraction": 0.2})
    manifest = report.manifest
    assert manifest is not None
    assert manifest.documents.read == 82
    assert manifest.documents.dropped == {"empty_text": 1, "exact_duplicate": 6}
    tokenizer = load_tokenizer(str(tiny_tokenizer))
    texts = [records.make_text(i) for i in range(60)]
    texts += [records.make_text(i, 300) for i in range(100, 110)]
    texts += [records.make_text(i) for i in range(200, 205)]
    expected: dict[str, list[Any]] = {"train": [], "validation": []}
    for text in texts:
        held_out = hash_content(text.encode())[1] / 2**64 < 0.2
        expected["validation" if held_out else "train"].append([1, *tokenizer.encode(text), 2])
    found = read_documents(tmp_path / "corpus")
    assert sorted(found["train"]) == sorted(expected["train"])
    assert sorted(found["validation"]) == sorted(expected["validation"])
    for split in ("train", "validation"):
        kept = [t for t in texts if (hash_content(t.encode())[1] / 2**64 < 0.2) == (split == "validation")]
        assert getattr(manifest.bytes, split) == sum(len(text.encode()) for text in kept)
        assert getattr(manifest.tokens, split) == sum(map(len, found[split]))
    counts = np.load(tmp_path / "corpus" / "token_counts.npy")
    assert counts.tolist() == np.bincount(np.concatenate(found["train"]), minlength=400).tolist()


def test_manifest_says_what_was_done(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    report = run_prepare(inputs, source={"subset": "pubmed-central"})
    data = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert data["documents"]["dropped"] == {"other_subset": 72}
    assert data["documents"]["read"] == data["documents"]["kept"] + 72 == 82
    assert data["settings"]["source"]["subset"] == "pubmed-central"
    assert [Path(entry["path"]).name for entry in data["inputs"]] == sorted(p.name for p in inputs.iterdir())
    assert all(len(entry["sha256"]) == 64 for entry in data["inputs"] + data["shards"])
    assert data["tokenizer"]["fingerprint"] == load_tokenizer(str(tiny_tokenizer)).fingerprint
    assert {"biomedllama-cli", "datatrove", "sentencepiece"} <= data["versions"].keys()
    assert report.model_dump(mode="json")["manifest"] == data
    assert AutoTokenizer.from_pretrained(tmp_path / "corpus" / "tokenizer").eos_token_id == data["eos_id"]
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("subset", "kept"), [("pubmed-abstracts", 60), ("pubmed-central", 10), ("pubmed", 70)]
)
def test_subset_keeps_its_part_of_the_pile(
    run_prepare: Prepare, inputs: Path, subset: str, kept: int
) -> None:
    manifest = run_prepare(inputs, source={"subset": subset}).manifest
    assert manifest is not None
    assert manifest.documents.kept == kept


def test_result_is_byte_identical_for_any_workers_and_tasks(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    found = []
    for number, executor in enumerate([{}, {"workers": 2}, {"tasks": 2}, {"tasks": 1}]):
        output = {"validation_fraction": 0.1, "shard_tokens": 2000}
        run_prepare(inputs, output_dir=tmp_path / str(number), executor=executor, output=output)
        found.append(read_shards(tmp_path / str(number)))
    assert len(found[0]) > 6
    assert all(shards == found[0] for shards in found)


def test_shards_hold_no_more_than_asked_and_never_cut_a_document(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    run_prepare(inputs, output={"validation_fraction": 0.1, "shard_tokens": 500})
    corpus = load_corpus(tmp_path / "corpus")
    for shard in corpus.train + corpus.validation:
        documents = len(shard.document_starts) - 1
        assert len(shard.token_ids) <= 500 or documents == 1
        assert (shard.token_ids[shard.document_starts[1:] - 1] == 2).all()
    assert any(len(shard.token_ids) > 500 for shard in corpus.train), "no paper is longer than a shard"


@pytest.mark.parametrize(("bos", "first"), [("auto", 1), ("always", 1), ("never", None)])
def test_bos_is_written_as_asked(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, bos: str, first: int | None
) -> None:
    manifest = run_prepare(inputs, tokenization={"bos": bos}).manifest
    assert manifest is not None
    assert manifest.adds_bos == (first is not None)
    documents = read_documents(tmp_path / "corpus")["train"]
    assert all((1 in ids) == (first == 1) and ids[-1] == 2 for ids in documents)


def save_large_vocabulary(folder: Path) -> Path:
    """Write a byte-level tokenizer without BOS whose ids go beyond 65,536, as Qwen's do."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"filler{i:05d}" for i in range(66_000))]
    backend = BackendTokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return folder


def test_vocabulary_beyond_65536_without_bos(run_prepare: Prepare, inputs: Path, tmp_path: Path) -> None:
    folder = save_large_vocabulary(tmp_path / "qwen")
    manifest = run_prepare(inputs, tokenization={"tokenizer": str(folder)}).manifest
    assert manifest is not None
    assert manifest.vocabulary_size > 65_536
    assert (manifest.adds_bos, manifest.bos_id) == (False, None)
    shard = load_corpus(tmp_path / "corpus").train[0]
    assert shard.token_ids.dtype == np.int32
    assert shard.token_ids.max() == manifest.eos_id > 65_536
    with pytest.raises(SettingsError, match="no beginning-of-sequence"):
        run_prepare(
            inputs, output_dir=tmp_path / "b", tokenization={"tokenizer": str(folder), "bos": "always"}
        )


def test_vocabulary_is_trained_without_held_out_text(
    run_prepare: Prepare, tmp_path: Path, records: Any
) -> None:
    # Every text has letters of its own: a held-out one's must not become pieces.
    alphabet = [chr(0x4E00 + i) for i in range(60)]
    rows = [records.make_record(records.make_text(i, 20) + letter * 30) for i, letter in enumerate(alphabet)]
    path = records.write_records(tmp_path / "a.jsonl", rows)
    manifest = run_prepare(
        path,
        tokenization={"vocabulary_size": 420, "tokenizer": None},
        output={"validation_fraction": 0.3},
    ).manifest
    assert manifest is not None
    assert manifest.tokenizer.source == "trained"
    pieces = AutoTokenizer.from_pretrained(tmp_path / "corpus" / "tokenizer").get_vocab()
    held_out = [hash_content(row["text"].encode())[1] / 2**64 < 0.3 for row in rows]
    assert 0 < manifest.documents.validation == sum(held_out)
    seen = [any(letter in piece for piece in pieces) for letter in alphabet]
    assert any(seen)
    assert not any(known and out for known, out in zip(seen, held_out, strict=True))


def test_max_documents_stops_the_reading_before_the_filter(run_prepare: Prepare, inputs: Path) -> None:
    manifest = run_prepare(inputs, source={"max_documents": 20, "subset": "pubmed-abstracts"}).manifest
    assert manifest is not None
    assert manifest.documents.read == 20
    # 17 records are in the first file; the other three were not opened.
    assert [Path(entry.path).name for entry in manifest.inputs] == ["a.jsonl", "b.jsonl.gz"]


def test_same_job_again_does_nothing(run_prepare: Prepare, inputs: Path, tmp_path: Path) -> None:
    first = run_prepare(inputs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    again = run_prepare(inputs, executor={"workers": 2}, overwrite=True)
    assert (first.state, again.state) == ("finished", "already_finished")
    assert again.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == before


def test_other_job_is_refused_and_replaces_only_with_overwrite(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    run_prepare(inputs)
    before = read_shards(tmp_path / "corpus")
    with pytest.raises(OutputError, match="not empty"):
        run_prepare(inputs, tokenization={"bos": "never"})
    assert read_shards(tmp_path / "corpus") == before
    run_prepare(inputs, tokenization={"bos": "never"}, overwrite=True)
    assert read_shards(tmp_path / "corpus") != before
    assert not load_corpus(tmp_path / "corpus").manifest.adds_bos


def test_changed_input_is_another_job(run_prepare: Prepare, inputs: Path, records: Any) -> None:
    run_prepare(inputs)
    records.write_records(inputs / "a.jsonl", [records.make_record("other text")])
    with pytest.raises(OutputError, match="not empty"):
        run_prepare(inputs)


def test_overwrite_never_deletes_what_is_no_corpus(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "corpus" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            run_prepare(inputs, overwrite=overwrite)
    precious.unlink()
    run_prepare(inputs)
    precious.write_text("years of work")  # beside a corpus
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        run_prepare(inputs, tokenization={"bos": "never"}, overwrite=True)
    assert precious.read_text() == "years of work"


def test_empty_folder_is_taken(run_prepare: Prepare, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    assert run_prepare(inputs).state == "finished"


def test_file_in_the_way_is_refused(run_prepare: Prepare, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        run_prepare(inputs, overwrite=True)


def test_dry_run_tells_and_writes_nothing(run_prepare: Prepare, inputs: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    report = run_prepare(inputs, dry_run=True)
    assert (report.state, report.inputs, report.tasks) == ("planned", 5, 5)
    assert report.input_bytes == sum(path.stat().st_size for path in inputs.iterdir())
    text = "\n".join(report.lines())
    assert "5 inputs" in text
    assert str(tmp_path / "corpus") in text
    assert sorted(tmp_path.rglob("*")) == before


def test_no_document_left_says_why(run_prepare: Prepare, tmp_path: Path, records: Any) -> None:
    path = records.write_records(
        tmp_path / "a.jsonl", [records.make_record("x", "DM Mathematics"), {"text": "y"}]
    )
    with pytest.raises(DataError, match="1 no_subset_named, 1 other_subset"):
        run_prepare(path, source={"subset": "pubmed"})


def test_default_folder_is_named_after_the_job_and_found_again(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    assert find_newest_corpus(tmp_path) is None
    report = run_prepare(inputs, output_dir=None, workspace=tmp_path, source={"subset": "pubmed"})
    assert find_newest_corpus(tmp_path) == tmp_path / "corpora" / "input-pubmed" == Path(report.output_dir)


def test_no_input_offline_names_input_and_sample(run_prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="monology/pile-uncopyrighted") as caught:
        run_prepare(source={"subset": "pubmed-central"})
    assert "--input" in caught.value.hint
    assert "--sample" in caught.value.hint
    assert not list(tmp_path.glob("*corpus*"))


def test_hub_dataset_is_streamed_in_order(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, records: Any
) -> None:
    # A local folder in the hub's layout goes the same way as a dataset of the hub.
    for number in range(3):
        rows = [records.make_record(records.make_text(10 * number + i)) for i in range(10)]
        records.write_records(tmp_path / "hub" / "data" / f"train-{number}.jsonl", rows)
    output = {"validation_fraction": 0.0}
    hub = run_prepare(source={"hub_dataset": str(tmp_path / "hub")}, output=output)
    assert hub.manifest is not None
    assert hub.manifest.documents.read == 30
    files = run_prepare(tmp_path / "hub", output_dir=tmp_path / "files", output=output)
    assert files.state == "finished"
    assert read_shards(tmp_path / "corpus") == read_shards(tmp_path / "files")


@pytest.mark.parametrize("damage", ["shard", "manifest", "tokenizer", "schema"])
def test_damaged_corpus_is_not_loaded(
    run_prepare: Prepare, inputs: Path, tmp_path: Path, damage: str
) -> None:
    run_prepare(inputs)
    folder = tmp_path / "corpus"
    manifest = folder / "manifest.json"
    if damage == "shard":
        (folder / "train-00000.bin").write_bytes(b"")
    elif damage == "manifest":
        manifest.write_text("{}")
    elif damage == "schema":
        manifest.write_text(manifest.read_text().replace("biomedllama.corpus/2", "biomedllama.corpus/9"))
    else:
        (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(DataError):
        load_corpus(folder)


def test_tokenizer_that_cannot_be_loaded_leaves_nothing(
    run_prepare: Prepare, inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError):
        run_prepare(inputs, tokenization={"tokenizer": str(inputs)})
    assert not list(tmp_path.glob("*corpus*"))


def test_real_abstracts_are_counted_as_their_readme_says(
    run_prepare: Prepare, shared_data: Path, tmp_path: Path
) -> None:
    llama = shared_data / "tokenizer" / "llama" / "tokenizer.model"
    counts = {}
    for subset in ("pubmed-abstracts", "pubmed-central", None):
        manifest = run_prepare(
            shared_data / "pile",
            output_dir=tmp_path / str(subset),
            source={"subset": subset},
            tokenization={"tokenizer": str(llama)},
        ).manifest
        assert manifest is not None
        counts[subset] = (manifest.documents.kept, manifest.documents.dropped)
    # 593 abstracts of which one was there twice from the start, and three planted repeats.
    assert counts["pubmed-abstracts"] == (592, {"exact_duplicate": 4, "other_subset": 155})
    assert counts["pubmed-central"] == (5, {"other_subset": 746})
    assert counts[None] == (592 + 5 + 150, {"exact_duplicate": 4})

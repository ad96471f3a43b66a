"""What `--general` names, and what a run tells of it from its first look to its report."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.data import GENERAL_SETS
from biomedllama_cli.engine.forgetting import read_record
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.engine.run_folder import RunStart
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import DataError, Resumable, SettingsError, UserError
from biomedllama_cli.evaluation.held_out_probes import build_held_out_probes
from biomedllama_cli.evaluation.probes import PROMPT, Reading, build_question_probe
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.recipes.general_sets import Training, build_forgetting_meter, read_general_sets
from biomedllama_cli.recipes.pretrain import PretrainReport, pretrain
from biomedllama_cli.settings.pretrain import PretrainSettings
from biomedllama_cli.tasks.question import Question

NOTES = [f"The {word} stood by the old harbour for {n} years." for n, word in enumerate("abcdefghijkl", 3)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("work") / "corpora" / "papers", read_sample(60))


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("general") / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": note}) + "\n" for note in NOTES))
    return path


@pytest.fixture
def build(corpus: Path, notes: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    def build_settings(**changes: object) -> PretrainSettings:
        AcceleratorState._reset_state(reset_partial_state=True)
        tree: dict[str, Any] = {
            "workspace": tmp_path,
            "corpus": corpus,
            "model": "scratch:tiny",
            "output_dir": tmp_path / "run",
            "batch": {"sequence_length": 64, "micro_batch_size": 4, "global_batch_size": 8},
            "duration": {"max_steps": 6},
            "optimizer": {"peak_learning_rate": 1e-2},
            "numerics": {"precision": "fp32"},
            "parallel": {"device": "cpu"},
            "checkpoint": {"save_every_steps": 2},
            "monitor": {"general": (f"notes={notes}",), "general_every_steps": 4},
        }
        return PretrainSettings.model_validate(tree | changes)

    return build_settings


def read_looks(report: PretrainReport) -> dict[int, dict[str, float]]:
    lines = iter_metrics(report.run_folder / "metrics.jsonl")
    return {line.pop("step"): line for line in lines if "general/notes/bits_per_byte" in line}


def test_a_run_tells_what_it_forgets_step_by_step_and_at_its_end(
    build: Callable[..., PretrainSettings],
) -> None:
    report = pretrain(build())
    looks = read_looks(report)
    assert list(looks) == [0, 4, 6]
    assert looks[0]["general/notes/delta"] == looks[0]["validation/pile/delta"] == 0
    assert {"validation/perplexity/0", "validation/perplexity/32-63"} <= looks[6].keys()

    model = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(report.checkpoint)
    nats = 0.0
    for note in NOTES:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(note, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(note.encode()) for note in NOTES)
    assert looks[6]["general/notes/bits_per_byte"] == pytest.approx(expected, rel=1e-5)

    assert report.forgetting is not None
    notes, pile = report.forgetting.texts
    assert (notes.kind, notes.documents) == ("general", len(NOTES))
    assert (pile.name, pile.kind, pile.documents) == ("pile", "validation", 8)
    assert notes.bits_per_byte == looks[6]["general/notes/bits_per_byte"]
    assert notes.given == looks[0]["general/notes/bits_per_byte"]
    assert notes.interval is not None
    assert notes.interval[0] <= looks[6]["general/notes/delta"] <= notes.interval[1]
    stored = json.loads((report.run_folder / "report.json").read_text())
    assert stored["forgetting"]["texts"][0]["interval"] == list(notes.interval)
    lines = "\n".join(report.lines())
    assert f"{notes.given:.4f} -> {notes.bits_per_byte:.4f} bits per byte" in lines
    assert "pile (held out)" in lines
    assert pretrain(build()).forgetting == report.forgetting, "of a finished run, as it was told"


def test_a_stopped_run_goes_on_holding_itself_against_the_model_as_given(
    build: Callable[..., PretrainSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = pretrain(build(output_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        asked = iter([False] * 4 + [True] * 99)
        patch.setattr(StopRequest, "requested", property(lambda self: next(asked)))
        with pytest.raises(Resumable):
            pretrain(build())
    resumed = pretrain(build())
    assert resumed.resumed_step == 5
    assert read_looks(resumed) == read_looks(whole)
    assert resumed.forgetting == whole.forgetting
    assert [look.step for look in read_record(resumed.run_folder).looks] == [0, 4, 6]


def test_a_model_with_something_to_forget_is_looked_at_with_the_bundled_sets(
    build: Callable[..., PretrainSettings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pretrain(build(monitor={"general": ("none",)}, duration={"max_steps": 1}))
    assert first.forgetting is None
    assert not (first.run_folder / "forgetting.json").exists()
    batch = {"sequence_length": 256, "micro_batch_size": 8, "global_batch_size": 8}
    changes = {"model": str(first.checkpoint), "output_dir": tmp_path / "more", "batch": batch}
    monitor = {"general": ("bundled",), "validation_sequences": 5}
    with caplog.at_level(logging.WARNING):
        report = pretrain(build(duration={"max_steps": 1}, monitor=monitor, **changes))
    assert "general: 2 looks of" in caplog.text, "looks that take longer than the run are told of"
    assert report.forgetting is not None
    names = [text.name for text in report.forgetting.texts if text.kind == "general"]
    assert names == list(GENERAL_SETS)
    assert all(text.documents >= 100 and text.delta is not None for text in report.forgetting.texts[:4])
    assert [text.documents for text in report.forgetting.texts[4:]] == [5]
    (questions,) = report.forgetting.answers
    assert questions.questions >= 100
    assert (questions.chance, questions.delta is not None) == (0.25, True)
    assert "questions" in "\n".join(report.lines())


def test_looks_nobody_asked_for_do_not_take_longer_than_the_training(
    build: Callable[..., PretrainSettings], corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened, start = load_corpus(corpus), RunStart(tmp_path)

    def is_looked_at(training: Training, **monitor: object) -> bool:
        settings = build(model="somebody/model", monitor=monitor)
        return build_forgetting_meter(settings, opened, start, training) is not None

    short, long = Training(10, 10_000), Training(10_000, 10_000_000)
    with caplog.at_level(logging.INFO):
        assert not is_looked_at(short)
    assert "so nothing is looked at; --general bundled looks all the same" in caplog.text
    caplog.clear()
    assert is_looked_at(long)
    assert not caplog.records
    assert is_looked_at(short, general=("bundled",))
    assert is_looked_at(short, general_every_steps=5)
    assert caplog.text.count("--general none, fewer documents") == 2


def test_what_a_tokenizer_has_no_tokens_for_is_left_out(
    build: Callable[..., PretrainSettings], corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A vocabulary of letters alone: it drops digits and spaces."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    plain = BackendTokenizer(models.BPE(vocab={c: i for i, c in enumerate(["</s>", *letters])}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>").save_pretrained(tmp_path / "letters")
    tokenizer = load_tokenizer(str(tmp_path / "letters"))
    sums, capital = Question("1", "4 + 4?", ("8", "9"), 0), Question("2", "Capital?", ("Paris", "Rome"), 1)
    probe = build_question_probe("facts", [sums, capital], Reading(tokenizer, False, 64))
    assert (probe.options, probe.answers, len(probe.sequences)) == ((("Paris", "Rome"),), (1,), 2)

    (tmp_path / "digits.jsonl").write_text('{"text": "1 2 3"}\n')
    settings = build(monitor={"general": (f"digits={tmp_path / 'digits.jsonl'}", "bundled")})
    letters_only = replace(load_corpus(corpus), tokenizer_folder=tmp_path / "letters")
    meter = build_forgetting_meter(settings, letters_only, RunStart(tmp_path), Training(1, 1))
    assert meter is not None
    assert "no token for anything in digits" in caplog.text


def test_of_a_model_whose_tokens_see_other_documents_it_is_told(
    build: Callable[..., PretrainSettings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64}
    config = OPTConfig(vocab_size=400, word_embed_proj_dim=32, max_position_embeddings=64, **shape)
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    pretrain(build(model=str(tmp_path / "opt"), duration={"max_steps": 1}, monitor={"general": ("none",)}))
    assert "OPTForCausalLM does not keep the documents of a row apart" in caplog.text
    caplog.clear()
    pretrain(build(output_dir=tmp_path / "llama", duration={"max_steps": 1}))
    assert "apart" not in caplog.text


def test_random_weights_have_nothing_to_forget(build: Callable[..., PretrainSettings]) -> None:
    assert read_general_sets(build(monitor={})) is None
    sets = read_general_sets(build(monitor={"general": ("bundled",)}))
    assert sets is not None
    assert sets.asks_questions
    assert tuple(sets.documents) == GENERAL_SETS


@pytest.mark.parametrize(
    ("general", "error", "named"),
    [
        (("none", "bundled"), SettingsError, "none stands with no other"),
        (("bundle",), SettingsError, "bundle"),
        (("wiki.jsonl",), SettingsError, "not NAME=FILE"),
        (("=wiki.jsonl",), SettingsError, "not NAME=FILE"),
        (("a/b=wiki.jsonl",), SettingsError, "not NAME=FILE"),
        (("code=wiki.jsonl",), SettingsError, "the name of a bundled set"),
        (("a=x.jsonl", "a=y.jsonl"), SettingsError, "a set 'a' twice"),
        (("bundled", "bundled"), SettingsError, "twice"),
        (("a=missing.jsonl",), DataError, "missing.jsonl"),
        (("a=empty.jsonl",), DataError, "holds no document"),
        (("a=blank.jsonl",), DataError, "line 2: field `text` is blank"),
        (("a=other.jsonl",), DataError, "field `text` is missing"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_anything_is_loaded(
    build: Callable[..., PretrainSettings],
    general: tuple[str, ...],
    error: type[UserError],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text('{"text": "a"}\n{"text": " "}\n')
    (tmp_path / "other.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(error, match=named):
        pretrain(build(monitor={"general": general}), dry_run=True)


def test_held_out_documents_are_read_by_source_from_their_beginning(tmp_path: Path) -> None:
    corpus = load_corpus(write_corpus(tmp_path / "corpora" / "bos", read_sample(40), bos=True))
    tokenizer = load_tokenizer(str(corpus.tokenizer_folder))
    (probe,) = build_held_out_probes(corpus, Reading(tokenizer, puts_bos=True, context_length=32))
    texts = read_sample(40)[:8]
    assert probe.name == "pile"
    assert len(probe.sequences) == 8
    for sequence, size, text in zip(probe.sequences, probe.utf8_bytes, texts, strict=True):
        assert sequence.token_ids == (tokenizer.bos_id, *tokenizer.encode(text)[:32])
        assert size == len(tokenizer.decode(sequence.token_ids[1:]).encode())
        assert text.startswith(tokenizer.decode(sequence.token_ids[1:])[:20])


def test_abstracts_and_papers_of_one_source_are_told_apart(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpora" / "pile", read_sample(40))
    texts = read_sample(40)[:8]
    subsets = ["PubMed Abstracts"] * 3 + ["PubMed Central"] * 5
    table = {
        "split": ["validation"] * 8 + ["train"],
        "shard": ["validation-00000"] * 8 + ["train-00000"],
        "document": [*range(8), 0],
        "subset": [*subsets, "PubMed Central"],
    }
    pq.write_table(pa.table(table), folder / "documents.parquet")
    corpus = load_corpus(folder)
    tokenizer = load_tokenizer(str(corpus.tokenizer_folder))
    probes = build_held_out_probes(corpus, Reading(tokenizer, puts_bos=False, context_length=4096))
    assert {probe.name: len(probe.sequences) for probe in probes} == {
        "pile/pubmed-abstracts": 3,
        "pile/pubmed-central": 5,
    }
    assert [size for probe in probes for size in probe.utf8_bytes] == [len(text.encode()) for text in texts]


def test_a_question_too_long_for_a_row_loses_its_beginning(corpus: Path) -> None:
    tokenizer = load_tokenizer(str(load_corpus(corpus).tokenizer_folder))
    question = Question("1", "Which of these is the case? " * 5, ("one of them", "none"), 0)
    probe = build_question_probe("facts", [question], Reading(tokenizer, puts_bos=False, context_length=24))
    whole = tokenizer.encode(PROMPT.format(question.question) + " one of them")
    assert len(whole) > 24
    assert probe.sequences[0].token_ids == tuple(whole[-25:])
    assert (
        tokenizer.decode(probe.sequences[0].token_ids[-probe.sequences[0].scored :]).strip() == "one of them"
    )

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import biomedllama_cli
from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.engine.saved_runs import find_checkpoint, find_newest_result
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import (
    DataError,
    ModelError,
    OutputError,
    Resumable,
    SettingsError,
    UnavailableError,
)
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.recipes.training import choose_attention
from biomedllama_cli.settings.pretrain import PretrainSettings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("work") / "corpora" / "papers", read_sample(120))


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def build(corpus: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    """Return a builder of settings for short runs; sections are merged."""

    def build_settings(**changes: object) -> PretrainSettings:
        tree: dict[str, object] = {
            "workspace": tmp_path,
            "corpus": corpus,
            "model": "scratch:tiny",
            "output_dir": tmp_path / "runs" / "run",
            "batch": {"sequence_length": 64, "micro_batch_size": 4, "global_batch_size": 8},
            "duration": {"max_steps": 12},
            "optimizer": {"peak_learning_rate": 1e-2},
            "numerics": {"precision": "fp32"},
            "parallel": {"device": "cpu"},
            "checkpoint": {"save_every_steps": 5},
        }
        for name, value in changes.items():
            tree[name] = tree.get(name, {}) | value if isinstance(value, dict) else value  # type: ignore[operator]
        return PretrainSettings.model_validate(tree)

    return build_settings


def test_it_trains_and_leaves_a_plain_transformers_folder(
    build: Callable[..., PretrainSettings], corpus: Path
) -> None:
    report = pretrain(build(duration={"epochs": 3, "max_steps": None}))
    assert report.status == "trained"
    assert report.bits_per_byte_before is not None
    assert report.bits_per_byte_after is not None
    assert report.bits_per_byte_after < report.bits_per_byte_before
    assert report.loss_curve is not None
    assert report.loss_curve.read_bytes().startswith(b"\x89PNG")
    assert report.checkpoint == find_newest_result(build().workspace)
    model = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(report.checkpoint)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer("heart failure", add_special_tokens=False).input_ids
    metrics = list(iter_metrics(report.run_folder / "metrics.jsonl"))
    assert [line["step"] for line in metrics if "train/loss" in line] == list(range(1, report.steps + 1))
    assert json.loads((report.run_folder / "report.json").read_text())["steps"] == report.steps
    lines = "\n".join(report.lines())
    assert str(report.loss_curve) in lines
    assert f"biomedllama evaluate --model {report.checkpoint}" in lines


def test_bits_per_byte_equal_a_plain_loop_over_the_held_out_documents(
    build: Callable[..., PretrainSettings], corpus: Path
) -> None:
    """Each document from EOS alone where it fits in a row: here rows are longer than the documents."""
    report = pretrain(
        build(batch={"sequence_length": 512, "global_batch_size": 4}, duration={"max_steps": 2})
    )
    opened = load_corpus(corpus)
    model = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    tokens, starts = opened.validation[0].token_ids, opened.validation[0].document_starts
    nats = 0.0
    for row in range(0, len(tokens) - 1, 512):
        stop = min(row + 512, len(tokens) - 1)
        cuts = sorted({row, stop, *(s - 1 for s in starts[1:-1].tolist() if row < s - 1 < stop)})
        for first, last in pairwise(cuts):
            ids = torch.from_numpy(tokens[first : last + 1].astype(np.int64))
            with torch.no_grad():
                logits = model(ids[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    expected = nats / np.log(2) / opened.manifest.bytes.validation
    assert report.bits_per_byte_after == pytest.approx(expected, rel=1e-5)


def test_the_learned_model_is_held_against_a_unigram_model(
    build: Callable[..., PretrainSettings], corpus: Path
) -> None:
    report = pretrain(build())
    assert report.bits_per_byte_unigram is not None
    counts = np.load(corpus / "token_counts.npy") + 1.0
    tokens = np.asarray(load_corpus(corpus).validation[0].token_ids[1:])
    bits = -np.log2(counts / counts.sum())[tokens].sum()
    expected = bits / load_corpus(corpus).manifest.bytes.validation
    assert report.bits_per_byte_unigram == pytest.approx(expected)


def test_a_finished_run_is_not_trained_again(build: Callable[..., PretrainSettings]) -> None:
    first = pretrain(build())
    metrics = (first.run_folder / "metrics.jsonl").read_bytes()
    again = pretrain(build())
    assert again.status == "already trained"
    assert again.model_copy(update={"status": "trained"}) == first
    assert (first.run_folder / "metrics.jsonl").read_bytes() == metrics
    assert again.lines()[0].startswith("Was trained already")


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask for a stop as a signal does, when the flag is looked at for the given time."""
    looks = iter(range(1, 10_000))
    monkeypatch.setattr(StopRequest, "requested", property(lambda self: next(looks) == step))


def test_a_stopped_run_goes_on_with_the_same_command(
    build: Callable[..., PretrainSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = pretrain(build(output_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Resumable, match="after step 7 of 12"):
            pretrain(build())
    report = pretrain(build())
    assert report.resumed_step == 7
    assert whole.checkpoint is not None
    assert report.checkpoint is not None
    for name in ("model.safetensors", "training_state/optimizer.safetensors"):
        assert (whole.checkpoint / name).read_bytes() == (report.checkpoint / name).read_bytes()
    assert report.bits_per_byte_before == whole.bits_per_byte_before
    assert report.bits_per_byte_after == whole.bits_per_byte_after
    assert report.tokens_seen == whole.tokens_seen


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"batch": {"global_batch_size": 16}}, "batch.global_batch_size was 8 and is 16"),
        ({"batch": {"sequence_length": 32}}, "batch.sequence_length was 64 and is 32"),
        ({"monitor": {"spikes": "off"}}, "monitor.spikes was skip and is off"),
        ({"optimizer": {"peak_learning_rate": 0.5}}, "optimizer.peak_learning_rate was 0.01 and is 0.5"),
    ],
)
def test_another_job_in_the_run_folder_is_refused(
    build: Callable[..., PretrainSettings], change: dict[str, object], named: str
) -> None:
    pretrain(build(duration={"max_steps": 1}))
    with pytest.raises(OutputError, match=named):
        pretrain(build(duration={"max_steps": 1}, **change))


@pytest.mark.parametrize("what", ["text", "tokenizer"])
def test_another_corpus_is_refused_with_what_changed_of_it(
    build: Callable[..., PretrainSettings], tmp_path: Path, what: str
) -> None:
    """The vocabularies have the same size; another tokenizer gives other shards as well."""
    texts = read_sample(120)
    changed = [texts[0].upper() * 9, *texts[1:]] if what == "tokenizer" else [*texts[:-1], texts[-1] + "."]
    first, other = write_corpus(tmp_path / "first", texts), write_corpus(tmp_path / "other", changed)
    if what == "text":  # the same tokenizer, learned from the text before the change
        shutil.rmtree(other)
        other = write_corpus(tmp_path / "other", changed, learned_from=texts)
    report = pretrain(build(corpus=first, duration={"max_steps": 1}))
    longer = {"max_steps": 2}
    for error, hint, settings in (
        (OutputError, "undo the change", build(corpus=other, duration={"max_steps": 1})),
        (
            DataError,
            "start from its weights alone",
            build(corpus=other, duration=longer, resume=str(report.checkpoint), output_dir=tmp_path / "new"),
        ),
    ):
        with pytest.raises(error, match=r"corpus was [0-9a-f]{12} and is [0-9a-f]{12}") as refused:
            pretrain(settings)
        assert ("tokenizer was" in refused.value.message) is (what == "tokenizer")
        assert hint in refused.value.hint
    shutil.copytree(first, tmp_path / "moved")
    assert pretrain(build(corpus=tmp_path / "moved", duration={"max_steps": 1})).status == "already trained"


def test_overwrite_replaces_a_run_but_never_foreign_files(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    pretrain(build(duration={"max_steps": 2}))
    report = pretrain(build(duration={"max_steps": 1}, overwrite=True))
    assert report.steps == 1
    assert [f.name for f in (report.run_folder / "checkpoints").iterdir()] == ["step-00000001"]
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="no run folder"):
        pretrain(build(output_dir=foreign, overwrite=True))
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_resume_never_refuses_a_run_that_is_there(build: Callable[..., PretrainSettings]) -> None:
    pretrain(build(duration={"max_steps": 1}))
    with pytest.raises(OutputError, match="resume is never"):
        pretrain(build(duration={"max_steps": 1}, resume="never"))


def test_a_named_checkpoint_continues_in_a_new_folder_with_a_longer_run(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    first = pretrain(build(duration={"max_steps": 6}))
    report = pretrain(
        build(duration={"max_steps": 9}, resume=str(first.checkpoint), output_dir=tmp_path / "longer")
    )
    steps = [
        line["step"] for line in iter_metrics(report.run_folder / "metrics.jsonl") if "train/loss" in line
    ]
    assert (report.resumed_step, steps) == (6, [7, 8, 9])
    with pytest.raises(DataError, match="seed was 0 and is 1"):
        pretrain(build(seed=1, resume=str(first.checkpoint), output_dir=tmp_path / "other"))
    with pytest.raises(DataError, match="not a complete checkpoint"):
        pretrain(build(resume=str(tmp_path), output_dir=tmp_path / "other"))
    for steps_in_all in (6, 4):
        with pytest.raises(SettingsError, match=f"is at step 6, and this run ends at step {steps_in_all}"):
            pretrain(
                build(
                    duration={"max_steps": steps_in_all},
                    resume=str(first.checkpoint),
                    output_dir=tmp_path / "other",
                )
            )
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_brings_the_model_that_its_run_started_from(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    first = pretrain(build(duration={"max_steps": 1}))
    assert first.checkpoint is not None
    tree = {
        **build().model_dump(exclude_unset=True),
        "resume": str(first.checkpoint),
        "output_dir": tmp_path / "on",
    }
    without = {name: value for name, value in tree.items() if name != "model"}
    assert pretrain(PretrainSettings.model_validate(without), dry_run=True).model == first.model
    with pytest.raises(SettingsError, match=f"model is other/model, but .* was trained from {first.model}"):
        pretrain(PretrainSettings.model_validate({**tree, "model": "other/model"}), dry_run=True)
    alone = shutil.copytree(first.checkpoint, tmp_path / "alone")
    tree["resume"] = without["resume"] = str(alone)
    assert pretrain(PretrainSettings.model_validate(tree), dry_run=True).model == first.model
    with pytest.raises(SettingsError, match="is not known without"):
        pretrain(PretrainSettings.model_validate(without), dry_run=True)


def test_a_stopped_run_says_which_command_continues_it(
    build: Callable[..., PretrainSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hints = {}
    for resume in ("auto", "never"):
        with monkeypatch.context() as patch:
            stop_at(patch, 2)
            with pytest.raises(Resumable) as stopped:
                pretrain(build(resume=resume, output_dir=tmp_path / resume))
        hints[resume] = stopped.value.hint
    assert hints["auto"] == "The same command continues from there."
    assert hints["never"].startswith("Continue with --resume auto and without --overwrite")
    assert pretrain(build(output_dir=tmp_path / "never")).resumed_step == 2


def test_an_earlier_checkpoint_of_the_same_run_takes_it_back(build: Callable[..., PretrainSettings]) -> None:
    first = pretrain(build())
    folder = first.run_folder / "checkpoints"
    before = (folder / "step-00000012" / "model.safetensors").read_bytes()
    report = pretrain(build(resume=str(folder / "step-00000005")))
    assert report.resumed_step == 5
    assert (folder / "step-00000012" / "model.safetensors").read_bytes() == before
    steps = [
        line["step"] for line in iter_metrics(report.run_folder / "metrics.jsonl") if "train/loss" in line
    ]
    assert steps == list(range(1, 13))


def test_a_run_folder_stands_for_its_newest_checkpoint(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    first = pretrain(build(duration={"max_steps": 1}))
    report = pretrain(
        build(model=str(first.run_folder), output_dir=tmp_path / "more", duration={"max_steps": 1}),
        dry_run=True,
    )
    assert report.model == str(first.checkpoint)
    assert "1 step of 8 sequences x 64 tokens" in report.lines()[0]


def test_a_dry_run_writes_nothing_and_loads_no_weights(
    build: Callable[..., PretrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.recipes.pretrain.load_model", None)
    settings = build(model="scratch:7b", duration={"max_steps": 3})
    report = pretrain(settings, dry_run=True)
    assert (report.status, report.steps, report.grad_accum_steps) == ("would train", 3, 2)
    assert report.parameters > 6_000_000_000
    assert not report.run_folder.exists()
    assert report.lines()[-1] == "Nothing was written."


def test_sequences_longer_than_the_models_positions_are_refused(
    build: Callable[..., PretrainSettings],
) -> None:
    with pytest.raises(SettingsError, match=r"sequence_length = 513 must be at most 512"):
        pretrain(build(batch={"sequence_length": 513}), dry_run=True)


def test_a_batch_that_does_not_divide_is_refused(build: Callable[..., PretrainSettings]) -> None:
    with pytest.raises(SettingsError, match=r"10 must be a multiple of .* 4 x 1 = 4"):
        pretrain(build(batch={"global_batch_size": 10}))


def test_a_model_of_another_tokenizer_is_refused(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    other = write_corpus(tmp_path / "other", read_sample(60), vocabulary_size=380)
    folder = tmp_path / "model"
    load_model("scratch:tiny", vocabulary_size=400).save_pretrained(folder)
    shutil.copytree(other / "tokenizer", folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match=r"tokenizer of .* \(380 pieces.*400 pieces"):
        pretrain(build(model=str(folder)))
    assert not build().output_dir.exists()  # type: ignore[union-attr]


def test_a_model_with_a_smaller_vocabulary_is_refused(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    load_model("scratch:tiny", vocabulary_size=100).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="100 embeddings, fewer than the 400"):
        pretrain(build(model=str(tmp_path / "model")), dry_run=True)
    with pytest.raises(ModelError, match="100 embeddings, fewer than the 400"):
        pretrain(build(model=str(tmp_path / "model")))


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_model_of_a_gguf_file_is_not_trained(
    build: Callable[..., PretrainSettings], tmp_path: Path, dry_run: bool
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="a GGUF file, whose weights were rounded"):
        pretrain(build(model=str(tmp_path / "model.gguf")), dry_run=dry_run)


def test_without_a_corpus_the_newest_of_the_workspace_is_taken(
    build: Callable[..., PretrainSettings], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="No corpus was given"):
        pretrain(build(corpus=None))
    settings = build(corpus=None, workspace=corpus.parent.parent, duration={"max_steps": 1})
    assert pretrain(settings).corpus == corpus


def test_a_corpus_with_bos_trains(build: Callable[..., PretrainSettings], tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "with-bos", read_sample(60), bos=True)
    report = pretrain(build(corpus=folder, duration={"max_steps": 2}))
    assert report.bits_per_byte_after is not None
    assert report.bits_per_byte_unigram is not None


def test_gradient_checkpointing_changes_nothing_but_memory(
    build: Callable[..., PretrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, layers = [], []

    def note_and_checkpoint(layer: Callable[..., object], *arguments: object, **options: object) -> object:
        layers.append(layer)
        return checkpoint(layer, *arguments, **options)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", note_and_checkpoint)
    for on in (False, True):
        layers.clear()
        report = pretrain(
            build(
                numerics={"activation_checkpointing": "full" if on else "none"},
                output_dir=tmp_path / str(on),
                duration={"max_steps": 4},
            )
        )
        assert bool(layers) == on
        losses.append(report.validation_loss_after)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_broken_checkpoint_is_named_with_the_one_before_it(build: Callable[..., PretrainSettings]) -> None:
    settings = build(duration={"max_steps": 4, "epochs": 4}, checkpoint={"save_every_steps": 2})
    report = pretrain(settings)
    assert report.checkpoint is not None
    report.run_folder.joinpath("report.json").unlink()
    weights = report.checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"resume: the model of .*step-00000004 cannot be read") as refused:
        pretrain(settings)
    assert "step-00000002" in refused.value.hint
    shutil.rmtree(report.checkpoint)
    assert pretrain(settings).resumed_step == 2


def test_kill_leaves_the_last_complete_checkpoint(
    build: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    """A real process, killed as soon as a checkpoint is there; the same run then goes on from a whole one."""
    settings = build(duration={"max_steps": 400, "epochs": 500}, checkpoint={"save_every_steps": 2})
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    program = (
        "import sys; from biomedllama_cli.recipes.pretrain import pretrain;"
        "from biomedllama_cli.settings.pretrain import PretrainSettings;"
        "pretrain(PretrainSettings.model_validate_json(open(sys.argv[1]).read()))"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(biomedllama_cli.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "settings.json")], env=environment
    )
    run_folder = settings.output_dir
    assert run_folder is not None
    while find_checkpoint(run_folder) is None:
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.05)
    with pytest.raises(OutputError, match="in use by another process"):
        pretrain(settings)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = find_checkpoint(run_folder)
    assert checkpoint is not None
    AutoModelForCausalLM.from_pretrained(checkpoint)
    step = load_progress(checkpoint).step
    assert step % 2 == 0
    assert step < 400
    dry = pretrain(settings, dry_run=True)
    assert (dry.status, dry.resumed_step) == ("would continue", step)


def test_attention_is_tried_in_the_precision_of_the_run(
    build: Callable[..., PretrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "biomedllama_cli.recipes.training.resolve_attention", lambda requested, device, dtype: str(dtype)
    )
    for precision, dtype in (
        ("bf16", "torch.bfloat16"),
        ("fp16", "torch.float16"),
        ("fp32", "torch.float32"),
    ):
        settings = build(numerics={"precision": precision})
        assert choose_attention(settings.numerics, torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("attention", "precision", "words"),
    [
        ("flex", "fp32", "it has a backward pass on CUDA alone, and the device is cpu"),
        ("flash_attention_2", "bf16", "it needs CUDA, and the device is cpu"),
        ("flash_attention_2", "fp32", "it computes in bf16 and fp16 alone, not in float32"),
    ],
)
def test_attention_that_cannot_train_here_is_refused_before_anything_is_written(
    build: Callable[..., PretrainSettings], attention: str, precision: str, words: str
) -> None:
    settings = build(numerics={"precision": precision, "attention": attention}, parallel={"device": "cpu"})
    for dry_run in (True, False):
        with pytest.raises(UnavailableError, match=f"{attention} cannot be used for training: {words}"):
            pretrain(settings, dry_run=dry_run)
    assert not settings.output_dir.exists()


def test_weights_and_more_corpora_change_what_an_epoch_reads(
    build: Callable[..., PretrainSettings], corpus: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(corpus, tmp_path / "more" / "notes")
    plain = pretrain(build(duration={"epochs": 1, "max_steps": None}), dry_run=True)
    twice = pretrain(build(weight=("pile=2",), duration={"epochs": 1, "max_steps": None}), dry_run=True)
    assert twice.steps in (2 * plain.steps - 1, 2 * plain.steps)
    assert twice.sequences == plain.sequences
    mixed = pretrain(
        build(mix=(other,), weight=("notes/pile=0.5",), duration={"epochs": 1, "max_steps": None}),
        dry_run=True,
    )
    assert mixed.sequences > plain.sequences
    report = pretrain(build(mix=(other,), weight=("papers/pile=0.5", "notes/pile=2")))
    assert report.status == "trained"
    assert report.mixture == {"papers/pile": 0.5, "notes/pile": 2.0}
    assert "One epoch: papers/pile x 0.5, notes/pile x 2." in report.lines()
    assert str(other) in report.lines()[0]


def test_a_run_does_not_go_on_with_another_mixture(build: Callable[..., PretrainSettings]) -> None:
    pretrain(build(duration={"max_steps": 2}))
    with pytest.raises(OutputError, match="mixture"):
        pretrain(build(duration={"max_steps": 2}, weight=("pile=2",)))


def test_a_weight_of_an_unknown_source_is_refused(build: Callable[..., PretrainSettings]) -> None:
    with pytest.raises(SettingsError, match="not among the sources pile"):
        pretrain(build(weight=("pmc=2",)), dry_run=True)


def test_sequences_longer_than_the_model_s_positions_are_trained_with_stretched_ones(
    build: Callable[..., PretrainSettings], corpus: Path, tmp_path: Path
) -> None:
    long = {"sequence_length": 1024, "global_batch_size": 1, "micro_batch_size": 1}
    changes: dict[str, Any] = {"batch": long, "duration": {"max_steps": 2}}
    with pytest.raises(SettingsError, match="at most 512, the positions of scratch:tiny"):
        pretrain(build(**changes), dry_run=True)
    changes["positions"] = {"rope_scaling": "yarn"}
    assert pretrain(build(**changes), dry_run=True).status == "would train"
    report = pretrain(build(**changes))
    assert report.checkpoint is not None
    rope = AutoConfig.from_pretrained(report.checkpoint).rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 2.0, 512)
    with pytest.raises(OutputError, match=r"positions.rope_scaling was yarn and is linear"):
        pretrain(build(**{**changes, "positions": {"rope_scaling": "linear"}}))
    longer = build(
        **{
            **changes,
            "duration": {"max_steps": 3},
            "output_dir": tmp_path / "on",
            "resume": str(report.checkpoint),
        }
    )
    assert pretrain(longer).resumed_step == 2

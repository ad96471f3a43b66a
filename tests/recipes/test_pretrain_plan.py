"""`pretrain --dry-run`: the plan of a run, on a machine that has neither its corpus nor its devices."""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpora import read_sample, write_corpus
from transformers import Gemma2Config, LlamaForCausalLM

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.engine.plan_memory import MemoryChoice, RankMemory, StateMemory
from biomedllama_cli.engine.plan_step import StepMemory
from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.models.scratch import build_scratch_config
from biomedllama_cli.recipes.forecast_lines import format_plan
from biomedllama_cli.recipes.forecast_memory import MemoryPlanner, ModelShape
from biomedllama_cli.recipes.forecast_report import RunPlan
from biomedllama_cli.recipes.pretrain import PretrainReport, pretrain
from biomedllama_cli.settings.preset import load_preset
from biomedllama_cli.settings.pretrain import PretrainSettings


def build(**changes: Any) -> PretrainSettings:
    """Return the published settings with some changed; sections are merged."""
    tree = load_preset("pretrain", "published")
    for name, value in changes.items():
        tree[name] = tree.get(name, {}) | value if isinstance(value, dict) else value
    return PretrainSettings.model_validate(tree)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PretrainReport:
    """The plan of the published run, in a workspace without anything."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        report = pretrain(build(workspace=folder), dry_run=True)
    assert not list(folder.iterdir())
    return report


def refuse(*_: object) -> None:
    raise AssertionError("a plan asks nobody")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("work") / "corpora" / "papers", read_sample(60))


def plan_small(corpus: Path | None, **changes: Any) -> PretrainReport:
    """Return the plan of a tiny model on a small corpus."""
    small = {
        "workspace": corpus.parent.parent if corpus else Path(),
        "corpus": corpus,
        "model": "scratch:tiny",
        "batch": {"sequence_length": 64, "micro_batch_size": 4, "global_batch_size": 8},
        "numerics": {"precision": "fp32"},
        "plan": {"plan_nodes": 1, "plan_processes": 1},
    }
    return pretrain(build(**{**small, **changes}), dry_run=True)


def test_the_published_run_is_planned_without_its_corpus(published: PretrainReport) -> None:
    plan = published.plan
    assert plan is not None
    assert (published.steps, plan.steps, published.world_size, published.grad_accum_steps) == (
        15_020,
        15_020,
        32,
        64,
    )
    assert plan.truncated is not None
    assert round(plan.truncated.steps, -2) == 17_100
    assert plan.truncated.tokens == 21e9
    assert plan.truncated.mfu_in_same_time == pytest.approx(0.14)
    assert (plan.text.unique_tokens, plan.text.repeated_tokens) == (31.5e9, 31.5e9)
    compute = plan.compute
    assert compute.plain_days == pytest.approx(7.0, abs=0.05)
    assert compute.days == pytest.approx(7.2, abs=0.05)
    assert compute.flops == pytest.approx(63e9 * compute.flops_per_token)
    text = "\n".join(published.lines())
    assert "15,020" in text
    assert "about 17,100" in text
    assert "7.0 days" in text
    assert "Why hybrid-zero2 beats full: at 13 GB/s" in text


def test_hybrid_sharding_sends_across_nodes_once_a_step_and_full_in_every_micro_batch(
    published: PretrainReport,
) -> None:
    assert published.plan is not None
    found = published.plan.strategies
    weights = 6_738_415_616
    # All-reduce of fp32 gradients over 8 nodes; two gathers of bf16 weights and a scatter of fp32 gradients over 32.
    assert found["hybrid"].across_bytes == pytest.approx(2 * 7 / 8 * 4 * weights, rel=1e-3)
    assert found["full"].across_bytes == pytest.approx(64 * 31 / 32 * 8 * weights, rel=0.03)
    assert found["hybrid"].across_seconds == pytest.approx(3.6, abs=0.1)
    assert found["full"].bound_by == "the network across nodes"
    assert found["hybrid-zero2"].bound_by == "computing"


def test_host_memory_for_saving_in_the_background_is_planned(published: PretrainReport) -> None:
    assert published.plan is not None
    disk = published.plan.disk
    assert disk.host_bytes == disk.checkpoint_bytes  # the first node holds one copy of the model
    assert "Saved in the background from 75.3 GiB of a node's host memory." in "\n".join(published.lines())
    cluster = {"plan_nodes": 2, "plan_processes": 1, "plan_device": "A100-80GB"}
    full = plan_small(None, plan=cluster, parallel={"sharding": "full"}).plan
    assert full is not None
    assert full.disk.host_bytes == full.disk.checkpoint_bytes // 2
    at_once = plan_small(None, plan=cluster, checkpoint={"save_in_background": False}).plan
    assert at_once is not None
    assert at_once.disk.host_bytes == 0


def test_memory_of_every_strategy_is_the_sum_of_its_parts(published: PretrainReport) -> None:
    assert published.plan is not None
    parameters = 6_738_415_616
    for name, one in published.plan.strategies.items():
        ranks = {"full": 32, "replicate": 1}.get(name, 4)
        for memory in one.memory.values():
            parts = memory.model_dump(exclude={"total", "logits_peak", "fits"})
            assert sum(parts.values()) == memory.total
            assert memory.weights == memory.gradients == pytest.approx(4 * parameters / ranks, rel=1e-3)
            assert memory.optimizer == 2 * memory.weights
        totals = {mode: memory.total for mode, memory in one.memory.items()}
        # Whole copies keep all weights in bf16 until the pass ends, where the products are not kept in their place.
        assert totals["none"] > totals["selective"]
        assert totals["full"] < totals["none" if name == "replicate" else "selective"]
    assert published.plan.strategies["hybrid-zero2"].memory["none"].fits
    assert not published.plan.strategies["replicate"].memory["none"].fits
    json.loads(published.model_dump_json())


def test_what_is_proposed_fits_when_it_is_done(tmp_path: Path) -> None:
    tight: dict[str, Any] = {
        "workspace": tmp_path,
        "model": "scratch:15m",
        "plan": {"plan_device_memory": 0.5},
    }
    report = pretrain(build(**tight), dry_run=True)
    assert report.plan is not None
    assert report.plan.fits is False
    assert report.plan.change
    assert f"It does not fit. What makes it fit: {' '.join(report.plan.change)}." in report.lines()
    sections = {"--sharding": "parallel", "--activation-checkpointing": "numerics"}
    for flag in report.plan.change:
        name, value = flag.split()
        tight[sections[name]] = {name[2:].replace("-", "_"): value}
    after = pretrain(build(**tight), dry_run=True).plan
    assert after is not None
    assert after.fits
    assert after.change == ()


@pytest.fixture
def made_up_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in GiB of which full sharding alone saves enough, or hybrid with activations computed again."""

    def find_memory(_: MemoryPlanner, choice: MemoryChoice) -> RankMemory:
        state = 120 // choice.ranks + (20 if choice.sharding == "hybrid-zero2" else 0)
        step = {"none": 10, "selective": 4, "full": 0}[choice.activation_checkpointing]
        return RankMemory(StateMemory(state * 2**30, 0, 0, 0, 0), StepMemory(step * 2**30, 0, 0, 0))

    monkeypatch.setattr(MemoryPlanner, "find_memory", find_memory)


def plan_tight(**plan: Any) -> RunPlan:
    plan |= {"plan_device_memory": 38 / 0.9}
    found = plan_small(None, batch={"sequence_length": 512}, numerics={}, plan=plan).plan
    assert found is not None
    return found


@pytest.mark.usefixtures("made_up_memory")
@pytest.mark.parametrize(
    ("bandwidth", "peak", "flags"),
    [
        # 38 GiB fit: full sharding (13 GiB) is the only single option; hybrid with selective is 34 GiB.
        (0.1, True, ("--activation-checkpointing selective", "--sharding hybrid")),
        (None, True, ("--activation-checkpointing selective", "--sharding hybrid")),
        (0.1, False, ("--activation-checkpointing selective", "--sharding hybrid")),
        (1e6, True, ("--sharding full",)),  # where sending costs nothing, the fewest options
    ],
)
def test_the_fastest_change_that_fits_is_proposed(
    bandwidth: float | None, peak: bool, flags: tuple[str, ...]
) -> None:
    found = plan_tight(plan_device="A100-80GB" if peak else None, bandwidth_across=bandwidth)
    assert found.fits is False
    assert found.change == flags
    assert f"It does not fit. What makes it fit: {' '.join(flags)}." in format_plan(found)


@pytest.mark.usefixtures("made_up_memory")
def test_more_devices_are_proposed_of_gpus_only_and_as_they_are_typed() -> None:
    one = {"plan_nodes": 1, "plan_processes": 1}
    found = plan_tight(plan_device="A100-80GB", **one)
    assert found.change == ("--activation-checkpointing selective", "--sharding full", "4 devices")
    said = "It does not fit. What makes it fit: --activation-checkpointing selective --sharding full with 4 devices."
    assert said in format_plan(found)
    if not torch.cuda.is_available():
        found = plan_tight(plan_device=None, **one)
        assert (found.fits, found.change) == (False, None)


def test_a_price_bandwidths_and_a_cluster_of_flags_are_used(tmp_path: Path) -> None:
    report = pretrain(
        build(
            workspace=tmp_path,
            model="scratch:tiny",
            batch={"sequence_length": 512},
            parallel={"nodes": 2, "num_processes": 8, "device": "cuda"},
            plan={"bandwidth_across": 50.0, "bandwidth_inside": 100.0, "price_per_device_hour": 2.0},
        ),
        dry_run=True,
    )
    plan = report.plan
    assert plan is not None
    assert (plan.cluster.nodes, plan.cluster.devices, report.world_size) == (2, 16, 16)
    assert report.mesh == {"dp_replicate": 2, "dp_shard": 8}
    assert plan.compute.price == pytest.approx(2 * plan.compute.device_hours)  # type: ignore[operator]
    one = plan.strategies["hybrid"]
    assert one.inside_seconds == pytest.approx(one.inside_bytes / 100e9)
    assert one.across_seconds == pytest.approx(one.across_bytes / 50e9)


def test_a_named_corpus_wins_over_numbers_and_its_repeats_are_counted(corpus: Path) -> None:
    tokens = load_corpus(corpus).manifest.tokens.train
    once = plan_small(corpus).plan
    assert once is not None
    assert (once.text.origin, once.text.tokens, once.text.repeated_tokens) == ("corpus", tokens, 0)
    twice = plan_small(corpus, duration={"epochs": 2}).plan
    assert twice is not None
    assert twice.text.unique_tokens == pytest.approx(tokens)
    assert twice.text.repeated_tokens == pytest.approx(tokens, rel=0.01)
    lengths = [len(document) for document in read_lengths(corpus)]
    assert once.truncated is not None
    assert once.truncated.rows == len(lengths)
    assert once.truncated.tokens == sum(min(length, 64) for length in lengths)


def read_lengths(corpus: Path) -> list[range]:
    return [
        range(int(start), int(stop))
        for shard in load_corpus(corpus).train
        for start, stop in zip(shard.document_starts[:-1], shard.document_starts[1:], strict=True)
    ]


def test_numbers_win_over_a_corpus_that_merely_lies_here(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tiny = {"model": "scratch:tiny", "batch": {"sequence_length": 512}}
        report = pretrain(build(workspace=corpus.parent.parent, **tiny), dry_run=True)
    assert report.steps == round(63e9 / 512 / 2048)
    assert f"--corpus {corpus} plans the one here" in caplog.text


def test_a_plan_of_numbers_says_where_a_real_run_takes_a_step_more(corpus: Path) -> None:
    tokens = load_corpus(corpus).manifest.tokens.train
    size = max(size for size in range(1, 40) if 0.1 < tokens / (256 * size) % 1 < 0.4)  # is rounded down
    batch = {"sequence_length": 64, "micro_batch_size": 4, "global_batch_size": 4 * size}
    real = plan_small(corpus, batch=batch)
    one = {"plan_nodes": 1, "plan_processes": 1, "plan_tokens": tokens}
    planned = plan_small(None, batch=batch, plan=one)
    assert planned.plan is not None
    assert planned.steps == real.steps - 1
    (note,) = planned.plan.notes
    assert note.startswith(
        f"Of mere numbers whole steps are counted, {planned.steps:,} of {planned.steps:,}."
    )
    assert note in planned.lines()
    for unrounded in ({"duration": {"max_steps": 2}}, {"plan": one | {"plan_tokens": 64 * 8 * 5}}):
        found = plan_small(None, **unrounded).plan
        assert found is not None
        assert found.notes == ()


def test_without_corpus_and_numbers_there_is_nothing_to_plan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No corpus was given") as caught:
        pretrain(build(workspace=tmp_path, plan={"plan_tokens": None}), dry_run=True)
    assert "--plan-tokens" in caught.value.hint


def test_long_sequences_shared_by_ranks_need_less_memory_each(tmp_path: Path) -> None:
    changes = {
        "model": "scratch:tiny",
        "batch": {"sequence_length": 8192, "global_batch_size": 512},
        "positions": {"rope_scaling": "linear"},
    }
    plans = [
        pretrain(build(workspace=tmp_path, parallel={"cp_size": size}, **changes), dry_run=True).plan
        for size in (1, 4)
    ]
    alone, shared = (
        plan.memory.activations for plan in plans if plan is not None and plan.memory is not None
    )
    assert shared < 0.4 * alone


def test_the_loss_and_the_micro_batches_of_a_change_are_planned(tmp_path: Path) -> None:
    settings = build(
        workspace=tmp_path,
        model="scratch:tiny",
        batch={"sequence_length": 128, "micro_batch_size": 8, "global_batch_size": 8},
        numerics={"precision": "fp32", "loss_memory": "plain"},
    )
    shape = ModelShape.of(build_scratch_config("scratch:tiny", 32_000))
    planner = MemoryPlanner(shape, settings, "sdpa", on_cpu=False)
    choice = MemoryChoice("replicate", "none", 8, "plain", shards=1, devices=1)
    whole, chunks, half = (
        planner.find_memory(one).step
        for one in (choice, replace(choice, loss_memory="fused"), replace(choice, micro_batch_size=4))
    )
    assert whole.logits_peak == 3 * 8 * 128 * 32_000 * 4
    assert chunks.logits_peak < 0.7 * whole.logits_peak
    # Gradients of the first of two micro-batches are there while the second is computed.
    gradients = 4 * shape.description.parameters
    assert half.activations > whole.activations / 2 + 0.4 * gradients


def test_a_model_that_cannot_be_rehearsed_keeps_the_rest_of_its_plan(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no fake kernel")

    monkeypatch.setattr("biomedllama_cli.recipes.forecast_memory.rehearse_step", fail)
    plan = plan_small(corpus).plan
    assert plan is not None
    assert plan.memory is None
    assert plan.fits is None
    assert plan.notes == (
        "Memory could not be worked out: the step of this model cannot be rehearsed (no fake kernel).",
    )


def test_a_model_that_cannot_compute_again_is_planned_without_that(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    plan = plan_small(corpus).plan
    assert plan is not None
    assert [list(one.memory) for one in plan.strategies.values()] == [["none"]] * len(plan.strategies)
    assert [note.split(":")[0] for note in plan.notes] == [
        f"Activation checkpointing {mode} is left out" for mode in ("selective", "full")
    ]
    with pytest.raises(ModelError, match="cannot compute activations again"):
        plan_small(corpus, numerics={"precision": "fp32", "activation_checkpointing": "full"})


def test_a_folder_with_a_known_name_is_planned_as_it_is(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "huggyllama" / "llama-7b"
    build_scratch_config("scratch:tiny", 32_000).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    named, placed = (plan_small(corpus, model=model) for model in ("huggyllama/llama-7b", str(folder)))
    assert named.parameters == placed.parameters


def test_a_model_with_more_than_plain_attention_is_planned_with_its_own(corpus: Path, tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=32_000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    config.save_pretrained(tmp_path)
    report = plan_small(corpus, model=str(tmp_path))
    assert report.attention == "eager"
    assert report.plan is not None
    assert report.plan.memory is not None, report.plan.notes


def test_in_fp32_no_peak_of_another_precision_is_assumed(corpus: Path) -> None:
    plan = {"plan_nodes": 1, "plan_processes": 1, "plan_device": "A100-80GB"}
    peaks = [
        report.plan.cluster.peak_flops
        for precision in ("fp32", "bf16")
        if (report := plan_small(corpus, numerics={"precision": precision}, plan=plan)).plan
    ]
    assert peaks == [None, 312e12]


def test_full_sharding_is_called_hidden_only_where_a_step_computes_longer_than_it_sends(
    published: PretrainReport,
) -> None:
    assert published.plan is not None
    found = published.plan.strategies
    alike = {
        "hybrid-zero2": found["hybrid-zero2"].model_copy(
            update={"step_seconds": 300.0, "across_seconds": 300.0}
        ),
        "full": found["full"].model_copy(update={"step_seconds": 299.0, "across_seconds": 299.0}),
    }
    said = "\n".join(format_plan(published.plan.model_copy(update={"strategies": found | alike})))
    assert "no slower than hybrid-zero2" in said
    alike["full"] = alike["full"].model_copy(update={"bound_by": "computing"})
    said = "\n".join(format_plan(published.plan.model_copy(update={"strategies": found | alike})))
    assert "hides behind computing" in said

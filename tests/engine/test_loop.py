from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.engine.saved_runs import find_checkpoint, list_checkpoints
from biomedllama_cli.engine.schedule import learning_rate_at
from biomedllama_cli.errors import ModelError, Resumable


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_losses(folder: Path) -> list[tuple[int, float]]:
    return [
        (line["step"], line["train/loss"])
        for line in iter_metrics(folder / "metrics.jsonl")
        if "train/loss" in line
    ]


def read_validations(folder: Path) -> list[tuple[int, float]]:
    return [
        (line["step"], line["validation/bits_per_byte"])
        for line in iter_metrics(folder / "metrics.jsonl")
        if "validation/loss" in line
    ]


@pytest.mark.parametrize(
    ("number", "dropout", "step"),
    [(signal.SIGTERM, 0.0, 20), (signal.SIGINT, 0.0, 15), (signal.SIGTERM, 0.1, 15)],
)
def test_a_stopped_and_resumed_run_equals_a_whole_one_bit_for_bit(
    build_loop: Callable[..., Any],
    after_step: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    dropout: float,
    step: int,
) -> None:
    """Also where held-out text is looked at after the step of the signal: that is left to the resumed run."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir(), halves.mkdir()
    build_loop(whole, dropout=dropout).run()
    stop = after_step(step - 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Resumable, match=f"after step {step} of 40") as stopped:
        build_loop(halves, progress=stop, dropout=dropout).run()
    assert stopped.value.exit_code == 75
    middle = find_checkpoint(halves)
    assert middle is not None
    assert load_progress(middle).step == step
    assert [step for step, _ in read_validations(halves)] == ([0, 15] if step == 20 else [0])
    with (halves / "metrics.jsonl").open("a") as lines:  # of a resumed run that was killed before it saved
        lines.write('{"step": 15, "validation/loss": 9.0, "validation/bits_per_byte": 9.0}\n' * (step == 15))
    with caplog.at_level(logging.INFO):
        build_loop(halves, resume=middle, data_workers=2, dropout=dropout).run()
    assert f"goes on after step {step} of 40, from {middle}" in caplog.messages
    ends = [find_checkpoint(whole), find_checkpoint(halves)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].name == ends[1].name == "step-00000040"
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/progress.json"):
        assert sha256(ends[0] / name) == sha256(ends[1] / name)
    assert read_losses(whole) == read_losses(halves)
    assert [step for step, _ in read_losses(halves)] == list(range(1, 41))
    assert read_validations(whole) == read_validations(halves)
    assert [step for step, _ in read_validations(halves)] == [0, 15, 30, 40]
    assert read_losses(whole)[-1][1] < read_losses(whole)[0][1]


def test_a_step_is_adamw_on_the_mean_over_all_targets(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    """Against plain PyTorch: one batch, an explicit block mask, the mean over targets, clipping, AdamW."""
    loop = build_loop(tmp_path, micro_batch_size=2, max_steps=3)
    data = loop._data
    reference = AutoModelForCausalLM.from_config(loop._model.config, attn_implementation="eager")
    reference.load_state_dict(loop._model.state_dict())
    decayed = [p for p in reference.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.1},
            {"params": [p for p in reference.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    loop.run()
    expected = []
    for step in (1, 2, 3):
        batch = data.rows.__getitems__(data.order.step_sequences(step).tolist())
        segments = (batch["position_ids"] == 0).cumsum(1)
        allowed = (segments[:, :, None] == segments[:, None, :]).tril()
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
        logits = reference(
            batch["input_ids"], position_ids=batch["position_ids"], attention_mask=mask, use_cache=False
        ).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(
                step, total_steps=3, warmup_steps=1, peak_learning_rate=3e-3, final_fraction=0.1
            )
        optimizer.step()
        expected.append(loss.item())
    assert [loss for _, loss in read_losses(tmp_path)] == pytest.approx(expected, abs=1e-5)
    for name, weight in loop._model.state_dict().items():
        assert torch.allclose(weight, reference.state_dict()[name], atol=1e-5), name


def test_micro_batches_change_nothing_but_rounding(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    losses = []
    for size in (1, 8):
        folder = tmp_path / str(size)
        folder.mkdir()
        build_loop(folder, micro_batch_size=size, max_steps=10).run()
        losses.append([loss for _, loss in read_losses(folder)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_loader_processes_change_nothing(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        build_loop(folder, data_workers=workers, max_steps=6).run()
        losses.append(read_losses(folder))
    assert losses[0] == losses[1]


def test_bf16_trains_with_fp32_weights(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    build_loop(tmp_path, precision="bf16", max_steps=20).run()
    losses = read_losses(tmp_path)
    assert losses[-1][1] < losses[0][1] - 0.1
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert {t.dtype for t in load_file(checkpoint / "model.safetensors").values()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_and_names_step_and_sequences(
    build_loop: Callable[..., Any], after_step: Any, tmp_path: Path
) -> None:
    def break_weights() -> None:
        with torch.no_grad():
            next(iter(loop._model.parameters())).fill_(float("nan"))

    loop = build_loop(tmp_path, progress=after_step(7, break_weights), save_every_steps=5)
    ids = loop._data.order.step_sequences(8)
    with pytest.raises(ModelError, match=f"The loss of step 8 is not finite .*sequences {ids[0]}, {ids[1]}"):
        loop.run()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000005"]


def test_a_second_ctrl_c_stops_at_once(
    build_loop: Callable[..., Any], after_step: Any, tmp_path: Path
) -> None:
    # A shell starts what stands in the background with Ctrl-C ignored, and tests inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            build_loop(tmp_path, progress=after_step(3, press_twice)).run()
        assert list_checkpoints(tmp_path) == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_the_newest_checkpoints_stay(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    build_loop(tmp_path, save_every_steps=3, keep_checkpoints=2, max_steps=10).run()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000009", "step-00000010"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_is_a_plain_transformers_folder(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    loop = build_loop(tmp_path, max_steps=2)
    loop.run()
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint is not None
    model, loading = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    for name, weight in loop._model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (checkpoint / "tokenizer_config.json").is_file()
    assert (checkpoint / "generation_config.json").is_file()
    assert not [path for path in checkpoint.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_metrics_have_every_step_and_tokens_seen(build_loop: Callable[..., Any], tmp_path: Path) -> None:
    loop = build_loop(tmp_path, max_steps=4, peak_flops=1e12)
    tally = loop.run()
    lines = [line for line in iter_metrics(tmp_path / "metrics.jsonl") if "train/loss" in line]
    assert (
        lines[-1]["tokens_seen"]
        == tally.tokens_seen
        == sum(
            int(
                (
                    loop._data.rows.__getitems__(loop._data.order.step_sequences(s).tolist())["labels"]
                    != -100
                ).sum()
            )
            for s in range(1, 5)
        )
    )
    for line in lines:
        assert line["mfu"] == pytest.approx(line["train/tokens_per_second"] * 1e6 / 1e12)
        assert line["train/grad_norm"] > 0


def test_metrics_stay_json_where_an_older_run_wrote_infinity(
    build_loop: Callable[..., Any], tmp_path: Path
) -> None:
    build_loop(tmp_path, max_steps=2, save_every_steps=1).run()
    path = tmp_path / "metrics.jsonl"
    lines = [line | {"train/grad_norm": float("inf")} for line in iter_metrics(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Infinity" in path.read_text()
    build_loop(tmp_path, max_steps=2, resume=find_checkpoint(tmp_path)).run()
    assert "Infinity" not in path.read_text()
    assert [line["train/grad_norm"] for line in iter_metrics(path)] == [None] * len(lines)

"""Checkpoints of adapters hold what is trained alone, and a run goes on from them bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import adapted
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from biomedllama_cli.engine.checkpoint import gather_weights
from biomedllama_cli.engine.loop import Loop
from biomedllama_cli.engine.saved_runs import find_checkpoint
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.adapters import add_adapter, load_adapter_weights
from biomedllama_cli.models.load import load_model
from biomedllama_cli.settings.tuning import AdapterSettings

SEVEN_LAYERS_TWICE = 14


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted.build_base(tmp_path_factory.mktemp("models") / "base", vocabulary=64)


@pytest.fixture
def train(build_loop: Callable[..., Loop], base: Path) -> Callable[..., Loop]:
    """Return a function that trains adapters and gives back the finished loop."""

    def run(
        folder: Path, steps: int, *, resume: Path | None = None, method: str = "lora", rank: int = 4
    ) -> Loop:
        settings = AdapterSettings(method=method, rank=rank, alpha=8.0, dropout=0.1)

        def adapt(model: PreTrainedModel) -> None:
            add_adapter(model, settings, seed=0)
            if resume is not None:
                load_adapter_weights(model, resume)

        folder.mkdir()
        loop = build_loop(
            folder, source=base, resume=resume, adapt=adapt, max_steps=steps, save_every_steps=4
        )
        loop.run()
        return loop

    return run


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    train: Callable[..., Loop], tmp_path: Path, method: str
) -> None:
    train(tmp_path / "whole", 8, method=method)
    first = tmp_path / "whole" / "checkpoints" / "step-00000004"
    train(tmp_path / "rest", 8, resume=first, method=method)
    last = find_checkpoint(tmp_path / "whole")
    again = find_checkpoint(tmp_path / "rest")
    assert last is not None
    assert again is not None
    assert last.name == again.name == "step-00000008"
    for name in ("adapter_model.safetensors", "training_state/optimizer.safetensors"):
        assert (last / name).read_bytes() == (again / name).read_bytes(), name
        assert (last / name).read_bytes() != (first / name).read_bytes(), name
    # The schedule of eight steps is that of both runs.
    assert (last / "training_state/progress.json").read_text() == (
        again / "training_state/progress.json"
    ).read_text()


def test_a_checkpoint_holds_adapters_their_moments_and_the_tokenizer_alone(
    train: Callable[..., Loop], base: Path, tmp_path: Path
) -> None:
    loop = train(tmp_path / "run", 4)
    checkpoint = find_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    names = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    assert names == {
        "COMPLETE",
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
        "tokenizer_config.json",
        "training_state/optimizer.safetensors",
        "training_state/progress.json",
        "training_state/rng.safetensors",
    }
    weights = load_file(checkpoint / "adapter_model.safetensors")
    assert len(weights) == 2 * SEVEN_LAYERS_TWICE
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    moments = load_file(checkpoint / "training_state" / "optimizer.safetensors")
    assert len(moments) == 3 * len(weights), "two moments and the count of steps of every tensor"
    assert all(".lora_" in name for name in moments)
    expected = adapted.logits(loop._model)
    assert adapted.difference(adapted.logits(load_model(str(checkpoint))), expected) < 1e-5
    by_transformers = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    assert torch.equal(adapted.logits(by_transformers), expected)
    assert (expected - adapted.logits(load_model(str(base)))).abs().max() > 1e-3, "it has learnt something"


def test_frozen_weights_are_not_touched_by_saving(
    train: Callable[..., Loop], base: Path, tmp_path: Path
) -> None:
    loop = train(tmp_path / "run", 2)
    gathered = gather_weights(loop._model)
    assert all(".lora_" in name for name in gathered)
    plain = load_model(str(base)).state_dict()
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in loop._model.state_dict().items()}
    assert all(torch.equal(kept[name], tensor) for name, tensor in plain.items())


def test_another_rank_does_not_continue_a_checkpoint(train: Callable[..., Loop], tmp_path: Path) -> None:
    train(tmp_path / "run", 4)
    with pytest.raises(DataError, match="made with r 4, and now 8"):
        train(tmp_path / "other", 8, resume=find_checkpoint(tmp_path / "run"), rank=8)

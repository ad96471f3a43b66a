"""Which models can share rows, and that a row of one process alone is the row it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.loss import enable_token_losses, token_losses
from biomedllama_cli.models.split_attention import (
    SplitRows,
    check_splittable,
    find_pieces,
    register_split_attention,
    splitting,
)

LENGTH = 16
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
WINDOWED = {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A group of this process alone."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{Path(store)}", rank=0, world_size=1)
    register_split_attention()
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def build(config: PreTrainedConfig, attention: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    return enable_token_losses(model)


def score_split(model: Any, group: Any, rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    places = torch.cat([torch.arange(LENGTH)[piece] for piece in find_pieces(LENGTH, 1, 0)])
    with splitting(SplitRows(group, torch.arange(LENGTH) - rows[2])):
        return token_losses(model, *(row[:, places] for row in rows))


@pytest.fixture
def rows() -> tuple[torch.Tensor, ...]:
    """Two rows, the second of two documents: inputs, labels and positions."""
    generator = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(0, 64, (2, 2, LENGTH), generator=generator)
    positions = torch.arange(LENGTH).repeat(2, 1)
    positions[1, 9:] -= 9
    return ids, labels, positions


@pytest.mark.parametrize(
    "kind",
    [
        lambda: LlamaConfig(**SHAPE),
        lambda: MistralConfig(**SHAPE, sliding_window=5),
        lambda: Qwen2Config(**SHAPE, use_sliding_window=True, **WINDOWED),
        lambda: Gemma3TextConfig(**SHAPE, **WINDOWED),
    ],
    ids=["llama", "mistral", "qwen2", "gemma3"],
)
@torch.no_grad()
def test_a_row_of_one_process_is_scored_as_by_plain_attention(
    kind: Any, alone: Any, rows: tuple[torch.Tensor, ...]
) -> None:
    model = build(kind(), "split")
    check_splittable(model)
    torch.testing.assert_close(
        score_split(model, alone, rows), token_losses(build(kind(), "eager"), *rows), atol=1e-5, rtol=0
    )


def test_attention_that_is_more_is_refused(alone: Any, rows: tuple[torch.Tensor, ...]) -> None:
    config = GptOssConfig(**SHAPE, **WINDOWED, num_local_experts=2, num_experts_per_tok=2)
    with pytest.raises(ModelError, match="attention sinks"):
        score_split(build(config, "split"), alone, rows)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            Qwen3NextConfig(**SHAPE, layer_types=["linear_attention", "full_attention"], num_experts=2),
            "linear_attention, convolutions over tokens",
        ),
        (
            Llama4TextConfig(
                **SHAPE, layer_types=["chunked_attention", "full_attention"], num_local_experts=2
            ),
            "chunked_attention",
        ),
    ],
    ids=["recurrent", "chunked"],
)
def test_layers_that_pass_states_on_are_refused(config: Any, says: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=says):
        check_splittable(model)

"""Model and rows of the sharding tests, and their training in plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, HALF, SHORT, ROWS_PER_STEP, LENGTH = 20, 10, 3, 16, 16
VOCABULARY = 67  # no multiple of 2 or 4: shards are padded

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def build_model(attention: str = "sdpa") -> LlamaForCausalLM:
    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM._from_config(configuration, attn_implementation=attention)


def build_step(step: int) -> Rows:
    """Rows of very different numbers of targets: dividing per row or per rank would be seen."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(0, VOCABULARY, (ROWS_PER_STEP, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    for row in range(ROWS_PER_STEP):
        labels[row, 1 + (row * 7 + step) % LENGTH :] = -100
    labels[3] = -100  # a row that pads the last batch: no target at all
    return ids[:, :-1], labels, torch.arange(LENGTH).repeat(ROWS_PER_STEP, 1)


def train_reference(output: Path) -> dict[str, list[float]]:
    model = build_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    losses, norms = [], []
    for step in range(STEPS):
        input_ids, labels, _ = build_step(step)
        logits = model(input_ids=input_ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step + 1 in (SHORT, HALF, STEPS):
            save_weights(model.state_dict(), output / f"reference-{step + 1}.safetensors")
    return {"losses": losses, "norms": norms}


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights, tied ones under both names."""
    weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    save_file({name: tensor.clone() for name, tensor in weights.items()}, path)


def build_micro_batches(step: int, rank: int, world_size: int) -> list[dict[str, torch.Tensor]]:
    """The rows of one rank, one row per micro-batch."""
    input_ids, labels, position_ids = build_step(step)
    mine = range(rank, ROWS_PER_STEP, world_size)
    return [
        {
            "input_ids": input_ids[n : n + 1],
            "labels": labels[n : n + 1],
            "position_ids": position_ids[n : n + 1],
        }
        for n in mine
    ]

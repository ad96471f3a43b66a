"""One rank of the tests of what saves time or memory: `speed_worker.py OUTPUT_FOLDER VARIANT...`.

Every rank first finds the gradients of all rows in plain PyTorch (the reference); then the job takes a step with each
variant. Rank 0 writes the gradients before the update, the loss, and what it computed.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from context_worker import ROWS, SHAPE, build_row
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine.accelerator import build_accelerator
from biomedllama_cli.engine.device_mesh import read_mesh
from biomedllama_cli.engine.sharding import data_rank, data_ranks
from biomedllama_cli.engine.step import StepFrame, full_tensor, train_step
from biomedllama_cli.models import fused_loss
from biomedllama_cli.models import loss as loss_module
from biomedllama_cli.models.adapters import add_adapter
from biomedllama_cli.models.attention_names import register_attention
from biomedllama_cli.models.loss import enable_token_losses, token_losses
from biomedllama_cli.recipes.training import build_trainee
from biomedllama_cli.settings.pretrain import PretrainSettings
from biomedllama_cli.settings.tuning import AdapterSettings

FULL, COPIES, SHARED = {"sharding": "full"}, {"sharding": "replicate"}, {"cp_size": 2}


@dataclass(frozen=True)
class Variant:
    parallel: dict[str, Any]
    numerics: dict[str, Any] = field(default_factory=dict)
    kind: str = "untied"
    attention: str = "documents"


def checkpointing(mode: str) -> dict[str, Any]:
    return {"activation_checkpointing": mode}


VARIANTS = {
    "fused-full": Variant(FULL, {"loss_memory": "fused"}),
    "fused-full-tied": Variant(FULL, {"loss_memory": "fused"}, "tied"),
    "fused-copies": Variant(COPIES, {"loss_memory": "fused"}),
    "fused-copies-tied": Variant(COPIES, {"loss_memory": "fused"}, "tied"),
    "chunks-full": Variant(FULL, {"loss_memory": "chunks"}),
    "chunks-copies-tied": Variant(COPIES, {"loss_memory": "chunks"}, "tied"),
    "plain-full": Variant(FULL, {"loss_memory": "plain"}),
    "none-full": Variant(FULL),
    "whole-full": Variant(FULL, checkpointing("full")),
    "selective-full": Variant(FULL, checkpointing("selective")),
    "selective-copies": Variant(COPIES, checkpointing("selective")),
    "selective-lora": Variant(FULL, checkpointing("selective"), "lora"),
    "none-shared": Variant(SHARED, {}, "untied", "split"),
    "selective-shared": Variant(SHARED, checkpointing("selective"), "untied", "split"),
    "all-full": Variant(FULL, {"loss_memory": "fused"} | checkpointing("selective")),
    "compiled-full": Variant(FULL, {"compile": True}),
    "compiled-copies": Variant(COPIES, {"compile": True} | checkpointing("full")),
}


class Computed(TorchDispatchMode):
    """Counts operators and collectives that are really run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        self.seen[func.name().rpartition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


def build_model(kind: str, attention: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, tie_word_embeddings=kind == "tied")
    model = LlamaForCausalLM._from_config(config, attn_implementation=register_attention(attention))
    if kind == "lora":
        add_adapter(model, AdapterSettings(method="lora", rank=4, alpha=8.0), seed=0, base="a/base")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def find_reference(kind: str, output: Path) -> None:
    model = enable_token_losses(build_model(kind, "documents"), "plain")
    rows = [build_row(0, row) for row in range(ROWS)]
    targets = sum(int((row["labels"] != -100).sum()) for row in rows)
    losses = [token_losses(model, row["input_ids"], row["labels"], row["position_ids"]).sum() for row in rows]
    loss = torch.stack(losses).sum() / targets
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    save_file(gradients, output / f"reference-{kind}.safetensors", {"loss": str(float(loss.detach()))})


def run(name: str, output: Path) -> None:
    variant = VARIANTS[name]
    AcceleratorState._reset_state(reset_partial_state=True)
    numerics = {"precision": "fp32"} | variant.numerics
    settings = PretrainSettings.model_validate(
        {"parallel": {"device": "cpu"} | variant.parallel, "numerics": numerics}
    )
    accelerator = build_accelerator(settings.parallel, settings.numerics)
    model = build_model(variant.kind, variant.attention)
    names = list(dict(model.named_parameters()))
    trainee = build_trainee(accelerator, model, settings, None)
    mesh, rank = read_mesh(accelerator), accelerator.process_index
    gradients: dict[str, torch.Tensor] = {}

    def keep_gradients(loss: float, norm: float) -> bool:
        for parameter_name, parameter in trainee.model.named_parameters():
            if parameter.grad is not None:
                gradients[parameter_name] = full_tensor(parameter.grad).clone()
        return True

    mine, ranks = data_rank(mesh, rank), data_ranks(mesh)
    frame = StepFrame(1e6, 1, mine, ranks, keep_gradients)
    rows = [build_row(0, row) for row in range(mine, ROWS, ranks)]
    computed = Computed()
    # A compiled layer runs past such modes, and is not traced under them.
    if settings.numerics.compile:
        measured = train_step(accelerator, trainee.model, trainee.optimizer, rows, frame)
    else:
        with computed:
            measured = train_step(accelerator, trainee.model, trainee.optimizer, rows, frame)
    assert list(dict(trainee.model.named_parameters())) == names
    if rank == 0:
        save_file(gradients, output / f"{name}.safetensors")
        facts = {"loss": measured.loss, "computed": computed.seen, "kind": variant.kind}
        (output / f"{name}.json").write_text(json.dumps(facts))
    accelerator.wait_for_everyone()


def main(output: Path, names: list[str]) -> None:
    fused_loss.TOKENS_PER_CHUNK = 5
    loss_module.LOGITS_PER_CHUNK = 5 * SHAPE["vocab_size"]
    if os.environ["RANK"] == "0":
        for kind in sorted({VARIANTS[name].kind for name in names}):
            find_reference(kind, output)
    for name in names:
        run(name, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

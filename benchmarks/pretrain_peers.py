"""litgpt and torchtitan as arms of benchmarks/pretrain.py: their models, their losses and the steps of their loops.

Each has an environment of its own, made here: the peer is installed without its dependencies (they pin other versions
of what all arms share), those that it needs to train are added, and all else, PyTorch first, is this environment's.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_setting import (
    BETAS,
    EPSILON,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    Outcome,
    Setting,
    Stopwatch,
    read_memory,
    read_rows,
)


@dataclass(frozen=True)
class Peer:
    """A peer and how to have it.

    Attributes:
        version: that is measured.
        module: whose import shows that it works.
        others: packages it needs beyond ours.
        train: runs the arm.
    """

    version: str
    module: str
    others: tuple[str, ...]
    train: Callable[[Setting], Outcome]


def train_litgpt(setting: Setting) -> Outcome:
    """Train as litgpt's `pretrain.fit` does: Fabric, its GPT, its chunked cross entropy, its AdamW."""
    import lightning as L
    import torch
    from litgpt import GPT, Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer
    from safetensors.torch import load_file

    shape = read_shape(setting)
    length = next(read_rows(setting))["input_ids"].shape[1]
    config = Config(
        name="benchmark", block_size=length, n_layer=shape["num_hidden_layers"], n_head=shape["num_attention_heads"],
        n_embd=shape["hidden_size"], padded_vocab_size=shape["vocab_size"], rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=shape["rms_norm_eps"],
        mlp_class_name="LLaMAMLP", intermediate_size=shape["intermediate_size"],
    )  # fmt: skip
    precision = "bf16-mixed" if setting.precision == "bf16" else "32-true"
    fabric = L.Fabric(accelerator=setting.device, devices=1, precision=precision)
    fabric.launch()
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(setting.model / "model.safetensors"))
    model: Any = GPT(config)
    model.load_state_dict(weights)
    del weights
    model = fabric.setup(torch.compile(model) if setting.compiled else model)
    settings = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": LEARNING_RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY},
    }
    # Its loop asks for the fused kernel on CUDA alone.
    kernel = {"fused": setting.device == "cuda"}
    optimizer = fabric.setup_optimizers(instantiate_torch_optimizer(settings, model.parameters(), **kernel))
    outcome = Outcome(
        loaded_mib=read_memory("VmRSS"), notes="AdamW is not fused on a CPU; loss in chunks of 128 logits"
    )
    for batch in read_rows(setting):
        with Stopwatch(outcome, setting.device):
            ids, targets = (fabric.to_device(batch[name]) for name in ("input_ids", "labels"))
            loss = chunked_cross_entropy(model(ids), targets)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            outcome.losses.append(float(loss))
        outcome.tokens = ids.numel()
    return outcome


def train_torchtitan(setting: Setting) -> Outcome:
    """Train as torchtitan's trainer does on one device: FSDP2 for its mixed precision, its loss, its clipping."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torchtitan.components.loss import ChunkedLossWrapper
    from torchtitan.distributed import utils as dist_utils
    from torchtitan.distributed.fsdp import apply_fsdp_to_decoder

    store = setting.folder / "torchtitan-store"
    store.unlink(missing_ok=True)
    backend = "nccl" if setting.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    mesh = init_device_mesh(setting.device, (1,), mesh_dim_names=("fsdp",))
    model = build_torchtitan(setting).to(setting.device)
    if setting.compiled:
        for block in model.layers.values():
            block.compile(fullgraph=True)
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    apply_fsdp_to_decoder(model, mesh, param_dtype=dtype, reduce_dtype=torch.float32, pp_enabled=False)
    loss_function = ChunkedLossWrapper(ChunkedLossWrapper.Config())
    model._skip_lm_head = True
    loss_function.set_lm_head(model.lm_head)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True
    )
    outcome = Outcome(
        loaded_mib=read_memory("VmRSS"),
        notes="bf16 weights by FSDP2, no autocast; loss in 8 chunks; SDPA (its flex attention does not train on a CPU)",
    )
    for batch in read_rows(setting):
        with Stopwatch(outcome, setting.device):
            optimizer.zero_grad()
            ids, targets = (batch[name].to(setting.device) for name in ("input_ids", "labels"))
            loss, _ = loss_function(model(ids), targets, (targets != -100).sum())
            loss.backward()
            dist_utils.clip_grad_norm_(list(model.parameters()), MAX_GRAD_NORM, foreach=True)
            optimizer.step()
            outcome.losses.append(float(loss))
        outcome.tokens = ids.numel()
    torch.distributed.destroy_process_group()
    return outcome


def build_torchtitan(setting: Setting) -> Any:
    """Build torchtitan's LLaMA of this shape with the initial weights."""
    from safetensors.torch import load_file
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.llama3 import Llama3Model, Llama3StateDictAdapter, _build_llama3_layers

    shape = read_shape(setting)
    dim, heads, vocabulary = shape["hidden_size"], shape["num_attention_heads"], shape["vocab_size"]
    rope = ComplexRoPE.Config(dim=dim // heads, max_seq_len=shape["max_position_embeddings"], theta=10_000.0)
    layers = _build_llama3_layers(
        n_layers=shape["num_hidden_layers"], dim=dim, n_heads=heads, hidden_dim=shape["intermediate_size"],
        rope=rope, attn_backend="varlen",
    )  # fmt: skip
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
        layer.attention_norm.eps = layer.ffn_norm.eps = shape["rms_norm_eps"]
    config = Llama3Model.Config(
        dim=dim,
        vocab_size=vocabulary,
        tok_embeddings=Embedding.Config(num_embeddings=vocabulary, embedding_dim=dim),
        norm=RMSNorm.Config(normalized_shape=dim, eps=shape["rms_norm_eps"]),
        lm_head=Linear.Config(in_features=dim, out_features=vocabulary),
        layers=layers,
    )
    model = config.build()
    weights = Llama3StateDictAdapter(config, None).from_hf(load_file(setting.model / "model.safetensors"))
    model.load_state_dict(weights, strict=False)
    return model


def read_shape(setting: Setting) -> dict[str, Any]:
    """Return the model's configuration."""
    import json

    shape: dict[str, Any] = json.loads((setting.model / "config.json").read_text())
    return shape


PEERS = {
    "litgpt": Peer(
        "0.5.13", "litgpt",
        ("lightning", "lightning-utilities", "torchmetrics", "jsonargparse<=4.41", "docstring-parser",
         "typeshed-client", "pytorch-lightning"),
        train_litgpt,
    ),
    "torchtitan": Peer(
        "0.3.0", "torchtitan.train",
        ("torchdata", "torch_checkpointing", "tyro", "einops", "spmd_types==0.2.3", "shtab", "typeguard",
         "tensorboard", "triton"),
        train_torchtitan,
    ),
}  # fmt: skip


def find_peer(name: str, folder: Path) -> Path:
    """Return the interpreter of the peer's environment in this folder, which is made where it is missing.

    Raises:
        RuntimeError: it cannot be installed or imported; says why.
    """
    peer, home = PEERS[name], folder / name
    python = home / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", "--without-pip", str(home)])
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    shared = site / "_shared.pth"
    if not shared.exists():
        shared.write_text(sysconfig.get_path("purelib") + "\n")
    if subprocess.run(
        [str(python), "-c", f"import {peer.module}"], capture_output=True, check=False
    ).returncode:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
        run([*pip, f"{name}=={peer.version}", *peer.others])
        run([str(python), "-c", f"import {peer.module}"])
    return python


def run(command: list[str]) -> None:
    """Run a command; its last words are the error's."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise RuntimeError(f"`{' '.join(command[:4])} …` failed: {last[:200]}")

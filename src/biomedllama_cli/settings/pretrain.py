"""Settings of `biomedllama pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.plan import PlanSettings

Fraction = Annotated[float, Field(ge=0, le=1)]
Strategy = Literal["full", "hybrid", "hybrid-zero2", "replicate"]


class BatchSettings(Settings):
    """How tokens are grouped into steps."""

    sequence_length: PositiveInt = 2048
    """Length of one packed sequence (in tokens)."""
    micro_batch_size: PositiveInt = 1
    """Sequences one rank forwards at once (in sequences)."""
    global_batch_size: PositiveInt = 64
    """Sequences per optimizer step, summed over all ranks (in sequences)."""


class DurationSettings(Settings):
    """How long to train."""

    epochs: PositiveFloat = 1.0
    """Passes over the training sequences (in epochs)."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps (in steps), whatever the epochs say."""


class OptimizerSettings(Settings):
    """AdamW."""

    peak_learning_rate: PositiveFloat = 3e-5
    """Learning rate at the end of the warm-up."""
    adam_beta1: Fraction = 0.9
    """Decay of the first moment."""
    adam_beta2: Fraction = 0.95
    """Decay of the second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """Term added to the denominator."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay; vectors (norms, biases) have none unless `decay_vectors`."""
    decay_vectors: bool = False
    """Apply weight decay to vectors as well."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global L2 norm."""


class ScheduleSettings(Settings):
    """Cosine with linear warm-up."""

    warmup_fraction: Fraction = 0.03
    """Share of all steps spent warming up (a fraction)."""
    warmup_steps: NonNegativeInt | None = None
    """Warm-up in steps; takes the place of `warmup_fraction`."""
    final_learning_rate_fraction: Fraction = 0.1
    """Learning rate at the last step as a fraction of the peak."""


class NumericsSettings(Settings):
    """Precision, attention and memory."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the forward and backward passes; weights and optimizer states stay fp32."""
    tf32: bool = True
    """Allow TF32 matrix products on CUDA."""
    attention: Literal["auto", "xformers", "flex", "flash_attention_2", "documents", "sdpa", "eager"] = "auto"
    """Attention implementation; auto takes xformers where CUDA and its operator are there, documents (sdpa of each by
    itself) on a CPU, else sdpa. flex and flash_attention_2 need CUDA."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass to save memory: none, all but the costly products of each layer,
    or whole layers."""
    loss_memory: Literal["fused", "chunks", "plain"] = "fused"
    """How logits become a loss: fused (chunk by chunk, the gradients of each made with its loss; with fp16 as chunks,
    since the scale of the loss comes too late), chunks (whose logits are made again in the backward pass), or all at
    once."""
    compile: bool = False
    """Compile every decoder layer with torch.compile; not with selective activation checkpointing, which it does
    itself."""


class ParallelSettings(Settings):
    """Processes and the device mesh."""

    num_processes: PositiveInt | None = None
    """Processes on each node (in processes) [default: one per GPU, or one]."""
    nodes: PositiveInt = 1
    """Nodes of the job (in nodes); with more than one, give the same command with its own --node-rank on each."""
    node_rank: NonNegativeInt | None = None
    """Number of this node, from 0."""
    rendezvous: str | None = None
    """HOST:PORT of node 0 as the other nodes reach it; the way there also chooses the network interface. The next port
    must be free there as well."""
    rendezvous_timeout: PositiveFloat = 600.0
    """How long nodes wait for each other, at the start and before a restart (in seconds)."""
    max_restarts: NonNegativeInt = 0
    """How often a job whose process died is started again from its newest checkpoint (in restarts)."""
    sharding: Strategy = "hybrid"
    """Weights, gradients and optimizer states split over all ranks; split inside a node and copied across nodes; the
    same with parameters kept gathered until the backward pass (ZeRO-2); or copied to every rank (plain DDP)."""
    dp_replicate_size: PositiveInt | None = None
    """Copies of the model, across nodes [default: number of nodes; all processes with replicate; 1 with full]."""
    dp_shard_size: PositiveInt | None = None
    """Ranks one copy is sharded over, inside a node [default: processes per node; all with full; 1 with replicate]."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes CUDA where it is there."""
    data_workers: NonNegativeInt = 0
    """Loader processes per rank (in processes)."""


class PretrainParallelSettings(ParallelSettings):
    """Processes and the device mesh."""

    cp_size: PositiveInt = 1
    """Ranks that share each sequence (context parallelism), for sequences too long for one device."""


class CheckpointSettings(Settings):
    """Saving."""

    save_every_steps: PositiveInt = 1000
    """Steps between checkpoints (in steps); the last step is always saved."""
    keep_checkpoints: PositiveInt = 3
    """Newest checkpoints kept (in checkpoints)."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are kept for good; a multiple of save_every_steps (in steps) [default: none]."""
    save_in_background: bool | None = None
    """Copy the state to host memory, where a node has it, and write it while training goes on [default: on CUDA]."""

    @field_validator("keep_every_steps")
    @classmethod
    def _check_that_it_is_saved(cls, kept: int | None, others: ValidationInfo) -> int | None:
        saved = others.data.get("save_every_steps")
        if kept is not None and saved and kept % saved:
            rule = f"must be a multiple of save_every_steps, which is {saved}: others are not saved"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return kept


class MonitorSettings(Settings):
    """Validation and metrics."""

    validate_every_steps: PositiveInt = 500
    """Steps between validations (in steps); the first and the last step are always validated."""
    validation_sequences: PositiveInt | None = None
    """Validation sequences used (in sequences) [default: all]; pretrain looks at no more held-out documents of a source
    for what is forgotten."""
    log_every_steps: PositiveInt = 10
    """Steps between metric lines on the terminal (in steps); metrics.jsonl has every step."""
    peak_flops: PositiveFloat | None = None
    """Peak FLOP/s of one device for MFU [default: known for A100, H100 and H200 in bf16 and fp16, else MFU is not
    shown]."""
    spikes: Literal["skip", "warn", "off"] = "skip"
    """What is done with a step whose loss or gradient norm is far above the last ones: its update is left out, only
    reported, or not looked for."""
    spike_deviations: PositiveFloat = 6.0
    """Standard deviations above the mean of the last steps that make a spike."""
    spike_window: PositiveInt = 128
    """Steps that a spike is held against (in steps); nothing is a spike before that many."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; repeatable."""
    track_project: str = "biomedllama"
    """Project that wandb and trackio file the run under."""


class PretrainMonitorSettings(MonitorSettings):
    """Validation and metrics."""

    general: tuple[str, ...] = ()
    """NAME=FILE (jsonl with text) whose bits per byte show what is forgotten; repeatable; `bundled` stands for the sets
    and questions of this package, `none` for no look at all [default: bundled; none for a model of random weights, and
    where looking would take longer than training]."""
    general_every_steps: PositiveInt | None = None
    """Steps between looks at what is forgotten (in steps); the model as given and the last step are always looked at
    [default: no others]."""


class PositionsSettings(Settings):
    """Sequences longer than the model was trained for."""

    rope_scaling: Literal["none", "linear", "yarn", "llama3"] = "none"
    """How rotary positions are stretched."""
    rope_factor: PositiveFloat | None = None
    """By how much [default: sequence length / the model's positions]."""
    rope_theta: PositiveFloat | None = None
    """Base of the rotary frequencies [default: the model's]."""


class LaunchSettings(Settings):
    """How the job is started."""

    print_launch: bool = False
    """Print the `accelerate launch` command of every node that this one stands for, and do nothing."""
    slurm: bool = False
    """Submit the run as one Slurm job of --nodes nodes with --num-processes GPUs each (with --device cpu, processes);
    with --dry-run only show the script. Folders must be where all nodes see them."""
    slurm_time: str | None = None
    """Time limit of one start of the Slurm job, as sbatch takes it; the run saves before it, and the job queues itself
    again until the run is done [default: the cluster's]."""
    slurm_save_seconds: Annotated[int, Field(ge=1, le=65535)] = 600
    """How long before the time limit the run is told to finish its step and save (in seconds)."""
    slurm_option: tuple[str, ...] = ()
    """Line for the Slurm script after #SBATCH, such as --partition=gpu; takes the place of the script's own GPUs, cores
    or job name; repeatable."""
    slurm_setup: str | None = None
    """Shell command that the script runs first, such as one that activates the environment; `python` is then run from
    there, else the Python of this command."""


class PretrainSettings(Settings):
    """Train a causal language model further (or from scratch) on a prepared corpus."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    corpus: Path | None = None
    """Folder written by `prepare` [default: the newest one in the workspace]."""
    mix: tuple[Path, ...] = ()
    """More corpora to train on, made with the same tokenizer; repeatable."""
    weight: tuple[str, ...] = ()
    """SOURCE=NUMBER: how often one epoch reads a source of the corpora (pubmed=2, pmc=0.5, replay=0.1); repeatable
    [default: as prepared]."""
    model: str = "huggyllama/llama-7b"
    """Hub id, local folder, or `scratch:NAME` for a named small configuration with random weights."""
    output_dir: Path | None = None
    """Run folder [default: runs/pretrain-CORPUS in the workspace]."""
    seed: int = 0
    """Seed of the initial weights and of the order of sequences."""
    resume: str = "auto"
    """auto continues the newest checkpoint of the run folder, never refuses one, or a checkpoint's path."""
    overwrite: bool = False
    """Replace a run folder that holds another run."""
    batch: BatchSettings = BatchSettings()
    duration: DurationSettings = DurationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    numerics: NumericsSettings = NumericsSettings()
    parallel: PretrainParallelSettings = PretrainParallelSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    monitor: PretrainMonitorSettings = PretrainMonitorSettings()
    positions: PositionsSettings = PositionsSettings()
    launch: LaunchSettings = LaunchSettings()
    plan: PlanSettings = PlanSettings()

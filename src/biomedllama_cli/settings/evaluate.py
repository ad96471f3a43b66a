"""Settings of `biomedllama evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from biomedllama_cli.settings.base import Settings

ProfileName = Literal["paper", "clean", "harness", "instructed", "finetuned", "cot"]
TASK_NAMES = (
    *("medqa", "medqa-5", "medmcqa", "pubmedqa", "pubmedqa-no-context", "mmlu-medical", "medxpertqa"),
    *("bioasq-yesno", "sample-questions", "questions", "pubmed-abstracts"),
    *("pubmed-central", "text"),
    *("multimedqa", "mmlu-pro-health", "careqa", "headqa", "list"),
)
"""What completion offers for `--task`; the catalogue, which decides, loads more than the settings may."""


class ProtocolSettings(Settings):
    """What is asked and how it is scored."""

    profile: tuple[ProfileName, ...] = ("paper",)
    """Protocol, frozen and versioned; repeatable: several in one run show how much of a difference is protocol."""
    task: tuple[str, ...] = Field(default=(), examples=list(TASK_NAMES))
    """Task to run; repeatable; `list` shows them; lm-eval:NAME is any task of lm-eval [default: medqa, or with
    --reproduce all of the row]."""
    data: tuple[str, ...] = ()
    """TASK=FILE: read a task from a local file in its original schema; TASK.train=FILE: its few-shot
    pool; repeatable."""
    shots: NonNegativeInt = 0
    """Few-shot examples before each question (in examples)."""
    draw: Literal["per-question", "fixed"] = "per-question"
    """Draw other examples for every question (as published), or the same for all."""
    limit: PositiveInt | None = None
    """Score only this many questions or documents per task (in items); few-shot draws do not change."""
    context_length: PositiveInt = 2048
    """Longest input (in tokens), lowered to the model's own limit; longer ones lose their left end."""
    template: Literal["auto", "plain", "chat"] = "auto"
    """Prompts of generated answers: plain text (as published), the model's own chat template, or the latter only where
    the checkpoint was tuned with it (auto)."""
    matrix: bool = False
    """Also score option letters, with and without a leading space, and domain-conditional scores."""
    permutations: NonNegativeInt = 0
    """Orders of the shown options to score, the original one included (in orders); 0 leaves them as they are."""
    drop_defective: bool = False
    """Leave out items with defects (duplicate options, duplicate questions), which are listed in any case."""
    corpus: Path | None = None
    """Corpus made by `prepare`: profile clean leaves out the questions that it contains."""


class GenerationSettings(Settings):
    """How answers are generated (profiles instructed, finetuned and cot)."""

    backend: Literal["hf", "vllm"] = "hf"
    """Who generates: transformers, or vLLM (an extra; needs CUDA)."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer (in tokens) [default: 128 as published, 512 for cot]."""
    chains: PositiveInt = 8
    """Sampled chains of thought per question (in chains), profile cot."""
    temperature: NonNegativeFloat = 0.7
    """Of the sampled chains; 0 is greedy."""
    top_p: PositiveFloat = 1.0
    """Probability mass sampled from (a fraction)."""


class ComputeSettings(Settings):
    """How it is computed."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the model; auto is fp16 on CUDA (as published) and fp32 on the CPU."""
    batch_size: PositiveInt | None = None
    """Rows scored at once (in rows) [default: 1 on the CPU, 8 on CUDA]."""
    row_tokens: PositiveInt | None = None
    """Questions are packed into rows of so many tokens (in tokens) [default: by device]."""
    sharing: Literal["auto", "off"] = "auto"
    """Compute what questions and options have in common once, or score each option by itself."""
    self_check: NonNegativeInt = 0
    """Score so many questions per task again one by one and report the largest difference (in questions)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to score on; auto takes CUDA where it is there."""
    num_processes: PositiveInt | None = None
    """Processes that share the questions (in processes) [default: one per GPU, or one]."""
    attention: Literal["auto", "xformers", "sdpa", "eager"] = "auto"
    """Attention implementation."""


class OutputSettings(Settings):
    """What is printed and drawn, and what is done with earlier results."""

    format: Literal["terminal", "markdown", "latex", "csv"] = "terminal"
    """Form of the printed tables."""
    plot: Path | None = None
    """Draw the results with their intervals into this .png or .svg file."""
    fail_under: tuple[str, ...] = ()
    """TASK=VALUE: exit with code 8 when the task's accuracy is below it (bits per byte: above it); repeatable."""
    compare: tuple[Path, ...] = ()
    """Score nothing: compare these result folders pairwise; repeatable."""
    leaderboard: Path | None = None
    """Score nothing: tabulate all results below this folder, model by task."""


class EvaluateSettings(Settings):
    """Score models on biomedical tasks with published protocols, compare them, and tabulate results."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    model: tuple[str, ...] = ()
    """Hub id, folder, checkpoint or .gguf file; repeatable: several are compared [default: the newest checkpoint of the
    workspace]."""
    output_dir: Path | None = None
    """Folder for results.json and samples [default: runs/evaluate-... in the workspace]."""
    overwrite: bool = False
    """Replace an output folder that holds other results."""
    seed: NonNegativeInt = 42
    """Seed of the item shuffle and the few-shot draws (42 as published)."""
    reproduce: str | None = None
    """Run every cell of a published row ("BioMed-LLaMA-7B 0-shot") and judge it; `list` shows the rows."""
    protocol: ProtocolSettings = ProtocolSettings()
    generation: GenerationSettings = GenerationSettings()
    compute: ComputeSettings = ComputeSettings()
    output: OutputSettings = OutputSettings()

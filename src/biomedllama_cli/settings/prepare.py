"""Settings of `biomedllama prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from biomedllama_cli.settings.base import Settings

Subset = Literal["pubmed-abstracts", "pubmed-central", "pubmed"]
SourceName = Literal["pile", "pubmed", "pmc", "text"]
Switch = Literal["auto", "on", "off"]


class SourceSettings(Settings):
    """Where the documents come from."""

    source: tuple[SourceName, ...] = ()
    """What the inputs are: The Pile's records, PubMed XML, PubMed Central's articles, or any dataset with a text
    column; repeatable, one for each --input when there are several [default: pile]."""
    input: tuple[str, ...] = ()
    """Files, folders or globs; repeatable."""
    weight: tuple[str, ...] = ()
    """NAME=NUMBER: how often one epoch of training reads a source (pubmed=2, pmc=0.5); repeatable."""
    sample: bool = False
    """Use the biomedical sample text bundled with this package."""
    subset: Subset | None = None
    """Keep only records of this part of The Pile (`meta.pile_set_name`); `pubmed` means both."""
    hub_dataset: str = "monology/pile-uncopyrighted"
    """Hub dataset to stream when neither an input nor the sample is given."""
    hub_split: str = "train"
    """Split of the hub dataset."""
    text_field: str = "text"
    """Field of a record that holds its text."""
    on_bad_record: Literal["error", "skip"] = "error"
    """What to do with a record that cannot be read: stop with file and line, or count it and go on."""
    max_documents: PositiveInt | None = None
    """Stop after this many documents of the input (in documents, before any filter)."""


class BucketSettings(Settings):
    """PubMed Central's public bucket, for `--source pmc --inventory DATE`."""

    inventory: str | None = None
    """Fetch from the bucket what this day's inventory lists: a date (2026-11-20), or latest."""
    bucket_url: str = "https://pmc-oa-opendata.s3.amazonaws.com"
    """Address of the bucket or of a copy with the same layout."""
    download_dir: Path | None = None
    """Folder for what is fetched, which later runs use again [default: downloads/pmc in the workspace]."""
    connections: PositiveInt = 32
    """Requests at the same time (in connections)."""
    max_articles: PositiveInt | None = None
    """Consider only so many articles of the inventory, chosen evenly (in articles)."""


class ArticleSettings(Settings):
    """What becomes text of a PubMed Central article."""

    tables: bool = True
    """Keep the cells of tables, one line a row."""
    captions: bool = True
    """Keep the captions of figures and tables."""
    citations: bool = False
    """Keep citation markers such as [12]."""
    references: bool = False
    """Keep the list of references."""


class SelectionSettings(Settings):
    """Which documents may and should be trained on."""

    licences: Literal["commercial", "noncommercial", "all"] = "commercial"
    """Licences to keep: for commercial use, also for non-commercial use only, or no gate at all."""
    no_derivatives: Literal["drop", "keep"] = "drop"
    """What to do with NoDerivatives licences (CC BY-ND; CC BY-NC-ND with noncommercial)."""
    accept_abstract_copyright: bool = False
    """Keep PubMed abstracts that no licence covers: their copyright is mostly with the publishers."""
    retracted: Literal["drop", "keep"] = "drop"
    """What to do with retracted articles and retraction notices."""
    historical_ocr: Literal["drop", "keep"] = "drop"
    """What to do with scanned articles of the 18th to 20th century, whose text is recognised by machine."""
    language_filter: Switch = "auto"
    """Drop documents in other languages; auto is off for The Pile and the sample."""
    language: tuple[str, ...] = ("en",)
    """Languages to keep (ISO 639-1); repeatable."""
    quality_filter: Switch = "auto"
    """Drop documents that fail published quality rules; auto is off for The Pile and the sample."""
    near_duplicates: Switch = "auto"
    """Drop near-duplicates (nearly all pairs of Jaccard similarity 0.8 and more); auto is off for The Pile and the
    sample."""


class DecontaminationSettings(Settings):
    """Keeping evaluation questions out of the training text."""

    decontaminate: Literal["report", "drop", "off"] | None = None
    """Drop documents that hold benchmark items, only report them, or neither [default: drop where a benchmark is
    named, else off]."""
    benchmark: tuple[str, ...] = ()
    """NAME or NAME=FILE: pubmedqa, medqa, medqa-5, medmcqa or mmlu-medical, from the hub or a file; repeatable."""


class ReplaySettings(Settings):
    """General text mixed in against forgetting."""

    replay: str | None = None
    """Files, folder or hub dataset of general text."""
    replay_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the training tokens that is replayed text (a fraction)."""


class TokenizerSettings(Settings):
    """How text becomes token ids."""

    tokenizer: str | None = None
    """Tokenizer folder, SentencePiece .model file or hub id [default: huggyllama/llama-7b]."""
    vocabulary_size: PositiveInt | None = None
    """Train a new SentencePiece vocabulary of this many pieces on the input instead of loading one."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Beginning-of-sequence token before each document; auto follows the tokenizer's own convention."""


class OutputSettings(Settings):
    """What is written."""

    validation_fraction: Annotated[NonNegativeFloat, Field(lt=1)] = 0.01
    """Share of documents held out, chosen by the hash of their content (a fraction)."""
    shard_tokens: PositiveInt = 500_000_000
    """Tokens per shard at most (in tokens); a document is never split."""


class ExecutorSettings(Settings):
    """How the work is spread."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """Where the tasks run: processes here, a Slurm job array, or a Ray cluster."""
    tasks: PositiveInt | None = None
    """Parts the input is cut into (in tasks) [default: one per input file, at most 1024]."""
    workers: PositiveInt | None = None
    """Tasks running at the same time (in processes) [default: 1 here; on Slurm and Ray as many as they give]."""
    slurm_option: tuple[str, ...] = ()
    """Line for the Slurm script after #SBATCH, such as --partition=cpu; repeatable."""
    slurm_setup: str | None = None
    """Shell command that a Slurm task runs first, such as one that activates the environment."""
    ray_address: str | None = None
    """Address of the Ray cluster [default: the one at hand, or a new one on this machine]."""


class PrepareSettings(Settings):
    """Turn biomedical text into token shards whose origin is recorded."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    output_dir: Path | None = None
    """Corpus folder to write [default: corpora/NAME in the workspace]."""
    overwrite: bool = False
    """Replace an output folder that holds something else."""
    seed: NonNegativeInt = 0
    """Seed of the vocabulary training and of the choice of replayed text; the split depends on content alone."""
    source: SourceSettings = SourceSettings()
    bucket: BucketSettings = BucketSettings()
    articles: ArticleSettings = ArticleSettings()
    selection: SelectionSettings = SelectionSettings()
    decontamination: DecontaminationSettings = DecontaminationSettings()
    replay: ReplaySettings = ReplaySettings()
    tokenization: TokenizerSettings = TokenizerSettings()
    output: OutputSettings = OutputSettings()
    executor: ExecutorSettings = ExecutorSettings()

    @model_validator(mode="after")
    def _check_one_source_and_one_vocabulary(self) -> PrepareSettings:
        source = self.source
        if source.sample and source.input:
            raise ValueError("source.sample and source.input exclude each other: give --sample or --input")
        if source.sample and (source.source or self.bucket.inventory is not None):
            raise ValueError(
                "source.sample and source.source exclude each other: the sample is a source of its own"
            )
        if source.subset is not None and source.source and "pile" not in source.source:
            raise ValueError(
                "source.subset chooses among The Pile's records, and pile is not in source.source"
            )
        if self.tokenization.tokenizer is not None and self.tokenization.vocabulary_size is not None:
            raise ValueError(
                "tokenization.tokenizer and tokenization.vocabulary_size exclude each other: "
                "load a vocabulary or train one"
            )
        return self

    @model_validator(mode="after")
    def _check_that_no_option_is_idle(self) -> PrepareSettings:
        mode, benchmarks = self.decontamination.decontaminate, self.decontamination.benchmark
        if mode in ("report", "drop") and not benchmarks:
            raise ValueError(
                f"decontamination.decontaminate = {mode} needs a benchmark to look for: add --benchmark "
                "pubmedqa=FILE (or medqa, medqa-5, medmcqa, mmlu-medical; without =FILE from the hub)"
            )
        if mode == "off" and benchmarks:
            raise ValueError(
                "decontamination.benchmark names what to look for, and decontamination.decontaminate = off looks "
                "for nothing: leave one of them out"
            )
        if self.bucket.max_articles is not None and self.bucket.inventory is None:
            raise ValueError(
                "bucket.max_articles chooses among the articles of an inventory, and bucket.inventory names none: "
                "add --inventory latest"
            )
        return self

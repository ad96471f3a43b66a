"""Settings of `biomedllama prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from biomedllama_cli.settings.base import Settings

Subset = Literal["pubmed-abstracts", "pubmed-central", "pubmed"]


class SourceSettings(Settings):
    """Where the documents come from."""

    input: tuple[str, ...] = ()
    """Files, folders or globs of .jsonl, .jsonl.gz, .jsonl.zst or .parquet records; repeatable."""
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

    tasks: PositiveInt | None = None
    """Parts the input is cut into (in tasks) [default: one per input file, at most 1024]."""
    workers: PositiveInt = 1
    """Processes working at the same time (in processes)."""


class PrepareSettings(Settings):
    """Turn biomedical text into token shards whose origin is recorded."""

    workspace: Path = Path(".")
    """Folder that holds `corpora/` and `runs/`."""
    output_dir: Path | None = None
    """Corpus folder to write [default: corpora/NAME in the workspace]."""
    overwrite: bool = False
    """Replace an output folder that holds something else."""
    seed: NonNegativeInt = 0
    """Seed of the vocabulary training; the split depends on content alone."""
    source: SourceSettings = SourceSettings()
    tokenization: TokenizerSettings = TokenizerSettings()
    output: OutputSettings = OutputSettings()
    executor: ExecutorSettings = ExecutorSettings()

    @model_validator(mode="after")
    def _check_one_source_and_one_vocabulary(self) -> PrepareSettings:
        if self.source.sample and self.source.input:
            raise ValueError("source.sample and source.input exclude each other: give --sample or --input")
        if self.tokenization.tokenizer is not None and self.tokenization.vocabulary_size is not None:
            raise ValueError(
                "tokenization.tokenizer and tokenization.vocabulary_size exclude each other: "
                "load a vocabulary or train one"
            )
        return self

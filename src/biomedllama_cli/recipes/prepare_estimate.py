"""What `prepare --dry-run` says of the corpus to be: tokens, time and disk, from a sample of the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from biomedllama_cli.corpus.document import Dropped
from biomedllama_cli.corpus.encoding import encode_documents
from biomedllama_cli.corpus.estimate import Estimate, estimate_corpus
from biomedllama_cli.corpus.near_duplicates import Signer
from biomedllama_cli.corpus.sampling import Sampled, sample_file
from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.source import REPLAY, Source
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.sources.pmc import PmcReader
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.recipes.prepare_job import decide_bos
from biomedllama_cli.recipes.prepare_source import build_gates, signs
from biomedllama_cli.settings.prepare import PrepareSettings

_SECONDS = 10.0


def estimate_source(settings: PrepareSettings, source: Source, tokenizer: Tokenizer) -> Estimate | None:
    """Return what the input will come to, or None for input of unknown size; replayed text is left out."""
    gates = build_gates(settings, source)
    adds_bos = decide_bos(settings, tokenizer)
    signer = Signer() if signs(settings, source) else None
    files = [(part, file) for part, file in source.inputs if source.parts[part].name != REPLAY]
    part_of = {file: part for part, file in files}
    unreadable: list[Dropped] = []

    def count_tokens(texts: list[str]) -> int:
        if signer is not None:
            signer.sign(texts)  # for its time
        return len(encode_documents(texts, tokenizer, adds_bos=adds_bos)[0])

    def sample(file: InputFile) -> Iterator[Sampled]:
        part = part_of[file]
        reader, decide = source.parts[part].reader, gates[part].decide
        return sample_file(file, reader, decide, count_tokens, on_unreadable=unreadable.append)

    estimate = estimate_corpus(
        [file for _, file in files],
        sample,
        workers=settings.executor.workers or 1,
        seconds=_SECONDS,
        seed=settings.seed,
        most_documents=_count_most(source, files),
        bytes_per_token=choose_dtype(tokenizer.vocabulary_size).itemsize,
    )
    if estimate is None or not unreadable:
        return estimate
    first = f"{unreadable[0].where}: {unreadable[0].problem}"
    return estimate.model_copy(update={"unreadable": len(unreadable), "first_unreadable": first})


def _count_most(source: Source, files: Sequence[tuple[int, InputFile]]) -> int | None:
    """Return how many documents files can hold at most, or None where only reading them tells."""
    for part, file in files:
        reader = source.parts[part].reader
        if not isinstance(reader, PmcReader) or not reader.holds_one(file):
            return None
    return len(files)

"""Several corpora trained on as one, without tokenising again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from biomedllama_cli.corpus.manifest import (
    ByteCounts,
    Corpus,
    CorpusManifest,
    DocumentCounts,
    ShardEntry,
    SourceEntry,
    TokenCounts,
)
from biomedllama_cli.errors import DataError


def merge_corpora(corpora: Sequence[Corpus]) -> Corpus:
    """Return the corpora as one, in the order given; a single one comes back as it is.

    Sources of the same name are told apart by the corpus' name before them (`notes/pmc`).

    Raises:
        DataError: their tokenizers or their use of BOS differ, or two have the same name and sources.
    """
    first, *others = corpora
    if not others:
        return first
    for other in others:
        _check_same_tokens(first, other)
    names = _name_sources(corpora)
    return Corpus(
        first.folder,
        _merge_manifests(corpora, names),
        [shard for corpus in corpora for shard in corpus.train],
        [shard for corpus in corpora for shard in corpus.validation],
        first.tokenizer_folder,
        tuple(others),
    )


def _check_same_tokens(first: Corpus, other: Corpus) -> None:
    ours, theirs = first.manifest, other.manifest
    if ours.tokenizer.fingerprint != theirs.tokenizer.fingerprint:
        raise DataError(
            f"The corpora {first.folder} and {other.folder} were made with different tokenizers "
            f"({ours.tokenizer.source} and {theirs.tokenizer.source}).",
            "Prepare both with the tokenizer of the model you train.",
        )
    if ours.adds_bos != theirs.adds_bos:
        raise DataError(
            f"Only one of the corpora {first.folder} and {other.folder} begins its documents with BOS.",
            "Prepare both with the same --bos.",
        )


def _name_sources(corpora: Sequence[Corpus]) -> list[dict[str, str]]:
    """Return the new names of every corpus' sources."""
    sources = [{entry.source for entry in corpus.manifest.shards} for corpus in corpora]
    uses = Counter(name for names in sources for name in names)
    result = [
        {name: name if uses[name] == 1 else f"{_name_corpus(corpus.folder)}/{name}" for name in names}
        for corpus, names in zip(corpora, sources, strict=True)
    ]
    everything = [new for names in result for new in names.values()]
    if len(set(everything)) < len(everything):
        raise DataError(
            f"Two of the corpora have the same name and sources: {', '.join(str(c.folder) for c in corpora)}.",
            "Name each corpus once; a corpus is read more often with --weight.",
        )
    return result


def _name_corpus(folder: Path) -> str:
    return folder.resolve().name


def _merge_manifests(corpora: Sequence[Corpus], names: Sequence[dict[str, str]]) -> CorpusManifest:
    manifests = [corpus.manifest for corpus in corpora]
    shards: list[ShardEntry] = []
    sources: list[SourceEntry] = []
    for corpus, renamed in zip(corpora, names, strict=True):
        place = _name_corpus(corpus.folder)
        for entry in corpus.manifest.shards:
            shards.append(
                entry.model_copy(update={"source": renamed[entry.source], "file": f"{place}/{entry.file}"})
            )
        sources += [
            source.model_copy(update={"name": renamed[source.name]})
            for source in corpus.manifest.sources
            if source.name in renamed  # else nothing of it was kept
        ]
    return manifests[0].model_copy(
        update={
            "name": " + ".join(manifest.name for manifest in manifests),
            "documents": _add_documents([manifest.documents for manifest in manifests]),
            "tokens": TokenCounts(
                train=sum(manifest.tokens.train for manifest in manifests),
                validation=sum(manifest.tokens.validation for manifest in manifests),
                dropped=_add_counts([manifest.tokens.dropped for manifest in manifests]),
            ),
            "bytes": ByteCounts(
                train=sum(manifest.bytes.train for manifest in manifests),
                validation=sum(manifest.bytes.validation for manifest in manifests),
            ),
            "shards": tuple(shards),
            "sources": tuple(sources),
        }
    )


def _add_documents(counts: Sequence[DocumentCounts]) -> DocumentCounts:
    return DocumentCounts(
        read=sum(count.read for count in counts),
        kept=sum(count.kept for count in counts),
        train=sum(count.train for count in counts),
        validation=sum(count.validation for count in counts),
        dropped=_add_counts([count.dropped for count in counts]),
    )


def _add_counts(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))

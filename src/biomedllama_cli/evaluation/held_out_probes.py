"""Held-out documents of a corpus as probes: abstracts by themselves, papers by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomedllama_cli.corpus.assembly import DOCUMENT_TABLE_FILE
from biomedllama_cli.corpus.manifest import Corpus
from biomedllama_cli.corpus.shards import Shard
from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.probes import Reading, TextProbe
from biomedllama_cli.evaluation.token_trees import TokenSequence

HELD_OUT_DOCUMENTS = 200
"""Held-out documents of a source that are looked at where there are more; of each, what fits in one row."""


def build_held_out_probes(
    corpus: Corpus, reading: Reading, *, most: int = HELD_OUT_DOCUMENTS
) -> list[TextProbe]:
    """Return the beginnings of held-out documents: at most `most` of a source, evenly spaced.

    A source that says of its documents which subset they are of (The Pile: abstracts or papers) is several, named
    `pile/pubmed-abstracts` and so on. Bytes are those of the text that the tokens stand for.

    Raises:
        DataError: the corpus' document table cannot be read.
    """
    probes = [
        _build_probe(name, places, reading, most, has_bos=corpus.manifest.adds_bos)
        for name, places in _group_documents(corpus).items()
    ]
    return [probe for probe in probes if probe.sequences]


def _group_documents(corpus: Corpus) -> dict[str, _Places]:
    """Return the places of all held-out documents by source, or by source and subset where there are several."""
    sources = [entry.source for entry in corpus.manifest.shards if entry.split == "validation"]
    subsets = {folder: read_subsets(folder) for folder in {shard.path.parent for shard in corpus.validation}}
    parts: dict[str, dict[str, list[tuple[Shard, npt.NDArray[np.int64]]]]] = {}
    for source, shard in zip(sources, corpus.validation, strict=True):
        count = len(shard.document_starts) - 1
        known = subsets[shard.path.parent].get(shard.path.name, np.zeros(0, np.str_))
        names = known if len(known) == count else np.zeros(count, np.str_)
        for subset in np.unique(names).tolist():
            numbers = np.flatnonzero(names == subset).astype(np.int64)
            parts.setdefault(source, {}).setdefault(subset, []).append((shard, numbers))
    return {
        f"{source}/{subset}" if subset and len(by_subset) > 1 else source: _Places(of_subset)
        for source, by_subset in parts.items()
        for subset, of_subset in by_subset.items()
    }


class _Places:
    """Documents of some shards, addressed by one running number; there may be millions."""

    def __init__(self, parts: Sequence[tuple[Shard, npt.NDArray[np.int64]]]) -> None:
        self._parts = parts
        self._firsts = np.concatenate(
            [[0], np.cumsum([len(numbers) for _, numbers in parts], dtype=np.int64)]
        )

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def find(self, index: int) -> tuple[Shard, int]:
        """Return the shard of a document, and its number there."""
        place = int(np.searchsorted(self._firsts, index, side="right")) - 1
        shard, numbers = self._parts[place]
        return shard, int(numbers[index - int(self._firsts[place])])


def read_subsets(folder: Path) -> dict[str, npt.NDArray[np.str_]]:
    """Return the subset of every held-out document of a corpus folder, by shard, in the order of its documents.

    Where a document names none it is empty; where the folder has no document table there is nothing.

    Raises:
        DataError: the table cannot be read.
    """
    path = folder / DOCUMENT_TABLE_FILE
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(
            path, columns=["shard", "document", "subset"], filters=[("split", "==", "validation")]
        )
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({error}).",
            "The copy is damaged: copy the folder again, or run prepare again.",
        ) from None
    shards = np.array(table["shard"].to_pylist(), np.str_)
    names = np.array(
        ["-".join((name or "").lower().split()) for name in table["subset"].to_pylist()], np.str_
    )
    documents = table["document"].to_numpy()
    found = {}
    for shard in np.unique(shards).tolist():
        own = shards == shard
        found[shard] = names[own][np.argsort(documents[own])]
    return found


def _build_probe(name: str, places: _Places, reading: Reading, most: int, *, has_bos: bool) -> TextProbe:
    count = min(len(places), most)
    sequences: list[TokenSequence] = []
    sizes: list[int] = []
    for number in range(count):
        shard, document = places.find(number * len(places) // count)
        start, end = int(shard.document_starts[document]), int(shard.document_starts[document + 1])
        ids = shard.token_ids[start + has_bos : end - 1][: reading.context_length].tolist()
        size = len(reading.tokenizer.decode(ids).encode("utf-8"))
        if ids and size:
            sequences.append(TokenSequence((reading.prefix_id, *ids), len(ids)))
            sizes.append(size)
    return TextProbe(name, "validation", tuple(sequences), tuple(range(len(sequences))), tuple(sizes))

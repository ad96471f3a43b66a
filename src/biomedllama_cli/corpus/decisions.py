"""What only the whole input can decide: which documents are replaced, withdrawn or repeated, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus import reasons
from biomedllama_cli.corpus.deduplication import iter_rows, mark_duplicates
from biomedllama_cli.corpus.disk import map_new_file
from biomedllama_cli.corpus.links import apply_links
from biomedllama_cli.corpus.split import DOCUMENT, DROPPED, TRAIN, SplitChooser
from biomedllama_cli.corpus.task_writer import LINKS_FILE, ROWS_FILE, SIGNATURES_FILE, read_summary


@dataclass(frozen=True)
class GlobalRules:
    """What the whole input is held to.

    Attributes:
        gates_abstracts: whether an abstract needs a full text whose licence permits training.
        accepts_abstract_copyright: whether such an abstract stays all the same.
        drops_retracted: whether what a notice or a twin retracts goes.
        drops_contaminated_twins: whether the twin of a contaminated document goes.
        removes_near_duplicates: whether near-duplicates go.
        validation_fraction: share of documents to hold out.
        replay_fraction: share of training tokens that is replayed text.
        seed: of the choice of replayed documents.
    """

    gates_abstracts: bool = False
    accepts_abstract_copyright: bool = False
    drops_retracted: bool = False
    drops_contaminated_twins: bool = False
    removes_near_duplicates: bool = False
    validation_fraction: float = 0.01
    replay_fraction: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Decisions:
    """What becomes of every document, in input order.

    Attributes:
        reasons: codes of `reasons`, 0 for a document that stays; uint8, shape [documents].
        splits: TRAIN, VALIDATION or DROPPED; uint8, shape [documents].
        parts: number of each document's source; uint8, shape [documents].
    """

    reasons: npt.NDArray[np.uint8]
    splits: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.uint8]


def decide(
    tasks: Sequence[Path], scratch: Path, rules: GlobalRules, weights: Sequence[float], replay: int | None
) -> Decisions:
    """Decide about every document of the finished tasks.

    Args:
        tasks: their folders, in order.
        scratch: folder for files that are as large as the number of documents.
        rules: what to hold them to.
        weights: passes over each source in one epoch.
        replay: number of the source that is replayed text, or None.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    tables = [task / ROWS_FILE for task in tasks]
    counts = [table.stat().st_size // DOCUMENT.itemsize for table in tables]
    flags = map_new_file(scratch / "reasons.u8", sum(counts))
    splits = map_new_file(scratch / "splits.u8", sum(counts))
    parts = map_new_file(scratch / "parts.u8", sum(counts))
    _fill_parts(tasks, parts)
    apply_links(
        [task / LINKS_FILE for task in tasks],
        counts,
        flags,
        scratch / "links",
        accept_abstract_copyright=rules.accepts_abstract_copyright,
        gate_abstracts=rules.gates_abstracts,
        drop_retracted=rules.drops_retracted,
        drop_contaminated_twins=rules.drops_contaminated_twins,
    )
    mark_duplicates(tables, scratch / "duplicates", flags)
    if rules.removes_near_duplicates:
        from biomedllama_cli.corpus.near_duplicates import mark_near_duplicates

        mark_near_duplicates([task / SIGNATURES_FILE for task in tasks], flags, scratch / "near_duplicates")
    choose_splits(tables, flags, splits, parts, (rules.validation_fraction, replay))
    if replay is not None:
        _drop_replay_surplus(tables, Decisions(flags, splits, parts), rules, weights, replay)
    return Decisions(flags, splits, parts)


def _fill_parts(tasks: Sequence[Path], parts: npt.NDArray[np.uint8]) -> None:
    start = 0
    for task in tasks:
        for part, count in read_summary(task)["documents"].items():  # in the order of the input
            parts[start : start + count] = int(part)
            start += count


def choose_splits(
    tables: Sequence[Path],
    flags: npt.NDArray[np.uint8],
    splits: npt.NDArray[np.uint8],
    parts: npt.NDArray[np.uint8],
    share: tuple[float, int | None],
) -> None:
    """Hold documents out; replayed text is never held out: validation measures biomedical text.

    Args:
        tables: document tables in input order.
        flags: a drop reason per document.
        splits: TRAIN, VALIDATION or DROPPED per document, written here.
        parts: number of each document's source.
        share: of documents to hold out, and the number of the source that is replayed text, or None.
    """
    fraction, replay = share
    chooser = SplitChooser(fraction)
    for number, rows in iter_rows(tables):
        here = slice(number, number + len(rows))
        replayed = parts[here] == replay if replay is not None else np.zeros(len(rows), bool)
        splits[here] = chooser.split(rows, (flags[here] != 0) | replayed, number)
        splits[here][replayed & (flags[here] == 0)] = TRAIN
    correction = chooser.correction()
    if correction is not None:
        splits[correction[0]] = correction[1]


def _drop_replay_surplus(
    tables: Sequence[Path], decisions: Decisions, rules: GlobalRules, weights: Sequence[float], replay: int
) -> None:
    """Keep just so much replayed text, chosen by hash, that it is the wanted share of the training tokens.

    Memory: 24 bytes per replayed document.
    """
    others = 0.0
    found: list[npt.NDArray[Any]] = []
    weight = np.array(weights)
    for number, rows in iter_rows(tables):
        here = slice(number, number + len(rows))
        train = decisions.splits[here] == TRAIN
        parts = decisions.parts[here]
        chosen = train & (parts != replay)
        others += float((rows["tokens"][chosen] * weight[parts[chosen]]).sum())
        mine = np.flatnonzero(train & (parts == replay))
        key = rows["split"][mine] ^ np.uint64(rules.seed * 0x9E3779B97F4A7C15 % 2**64)
        found.append(
            np.stack([key, rows["tokens"][mine].astype(np.uint64), (number + mine).astype(np.uint64)])
        )
    keys, tokens, numbers = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.uint64)
    order = np.argsort(keys, kind="stable")
    wanted = others * rules.replay_fraction / (1 - rules.replay_fraction) / weights[replay]
    # The document that crosses the wanted share stays: a share is met or a little passed, never missed.
    before = np.cumsum(tokens[order]) - tokens[order]
    surplus = numbers[order][before >= wanted].astype(np.int64)
    decisions.reasons[surplus] = reasons.REPLAY_SURPLUS
    decisions.splits[surplus] = DROPPED

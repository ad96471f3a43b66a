"""What a corpus will come to, from a sample of its input, with intervals.

Files are chosen evenly over the input and read from their beginning, as far as the time allows: a compressed file
cannot be entered in its middle. So two things are estimated at once, files from some of them and each file from its
first part: two-stage cluster sampling with ratios to the bytes of input (Cochran 1977, "Sampling Techniques", 3rd
edition, chapters 6 and 11). Documents within a file are alike, so the files are the units, not the documents.

Two biases remain. A file's beginning stands for all of it: of a file sorted by year or length that is wrong. And what
needs the whole input (duplicates, replaced versions, abstracts of kept articles) is not taken off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.sampling import Sampler, iter_order
from biomedllama_cli.corpus.sources.files import InputFile

CONFIDENCE = 0.95
SLICES = 20
"""The time is meant for so many files; whatever small files leave over goes to more of them."""
_LEAST_FILES = 2
_MOST_SEGMENTS = 32


class Range(BaseModel):
    """A number that is estimated."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    value: float
    """The best guess."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


class Estimate(BaseModel):
    """What a corpus will come to."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    documents_read: Range
    """Documents in the input."""
    documents: Range
    """Documents that pass the filters of single documents; duplicates and the like are not taken off."""
    tokens: Range
    """Tokens of these documents."""
    disk_bytes: Range
    """Bytes of the finished corpus."""
    seconds: Range
    """Time to read, filter and tokenise with the workers; putting the shards together comes on top. The interval is
    that of the sample: how busy the machine will be is not in it."""
    sampled_files: int
    """Files read for this, wholly or in part."""
    sampled_bytes: int
    """Bytes of them read."""
    input_bytes: int
    """Bytes of the whole input."""
    exact: bool
    """Whether the sample was the whole input: then only the time is an estimate."""
    unreadable: int = 0
    """Records of the sample that cannot be read."""
    first_unreadable: str | None = None
    """Where the first of them is, and what is wrong with it."""


def estimate_corpus(
    files: Sequence[InputFile],
    sample: Sampler,
    *,
    workers: int = 1,
    seconds: float = 10.0,
    seed: int = 0,
    bytes_per_token: int = 2,
    bytes_per_document: int = 200,
    most_documents: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate | None:
    """Return what the files will come to, or None where there is nothing to go by: no file, or sizes unknown.

    Args:
        files: the whole input, in order.
        sample: reads a file.
        workers: processes that will share the work.
        seconds: time for the sample; two files are looked at however long it takes.
        seed: of the choice of files.
        bytes_per_token: of a shard.
        bytes_per_document: of index and document table together, for each document.
        most_documents: documents that the files can hold at most, where their kind says so.
        clock: the time in seconds.
    """
    candidates = [file for file in files if file.size]
    if not candidates or not all(file.on_disk for file in candidates):
        return None
    clusters = _take_sample(candidates, iter_order(len(candidates), seed), sample, (seconds, clock))
    total = sum(file.size for file in candidates)

    freedom = len(clusters) - 1
    if len(clusters) == len(candidates):
        freedom = sum(max(len(cluster.segments) - 1, 1) for cluster in clusters)

    def expand(*weights: float) -> Range:
        found = [cluster.weigh(np.array(weights)) for cluster in clusters]
        seen = sum(float((cluster.segments @ np.array(weights)).sum()) for cluster in clusters)
        sizes = [cluster.size for cluster in clusters]
        low, value, high = expand_sample(sizes, found, (total, len(candidates)), freedom)
        return Range(value=value, low=min(max(low, seen), value), high=high)

    # Columns: bytes, tokens, kept, read, seconds.
    largest = max(file.size for file in candidates) / total
    share = max(1 / max(min(workers, len(candidates)), 1), largest)
    work = expand(0, 0, 0, 0, 1)
    return Estimate(
        documents_read=_bound(expand(0, 0, 0, 1, 0), most_documents),
        documents=_bound(expand(0, 0, 1, 0, 0), most_documents),
        tokens=expand(0, 1, 0, 0, 0),
        disk_bytes=expand(0, bytes_per_token, bytes_per_document, 0, 0),
        seconds=Range(value=work.value * share, low=work.low * share, high=work.high * share),
        sampled_files=len(clusters),
        sampled_bytes=int(sum(cluster.consumed for cluster in clusters)),
        input_bytes=total,
        exact=len(clusters) == len(candidates)
        and all(cluster.consumed == cluster.size for cluster in clusters),
    )


def _bound(found: Range, most: int | None) -> Range:
    if most is None:
        return found
    return Range(value=min(found.value, most), low=min(found.low, most), high=min(found.high, most))


class _Cluster(NamedTuple):
    """The part of one file that was read, in segments."""

    size: int
    consumed: float
    segments: npt.NDArray[np.float64]
    """Shape [segments, 5]: bytes, tokens, kept, read, seconds of each."""

    def weigh(self, weights: npt.NDArray[np.float64]) -> tuple[float, float]:
        """Return the estimate of a weighted sum over the whole file, and its variance."""
        sizes, found = self.segments[:, 0], self.segments @ weights
        return expand_file(sizes, found, self.size)


def _take_sample(
    files: Sequence[InputFile],
    order: Iterable[int],
    sample: Sampler,
    timer: tuple[float, Callable[[], float]],
) -> list[_Cluster]:
    """Read from files in an order until the time is over."""
    seconds, clock = timer
    end = clock() + seconds
    clusters: list[_Cluster] = []
    for number, index in enumerate(order):
        now = clock()
        if now >= end and number >= _LEAST_FILES:
            break
        left = max(min(len(files), SLICES) - number, 1)
        clusters.append(_read_cluster(files[index], sample, max(end - now, 0) / left, clock))
    return clusters


def _read_cluster(file: InputFile, sample: Sampler, seconds: float, clock: Callable[[], float]) -> _Cluster:
    """Read a file for some time, but at least to the first position it reports."""
    begin = clock()
    rows: list[tuple[float, ...]] = [(0.0,) * 5]
    finished = True
    for point in sample(file):
        row = (*map(float, point), clock() - begin)
        if point.bytes == 0:
            continue
        if point.bytes <= rows[-1][0]:
            rows[-1] = row  # more documents of what was consumed before
        else:
            rows.append(row)
        if row[-1] >= seconds:
            finished = point.bytes >= file.size
            break
    if finished and len(rows) > 1:
        rows[-1] = (float(file.size), *rows[-1][1:])
    points = np.array(rows)
    if len(points) > _MOST_SEGMENTS + 1:
        marks = np.linspace(0, points[-1, 0], _MOST_SEGMENTS + 1)
        points = points[np.unique(np.searchsorted(points[:, 0], marks))]
    segments = np.diff(points, axis=0)
    return _Cluster(file.size, float(points[-1, 0]), segments[segments[:, 0] > 0])


def expand_file(
    sizes: npt.NDArray[np.float64], found: npt.NDArray[np.float64], size: float
) -> tuple[float, float]:
    """Return the total of a file from segments of it, and its variance (Cochran 1977, section 6.4).

    Args:
        sizes: bytes of the segments.
        found: what was found in each.
        size: bytes of the file.

    >>> expand_file(np.array([10.0, 10.0]), np.array([3.0, 3.0]), 100)
    (30.0, 0.0)
    >>> expand_file(np.array([10.0, 10.0]), np.array([2.0, 4.0]), 20)
    (6.0, 0.0)
    """
    read, count = float(sizes.sum()), len(sizes)
    if read <= 0:
        return 0.0, 0.0
    ratio = float(found.sum()) / read
    total = ratio * size
    if read >= size:
        return total, 0.0
    if count < 2:
        return total, total * total  # one piece says nothing of how pieces differ
    spread = float(((found - ratio * sizes) ** 2).sum()) / (count - 1)
    return total, (1 - read / size) * count * spread * (size / read) ** 2


def expand_sample(
    sizes: Sequence[int], found: Sequence[tuple[float, float]], whole: tuple[int, int], freedom: int
) -> tuple[float, float, float]:
    """Return the total over all files from those of some: low, value and high of a 95 % interval.

    Cochran 1977, chapter 11, ratio to size: what differs between the files, where not all were read, and within each.

    Args:
        sizes: bytes of the files that were read from.
        found: total of each, as estimated, and its variance.
        whole: bytes and number of all files.
        freedom: degrees of freedom of Student's t.

    >>> expand_sample([10, 30], [(5.0, 0.0), (15.0, 0.0)], (100, 8), 1)
    (50.0, 50.0, 50.0)
    """
    from scipy.stats import t

    seen, count = np.array(sizes, dtype=np.float64), len(sizes)
    totals, variances = np.array(found).T
    scale = whole[0] / seen.sum()
    value = float(scale * totals.sum())
    variance = float(scale * variances.sum())
    if count < whole[1]:
        ratio = totals.sum() / seen.sum()
        spread = float(((totals - ratio * seen) ** 2).sum()) / (count - 1)
        variance += scale**2 * count * (1 - count / whole[1]) * spread
    half = math.sqrt(variance) * float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    return value - half, value, value + half

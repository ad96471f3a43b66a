"""Draw the examples of a run: a source by its share, then any of its examples alike.

Pure functions of the seed. Sources are taken in the order of their names and compared as exact fractions against raw
words of a Philox generator: the order a mixture file lists them in, the hash seed, the platform and the version of
numpy (which guarantees the words of its bit generators, not what `Generator.choice` makes of them) change nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.mixture import Mixture, MixtureSource
from biomedllama_cli.settings.suggest import suggest

logger = logging.getLogger(__name__)

_DRAW, _CAP, _AT_LEAST_ONCE = (
    0xD1B54A32D192ED03,  # tells these words from those that shuffle epochs, which have the same seed
    0x8CB92BA72F3D8DD7,
    0xABC98388FB8FAC03,
)

_PARTS_TOLD = 10


@dataclass(frozen=True)
class Stratum:
    """Examples that are drawn alike.

    Attributes:
        source: index of their source in the mixture.
        examples: their indices in the source, int64 [examples].
        mass: examples x weight.
    """

    source: int
    examples: npt.NDArray[np.int64]
    mass: Fraction


def draw(
    counts: Mapping[str, int],
    mixture: Mixture,
    draws: int,
    epochs: float,
    seed: int,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> npt.NDArray[np.int64]:
    """Draw the examples of all epochs, int64 [ceil(draws x epochs), 2] of (source in `mixture.sources`, example in it).

    The probability of a source is examples x weight / sum, after caps; inside a source all examples (of a part) are
    alike. Every epoch is drawn for itself, independently, with replacement, as the published mixture was.

    A source that expects one draw or more in the run and gets none is given one in place of a draw of the source with
    most draws above its expectation. This comes to pass with probability exp(-expected), so it shifts a source by
    less than 0.37 draws on average, and by less than 0.37 of its standard deviation: the proportions hold.

    Args:
        counts: examples of every source.
        mixture: the sources with weights and caps.
        draws: rows of an epoch.
        epochs: how many of them; of the last there may be a part.
        seed: of the draw.
        parts: for sources with weights by part, the part of each example; see `find_parts`.

    Raises:
        DataError: no source has an example.
    """
    strata = build_strata(counts, mixture, seed, parts=parts)
    wanted = max(
        1, math.ceil(round(draws * epochs, 6))
    )  # 0.1 epochs of 30 are 3 rows, not 3.0000000000000004
    rows = np.empty((wanted, 2), dtype=np.int64)
    for epoch in range(math.ceil(wanted / draws)):
        words = _make_words(2 * draws, seed, _DRAW ^ epoch)
        some = rows[epoch * draws : (epoch + 1) * draws]
        some[:] = _choose(strata, words[:draws], words[draws:])[: len(some)]
    _give_each_one(rows, strata, mixture, seed)
    return rows


def find_parts(mixture: Mixture, examples: Mapping[str, Sequence[Example]]) -> dict[str, list[str]]:
    """Return the part of each example for the sources that weigh parts apart: what stands before the / of its id."""
    return {
        located.name: [example.id.partition("/")[0] for example in examples[located.name]]
        for located in mixture.sources
        if located.source.part_weights
    }


def check_parts(mixture: Mixture, parts: Mapping[str, Sequence[str]]) -> None:
    """Check that every part with a weight of its own is one that its source has.

    Of a file given in the place of a source's own a part may be missing, which is said.

    Args:
        mixture: the sources.
        parts: of all examples as they were read; see `find_parts`.

    Raises:
        SettingsError: a part is none of its source.
    """
    for located in mixture.sources:
        there = sorted(set(parts.get(located.name, ())))
        for part in sorted(set(located.source.part_weights).difference(there)):
            if located.given:
                logger.warning(
                    "%s: no example of %s is of the part %s", located.name, located.path.name, part
                )
                continue
            raise SettingsError(
                f"mixture {mixture.name}: source {located.name}: `part_weights` names {part!r}, but no example is of "
                f"such a part; there are {', '.join(there[:_PARTS_TOLD])}{', ...' * (len(there) > _PARTS_TOLD)}.",
                suggest(part, there) or "A part is what stands before the / of an example's id.",
            )


def build_strata(
    counts: Mapping[str, int],
    mixture: Mixture,
    seed: int,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> list[Stratum]:
    """Return the examples that can be drawn, by source and part, in the order of the sources' names.

    Of a source with a cap, the seed chooses the examples: the same in every epoch.

    Raises:
        DataError: no source has an example.
    """
    strata = []
    for name in sorted(mixture.names):
        index = mixture.names.index(name)
        source, count = mixture.sources[index].source, counts[name]
        if not count:
            logger.warning("%s has no example left: nothing is drawn from it", name)
            continue
        kept = apply_cap(source, count, seed)
        of_example = (parts or {}).get(name) if source.part_weights else None
        named = np.array(of_example)[kept] if of_example is not None else np.full(len(kept), "")
        for part in sorted(set(named.tolist())):
            examples = kept[named == part]
            weight = source.part_weights.get(part, source.weight)
            # The decimal that was written, not the binary fraction nearest to it: 0.1 is 1/10.
            strata.append(Stratum(index, examples, len(examples) * Fraction(repr(weight))))
    if not strata:
        raise DataError(f"No source of the mixture {mixture.name} has an example.")
    return strata


def compute_shares(strata: Sequence[Stratum], sources: int) -> npt.NDArray[np.float64]:
    """Return the probability of each source, float64 [sources]."""
    total = sum((stratum.mass for stratum in strata), Fraction(0))
    shares = [Fraction(0)] * sources
    for stratum in strata:
        shares[stratum.source] += stratum.mass / total
    return np.array([float(share) for share in shares])


def apply_cap(source: MixtureSource, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return which examples of a source can be drawn, int64 [at most its cap]: the seed chooses them."""
    if source.cap is None or count <= source.cap:
        return np.arange(count)
    stream = int.from_bytes(hashlib.sha256(source.source.encode()).digest()[:8], "little")
    order = np.argsort(_make_words(count, seed, _CAP ^ stream), kind="stable")
    return np.sort(order[: source.cap])


def _make_words(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    key = np.array([seed % 2**64, stream % 2**64], dtype=np.uint64)
    words: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return words


def _choose(
    strata: Sequence[Stratum], first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Turn pairs of random words into (source, example), int64 [words, 2]."""
    total = sum((stratum.mass for stratum in strata), Fraction(0))
    ends, sum_so_far = [], Fraction(0)
    for stratum in strata[:-1]:
        sum_so_far += stratum.mass
        ends.append(int(sum_so_far * 2**64 / total))
    chosen = np.searchsorted(np.array(ends, dtype=np.uint64), first, side="right")
    sizes = np.array([len(stratum.examples) for stratum in strata], dtype=np.uint64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    # The upper 32 bits of a word times the size: less than a ten-thousandth off uniform for a million examples.
    inside = ((second >> np.uint64(32)) * sizes[chosen]) >> np.uint64(32)
    examples = np.concatenate([stratum.examples for stratum in strata])[
        starts[chosen] + inside.astype(np.int64)
    ]
    return np.stack([np.array([stratum.source for stratum in strata])[chosen], examples], axis=1)


def _give_each_one(
    rows: npt.NDArray[np.int64], strata: Sequence[Stratum], mixture: Mixture, seed: int
) -> None:
    """Put one draw of every source that expects one or more and has none into `rows`."""
    expected = compute_shares(strata, len(mixture.sources)) * len(rows)
    drawn = np.bincount(rows[:, 0], minlength=len(mixture.sources))
    without = [name for name in sorted(mixture.names) if not drawn[mixture.names.index(name)]]
    # Rounding: 49 draws at a share of 1/49 are one draw, not the 0.9999999999999999 of binary fractions.
    without = [name for name in without if round(expected[mixture.names.index(name)], 9) >= 1]
    words = _make_words(3 * len(without), seed, _AT_LEAST_ONCE).reshape(-1, 3)
    for name, (place, first, second) in zip(without, words, strict=True):
        source = mixture.names.index(name)
        # Above its expectation it has two draws or more, or expected less than one: it keeps what it is promised.
        surplus = {each: drawn[index] - expected[index] for index, each in enumerate(mixture.names)}
        donor = mixture.names.index(max(sorted(surplus), key=lambda each: surplus[each]))
        places = np.flatnonzero(rows[:, 0] == donor)
        own = [stratum for stratum in strata if stratum.source == source]
        rows[places[int(place) % len(places)]] = _choose(own, np.array([first]), np.array([second]))[0]
        drawn[donor] -= 1
        drawn[source] += 1

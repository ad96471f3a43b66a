"""What was drawn: the realised proportions beside the published ones, and what may be done with the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from biomedllama_cli.instructions.drawing import Stratum, build_strata, compute_shares
from biomedllama_cli.instructions.licences import find_strictest
from biomedllama_cli.instructions.manifest_lines import list_lines
from biomedllama_cli.instructions.mixture import Mixture
from biomedllama_cli.instructions.provenance import (
    find_substitute,
    is_from_hub,
    name_location,
    note_licence,
)
from biomedllama_cli.tasks.records import file_sha256

SCHEMA_VERSION = "biomedllama.mixture/1"
MIXTURE_FILE = "mixture.json"
_SMALLEST_CELL = 5.0
"""Draws a cell of the chi-square test must expect (Cochran, Biometrics 10, 1954); smaller sources share one."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SourceDraws(_Record):
    """One source: what it is, and what was drawn from it."""

    name: str
    """Its name in the mixture."""
    format: str
    """How its file was read."""
    location: str
    """Data set and file on the hub, or the name of the file."""
    hub: str | None
    """Data set on the hub, where the file is from there."""
    revision: str | None
    """Commit of the data set on the hub, where it is known."""
    sha256: str
    """SHA-256 of the file."""
    read: int
    """Examples in the file."""
    examples: int
    """Examples that could be drawn: after the rules of the run and the cap."""
    cap: int | None
    """At most so many examples were used."""
    weight: float
    """Passes over it relative to the other sources'."""
    draws: int
    """Rows drawn from it, over all epochs."""
    unique_examples: int
    """Examples drawn at least once."""
    passes: float
    """Draws / examples."""
    target_tokens: int | None
    """Tokens that carry loss in all its rows, repeated ones counted; null where they were not counted."""
    realised_share: float
    """Share of all rows (a fraction)."""
    expected_share: float
    """Probability it was drawn with (a fraction)."""
    published_share: float | None
    """Share of the published mixture as printed (a fraction)."""
    deviation: float
    """Draws above the expected number, in binomial standard deviations."""
    domain: str
    """Subject."""
    licence: str
    """Licence as its publisher states it."""
    licence_code: str
    """The same as one of `licences.ORDER`."""
    licence_note: str
    """What the licence leaves open."""
    redistributable: bool
    """Whether the examples may be passed on."""
    substitute: str | None
    """What stands in for what, where this is not the published source."""


class LeftOut(_Record):
    """A source that could not be had."""

    name: str
    """Its name in the mixture."""
    reason: str
    """Why, and how to get it."""
    published_samples: int | None
    """Examples in the published mixture."""
    published_share: float | None
    """Share of the published mixture that the others got (a fraction)."""


class MixtureManifest(_Record):
    """A drawn mixture."""

    schema_version: str = SCHEMA_VERSION
    """Changes when a reader of this file would have to."""
    mixture: str
    """Its name."""
    seed: int
    """Seed of the draw."""
    draws: int
    """Rows of an epoch."""
    epochs: float
    """Epochs drawn; of the last there may be a part."""
    rows: int
    """Rows of all epochs."""
    target_tokens: int | None
    """Tokens that carry loss in all rows; null where they were not counted."""
    strictest_licence: str
    """Strictest licence of the sources, and so of the whole: one of `licences.ORDER`."""
    redistributable: bool
    """Whether the examples of all sources may be passed on."""
    chi_square: float
    """Sum of (draws - expected)^2 / expected; sources that expect fewer than 5 draws count as one."""
    degrees_of_freedom: int
    """Of the chi-square."""
    p_value: float
    """Probability of a larger chi-square in a draw with these shares."""
    sources: tuple[SourceDraws, ...]
    """Sources in the order of the mixture."""
    left_out: tuple[LeftOut, ...]
    """Sources that could not be had; their share went to the others."""

    def lines(self) -> list[str]:
        """Return what was drawn for people: a table of realised against published shares, and what to know of it."""
        return list_lines(self)

    def kept_back(self) -> tuple[str, ...]:
        """Return the sources whose examples were drawn and may not be passed on."""
        return tuple(source.name for source in self.sources if source.draws and not source.redistributable)

    def write(self, folder: Path) -> Path:
        """Write `mixture.json` into a folder."""
        path = folder / MIXTURE_FILE
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")
        return path


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """A draw and what it was made from.

    Attributes:
        rows: (source, example) of every row, int64 [rows, 2].
        counts: examples that could be drawn of every source, before caps.
        draws: rows of an epoch.
        epochs: how many of them.
        seed: of the draw.
        parts: the parts given to `draw`.
    """

    rows: npt.NDArray[np.int64]
    counts: Mapping[str, int]
    draws: int
    epochs: float
    seed: int
    parts: Mapping[str, Sequence[str]] | None = None


def build_manifest(
    mixture: Mixture,
    drawn: DrawnRows,
    *,
    read: Mapping[str, int] | None = None,
    target_tokens: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> MixtureManifest:
    """Describe a draw.

    Args:
        mixture: its sources.
        drawn: the rows.
        read: examples in the file of every source, where some of them could not be drawn.
        target_tokens: tokens that carry loss, for every example of every source, int64 [examples].
    """
    strata = build_strata(drawn.counts, mixture, drawn.seed, parts=drawn.parts)
    shares = compute_shares(strata, len(mixture.sources))
    sources = tuple(
        _describe(mixture, index, drawn, strata, float(shares[index]), read=read, target_tokens=target_tokens)
        for index in range(len(mixture.sources))
    )
    chi_square, degrees, p_value = compute_fit(
        [source.draws for source in sources], [float(share) * len(drawn.rows) for share in shares]
    )
    return MixtureManifest(
        mixture=mixture.name,
        seed=drawn.seed,
        draws=drawn.draws,
        epochs=drawn.epochs,
        rows=len(drawn.rows),
        target_tokens=None if target_tokens is None else sum(each.target_tokens or 0 for each in sources),
        strictest_licence=find_strictest(source.licence for source in sources if source.draws),
        redistributable=all(source.redistributable for source in sources if source.draws),
        chi_square=chi_square,
        degrees_of_freedom=degrees,
        p_value=p_value,
        sources=sources,
        left_out=tuple(
            LeftOut(
                name=each.name,
                reason=str(each).removeprefix(f"{each.name}: "),
                published_samples=each.source.published_samples,
                published_share=each.source.published_share,
            )
            for each in mixture.missing
        ),
    )


def compute_fit(draws: Sequence[int], expected: Sequence[float]) -> tuple[float, int, float]:
    """Return chi-square, degrees of freedom and p of draws against their expectations (in draws).

    Categories that expect fewer than 5 draws are joined to one; where that expects fewer than 5 still, to the
    smallest of the others.

    >>> chi_square, degrees, p_value = compute_fit([48, 52], [50.0, 50.0])
    >>> round(chi_square, 2), degrees, round(p_value, 3)
    (0.16, 1, 0.689)
    >>> compute_fit([7], [7.0])
    (0.0, 0, 1.0)
    """
    # Slow to import, and asked for once in a run.
    from scipy.special import chdtrc

    cells = sorted((each, count) for each, count in zip(expected, draws, strict=True) if each or count)
    small = [cell for cell in cells if cell[0] < _SMALLEST_CELL]
    large = cells[len(small) :]
    while large and small and sum(cell[0] for cell in small) < _SMALLEST_CELL:
        small.append(large.pop(0))
    joined = [*large, (sum(cell[0] for cell in small), sum(cell[1] for cell in small))] if small else large
    degrees = max(len(joined) - 1, 0)
    if not degrees:
        return 0.0, 0, 1.0
    chi_square = sum((count - each) ** 2 / each for each, count in joined)
    return float(chi_square), degrees, float(chdtrc(degrees, chi_square))


def _describe(
    mixture: Mixture,
    index: int,
    drawn: DrawnRows,
    strata: Sequence[Stratum],
    share: float,
    *,
    read: Mapping[str, int] | None,
    target_tokens: Mapping[str, npt.NDArray[np.int64]] | None,
) -> SourceDraws:
    located = mixture.sources[index]
    source, name = located.source, located.name
    mine = drawn.rows[drawn.rows[:, 0] == index, 1]
    examples = sum(len(stratum.examples) for stratum in strata if stratum.source == index)
    total, draws = len(drawn.rows), len(mine)
    spread = (total * share * (1 - share)) ** 0.5
    in_file = drawn.counts[name] if read is None else read[name]
    return SourceDraws(
        name=name,
        format=source.format,
        location=name_location(located),
        hub=source.hub if is_from_hub(located) else None,
        revision=located.commit,
        sha256=file_sha256(located.path),
        read=in_file,
        examples=examples,
        cap=source.cap,
        weight=source.weight,
        draws=draws,
        unique_examples=len(np.unique(mine)),
        passes=draws / examples if examples else 0.0,
        target_tokens=None if target_tokens is None else int(target_tokens[name][mine].sum()),
        realised_share=draws / total if total else 0.0,
        expected_share=share,
        published_share=source.published_share,
        deviation=(draws - total * share) / spread if spread else 0.0,
        domain=source.domain,
        licence=source.licence,
        licence_code=source.licence_code,
        licence_note=note_licence(located, in_file),
        redistributable=source.redistributable,
        substitute=find_substitute(located, in_file),
    )

"""The mixture: which sources examples are drawn from, how often, and under which licences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from biomedllama_cli.instructions.licences import UNKNOWN, classify_licence, find_strictest
from biomedllama_cli.settings.base import Settings

# Those of `sources.catalogue.FORMATS`, which a test compares: written out so that settings and schemas can list them.
Format = Literal[
    "medqa",
    "medqa-5",
    "medmcqa",
    "pubmedqa",
    "alpaca",
    "visual-med-alpaca",
    "medpalm",
    "medpalm2",
    "mmlu-cot",
    "codex-cot",
    "messages",
    "questions",
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class MixtureSource(Settings):
    """One source of a mixture, as a mixture file describes it."""

    source: Name
    """Its name: in tables, in manifests, in `--source NAME=FILE`."""
    format: Format
    """How its file is read."""
    title: str = ""
    """What the published table calls it."""
    path: Path | None = None
    """Its file; a relative path is relative to the mixture file."""
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+(?:/[\w.-]+)?$")
    """Data set on the Hugging Face hub that holds its file."""
    file: str | None = None
    """Path of the file in the data set on the hub."""
    revision: str | None = None
    """Branch, tag or commit of the data set on the hub [default: its main branch]."""
    weight: PositiveFloat = 1.0
    """Its share is in proportion to examples x weight: the passes over it relative to the other sources'."""
    part_weights: dict[str, PositiveFloat] = Field(default={})
    """Weights of parts of it that have one of their own, by the name of the part."""
    cap: PositiveInt | None = None
    """At most so many of its examples are used, chosen with the seed (in examples)."""
    licence: str = UNKNOWN
    """Licence as its publisher states it; what is not known counts as the strictest."""
    licence_note: str = ""
    """What the licence leaves open."""
    redistributable: bool = False
    """Whether the examples may be passed on."""
    domain: str = ""
    """Subject of the examples."""
    substitute: str | None = None
    """What stands in for what, where this is not the published source itself."""
    published_samples: PositiveInt | None = None
    """Examples in the published mixture."""
    published_share: float | None = Field(default=None, gt=0, le=1)
    """Share of the published mixture (a fraction)."""
    how_to_get: str = ""
    """Where the file is to be had."""

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.path is not None and self.hub is not None:
            raise ValueError("`path` and `hub` exclude each other")
        if self.hub is not None and self.file is None:
            raise ValueError("`hub` needs `file`, the path of the file in that data set")
        if self.hub is None and (self.file or self.revision):
            raise ValueError("`file` and `revision` belong to a data set on the hub, and `hub` is not given")
        return self

    @property
    def licence_code(self) -> str:
        """Licence as one of `licences.ORDER`."""
        return classify_licence(self.licence)


@dataclass(frozen=True, slots=True)
class LocatedSource:
    """A source whose file is at hand.

    Attributes:
        source: its description.
        path: its file.
        given: whether the file was named on the command line.
        commit: of the data set on the hub, where the file is from there.
    """

    source: MixtureSource
    path: Path
    given: bool = False
    commit: str | None = None

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.source


@dataclass(frozen=True, slots=True)
class MissingSource:
    """A source that cannot be had here: why, and how to get it."""

    source: MixtureSource
    reason: str

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.source

    def __str__(self) -> str:
        """Return name, reason and how to get it on one line."""
        how = f"; how to get it: {self.source.how_to_get}" if self.source.how_to_get else ""
        return f"{self.name}: {self.reason}{how}"


@dataclass(frozen=True)
class Mixture:
    """The sources examples are drawn from.

    Attributes:
        name: `paper`, `permissive`, or the name a mixture file gives itself.
        sources: in the order they are declared in; the draw does not depend on it.
        missing: sources left out because they cannot be had here.
    """

    name: str
    sources: tuple[LocatedSource, ...]
    missing: tuple[MissingSource, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(source.name for source in self.sources)

    @property
    def strictest_licence(self) -> str:
        """Strictest licence of the sources, one of `licences.ORDER`."""
        return find_strictest(each.source.licence for each in self.sources)


@dataclass(frozen=True)
class MixturePlan:
    """A mixture as it is written down: its sources, wherever they are."""

    name: str
    sources: tuple[MixtureSource, ...]

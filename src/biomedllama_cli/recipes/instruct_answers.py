"""What `instruct` answers without a model: the mixtures of the package."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.instructions.licences import find_strictest
from biomedllama_cli.instructions.mixture import MixturePlan, MixtureSource
from biomedllama_cli.instructions.mixture_file import BUILT_IN, read_plan
from biomedllama_cli.settings.instruct import InstructSettings


class ListedMixture(BaseModel):
    """One mixture of the package."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What `--mixture` takes."""
    strictest_licence: str
    """Strictest licence of its sources."""
    sources: tuple[MixtureSource, ...]
    """Where each is, its weight and its licence."""

    @classmethod
    def describe(cls, plan: MixturePlan) -> Self:
        """Return what is told of a mixture."""
        return cls(
            name=plan.name,
            strictest_licence=find_strictest(source.licence for source in plan.sources),
            sources=plan.sources,
        )

    def lines(self) -> list[str]:
        """Return one line for the mixture and one per source."""
        width = max(len(source.source) for source in self.sources)
        lines = [f"{self.name}: {len(self.sources)} sources, strictest licence {self.strictest_licence}"]
        for source in self.sources:
            size = "" if source.published_samples is None else f", {source.published_samples:,} published"
            lines.append(f"  {source.source:<{width}}  weight {source.weight:g}{size}, {source.licence}")
            if source.substitute:
                lines.append(f"  {'':<{width}}  substitute: {source.substitute}")
        return lines


class MixtureList(BaseModel):
    """Every mixture of the package."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: str = "biomedllama.mixtures/1"
    """Changes when a reader of this list would have to."""
    mixtures: tuple[ListedMixture, ...]
    """In the order in which they are documented."""

    def lines(self) -> list[str]:
        """Return the mixtures for people."""
        lines = ["Mixtures (--mixture; a YAML file of your own is one too, --source NAME=FILE gives a file):"]
        for mixture in self.mixtures:
            lines += ["", *mixture.lines()]
        return lines


def answer_without_model(settings: InstructSettings) -> MixtureList | None:
    """Return the answer to what needs no model, or None where one is to be tuned."""
    if settings.mixture.mixture != "list":
        return None
    return MixtureList(mixtures=tuple(ListedMixture.describe(read_plan(name)) for name in BUILT_IN))

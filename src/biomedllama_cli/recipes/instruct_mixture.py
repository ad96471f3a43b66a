"""From a mixture's sources to drawn rows: read, searched for test questions, encoded, drawn, described."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.instructions.decontamination import decontaminate
from biomedllama_cli.instructions.drawing import apply_cap, check_parts, draw, find_parts
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.held_out import split_examples
from biomedllama_cli.instructions.manifest import DrawnRows, MixtureManifest, build_manifest
from biomedllama_cli.instructions.mixture import Mixture
from biomedllama_cli.instructions.mixture_file import load_mixture
from biomedllama_cli.instructions.sources.catalogue import load_source
from biomedllama_cli.recipes.instruct_report import DrawnFacts
from biomedllama_cli.recipes.tuning_inputs import describe_decontamination, encode_lessons, find_benchmarks
from biomedllama_cli.recipes.tuning_plan import Lessons, Pupil
from biomedllama_cli.settings.instruct import InstructSettings

logger = logging.getLogger(__name__)

_FEWEST_TO_HOLD_OUT_FROM = 100
"""Examples a source must have to give any for validation: the small ones are exemplars, all of them needed."""


@dataclass(frozen=True)
class DrawnLessons:
    """What is learnt, and in which order.

    Attributes:
        lessons: every example that could be drawn, encoded.
        order: rows of the lessons in the order they are trained on, int64 [draws x epochs].
        manifest: of the draw.
        without_example: records that gave no example, by source and reason.
    """

    lessons: Lessons
    order: npt.NDArray[np.int64]
    manifest: MixtureManifest
    without_example: dict[str, dict[str, int]]


def draw_lessons(settings: InstructSettings, pupil: Pupil, reports: Path) -> DrawnLessons:
    """Read the sources, take out what is tested, hold some out, encode the rest, and draw from it.

    Raises:
        SettingsError: the mixture is none, or names a source or a part that is not there.
        DataError: a source is broken, or nothing is left of all.
        UnavailableError: sources cannot be had; all are named with how to get them.
    """
    section = settings.mixture
    mixture = load_mixture(section.mixture, parse_sources(section.source), section.skip_missing)
    loaded = {
        each.name: load_source(each.source.format, each.path, each.name, section.data_version)
        for each in mixture.sources
    }
    check_parts(mixture, find_parts(mixture, {name: source.examples for name, source in loaded.items()}))
    every = [example for source in loaded.values() for example in source.examples]
    rules = settings.decontamination
    found = decontaminate(
        every,
        find_benchmarks(rules),
        mode=rules.decontaminate,
        folder=reports,
        pmid_sources={each.name for each in mixture.sources if each.source.format == "pubmedqa"},
    )
    train, held_out = hold_out(found.examples, mixture, section.validation_fraction)
    if section.validation_fraction and not held_out:
        logger.warning(
            "validation_fraction = %g holds out no example, as no source has %d of them, not all about the same: the "
            "last checkpoint is taken, not the best",
            section.validation_fraction,
            _FEWEST_TO_HOLD_OUT_FROM,
        )
    lessons = encode_lessons(train, held_out, pupil, settings, reports)
    facts = lessons.facts.model_copy(update=describe_decontamination(found.report))
    lessons = replace(lessons, facts=facts)
    rows, manifest = draw_rows(
        settings, mixture, lessons, train, {n: len(s.examples) for n, s in loaded.items()}
    )
    manifest.write(reports)
    lessons = replace(
        lessons, facts=count_rows(lessons, list_pool(mixture, lessons.train, settings.seed), rows)
    )
    left_out = {name: dict(source.left_out) for name, source in loaded.items() if source.left_out}
    return DrawnLessons(lessons, rows, manifest, left_out)


def list_pool(mixture: Mixture, encoded: EncodedSet, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows of examples that can be drawn, int64 [examples]: of a source with a cap the seed chooses them."""
    counts, pool, first = Counter(encoded.sources), [], 0
    for located in mixture.sources:
        pool.append(first + apply_cap(located.source, counts[located.name], seed))
        first += counts[located.name]
    return np.concatenate(pool)


def count_rows(lessons: Lessons, pool: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> DrawnFacts:
    """Return the facts of some lessons with the examples that can be drawn and the rows that are."""
    lengths, targets = lessons.train.lengths, lessons.train.target_tokens
    counts = {
        "examples": len(pool),
        "tokens": int(lengths[pool].sum()),
        "target_tokens": int(targets[pool].sum()),
        "rows": len(order),
        "row_tokens": int(lengths[order].sum()),
        "row_target_tokens": int(targets[order].sum()),
    }
    return DrawnFacts.model_validate(lessons.facts.model_dump() | counts)


def parse_sources(entries: Sequence[str]) -> dict[str, Path]:
    """Return the files of sources by name.

    Raises:
        SettingsError: an entry is not NAME=FILE, or a name comes twice.
    """
    files: dict[str, Path] = {}
    for entry in entries:
        name, equals, file = entry.partition("=")
        if not name or not equals or not file:
            raise SettingsError(
                f"mixture.source is {entry!r}; it must be NAME=FILE.",
                "NAME is a source of the mixture, as in --source alpaca=alpaca_data.json.",
            )
        if name in files:
            raise SettingsError(f"mixture.source names {name} twice; each source is one file.")
        files[name] = Path(file)
    return files


def hold_out(
    examples: Sequence[Example], mixture: Mixture, fraction: float
) -> tuple[list[Example], list[Example]]:
    """Return the examples to train on and those held out, source by source."""
    train: list[Example] = []
    held_out: list[Example] = []
    for name in mixture.names:
        own = [example for example in examples if example.source == name]
        learnt, looked_at = split_examples(own, fraction if len(own) >= _FEWEST_TO_HOLD_OUT_FROM else 0.0)
        train += learnt
        held_out += looked_at
    return train, held_out


def draw_rows(
    settings: InstructSettings,
    mixture: Mixture,
    lessons: Lessons,
    train: Sequence[Example],
    read: dict[str, int],
) -> tuple[npt.NDArray[np.int64], MixtureManifest]:
    """Draw rows of the lessons, which stand source by source in the mixture's order; describe the draw."""
    encoded, names = lessons.train, mixture.names
    by_key = {(example.source, example.id): example for example in train}
    kept: dict[str, list[Example]] = {name: [] for name in names}
    for source, id in zip(encoded.sources, encoded.ids, strict=True):
        kept[source].append(by_key[source, id])
    counts = {name: len(kept[name]) for name in names}
    parts = find_parts(mixture, kept)
    draws, epochs = settings.mixture.draws, settings.duration.epochs
    rows = draw(counts, mixture, draws, epochs, settings.seed, parts=parts)
    firsts = np.concatenate([[0], np.cumsum([counts[name] for name in names])]).astype(np.int64)
    targets = {
        name: encoded.target_tokens[firsts[index] : firsts[index + 1]] for index, name in enumerate(names)
    }
    drawn = DrawnRows(rows=rows, counts=counts, draws=draws, epochs=epochs, seed=settings.seed, parts=parts)
    order: npt.NDArray[np.int64] = firsts[rows[:, 0]] + rows[:, 1]
    return order, build_manifest(mixture, drawn, read=read, target_tokens=targets)

"""From settings to the sources of a job, their gates, and the rules for the whole input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from biomedllama_cli.corpus.decisions import GlobalRules
from biomedllama_cli.corpus.filters.language import LanguageFilter
from biomedllama_cli.corpus.filters.quality import QualityFilter
from biomedllama_cli.corpus.selection import SUBSETS, Gate
from biomedllama_cli.corpus.source import REPLAY, Part, Reader, Source
from biomedllama_cli.corpus.sources.hub import HubReader, open_hub_dataset
from biomedllama_cli.corpus.sources.pile import PileReader
from biomedllama_cli.corpus.sources.sample import SampleReader
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.recipes.prepare_fetch import check_inventory
from biomedllama_cli.settings.prepare import PrepareSettings, Switch
from biomedllama_cli.settings.weights import parse_weights

# What was made to be trained on as it is: no gate looks at it unless asked to.
_AS_IT_IS = frozenset({"pile", "sample", REPLAY})


def build_source(settings: PrepareSettings, bundles: tuple[Path, ...] = ()) -> Source:
    """Find what the settings name: files, the bundled sample, or a dataset of the hub.

    Args:
        settings: all settings.
        bundles: archives fetched from PubMed Central's bucket.

    Raises:
        SettingsError: sources, inputs and weights do not fit together.
        DataError: there is no such input.
        UnavailableError: the hub cannot be reached.
    """
    named = _pair_inputs(settings, bundles)
    names = {name for name, _ in named}
    weights = parse_weights("source.weight", settings.source.weight, names)
    parts = [
        _build_part(name, _choose_reader(settings, name, inputs), inputs, weights.get(name, 1.0))
        for name, inputs in named
    ]
    if settings.replay.replay is not None:
        replayed = settings.replay.replay
        reader: Reader = PileReader(settings.source.text_field)
        if not is_local(replayed):
            reader = HubReader(open_hub_dataset(replayed, "train"), settings.source.text_field)
        part = _build_replay(reader, replayed)
        limit = limit_replay(parts, settings.replay.replay_fraction, len(part.files))
        parts.append(dataclasses.replace(part, max_characters=limit))
    return Source(tuple(parts), settings.source.max_documents)


def limit_replay(parts: Sequence[Part], fraction: float, files: int) -> int | None:
    """Return how much of each replayed file is read at most (in characters), or None where nothing tells.

    A web-sized source must not be tokenised whole for one per cent of it. A byte of input, compressed, is taken to
    be 8 characters of text at most; the limit is a power of two, so that mending one input seldom changes it.

    >>> from biomedllama_cli.corpus.sources.files import InputFile
    >>> part = Part("pile", PileReader(), (InputFile(Path("a"), "a", 10**9, 0),))
    >>> limit_replay([part], 0.01, 2)
    67108864
    """
    known = [file for part in parts for file in part.files]
    if not all(file.on_disk for file in known):
        return None
    size = sum(file.size * max(part.weight, 1.0) for part in parts for file in part.files)
    wanted = 8 * size * fraction / (1 - fraction) / max(files, 1)
    return int(2 ** math.ceil(math.log2(max(wanted, 1 << 20))))


def check_inputs(settings: PrepareSettings) -> None:
    """Check that sources, inputs and weights fit together, as far as that can be told without looking at files.

    Raises:
        SettingsError: they do not.
    """
    check_inventory(settings)
    named = _pair_inputs(settings, ())
    parse_weights("source.weight", settings.source.weight, {name for name, _ in named})
    for name, inputs in named:
        if name == "pubmed" or (name == "pmc" and settings.bucket.inventory is None):
            _check_something_named(name, inputs)
    _check_abstracts_can_stay(settings, {name for name, _ in named})


def _check_abstracts_can_stay(settings: PrepareSettings, names: set[str]) -> None:
    """Check that a licence can be known for some abstract: only articles in the same job bring one."""
    selection = settings.selection
    gated = selection.licences != "all" and not selection.accept_abstract_copyright
    if "pubmed" in names and "pmc" not in names and gated:
        raise SettingsError(
            "source.source = pubmed without pmc: no licence is known of any abstract, so none could be kept.",
            "Read docs/licences.md, then decide on --accept-abstract-copyright, or add --source pmc.",
        )


def _pair_inputs(settings: PrepareSettings, bundles: tuple[Path, ...]) -> list[tuple[str, tuple[str, ...]]]:
    source = settings.source
    if source.sample:
        return [("sample", ())]
    if settings.bucket.inventory is not None:
        others = tuple(name for name in source.source if name != "pmc")
        return [*_pair(others, source.input), ("pmc", tuple(map(str, bundles)))]
    return _pair(source.source or ("pile",), source.input)


def _pair(names: tuple[str, ...], inputs: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    if len(names) == 1:
        return [(names[0], inputs)]
    if len(names) != len(inputs):
        raise SettingsError(
            f"source.source names {len(names)} sources to be read from disk and source.input {len(inputs)} inputs.",
            "With several sources give one --input for each, in the same order.",
        )
    # What is named twice is one source: update files come after the baseline they belong to, whoever is named first.
    paths: dict[str, tuple[str, ...]] = {}
    for name, path in zip(names, inputs, strict=True):
        paths[name] = (*paths.get(name, ()), path)
    return list(paths.items())


def _choose_reader(settings: PrepareSettings, name: str, inputs: tuple[str, ...]) -> Reader:
    if name == "sample":
        return SampleReader()
    if name in ("pubmed", "pmc"):
        _check_something_named(name, inputs)
    if name == "pubmed":
        from biomedllama_cli.corpus.sources.pubmed import PubmedReader

        return PubmedReader()
    if name == "pmc":
        from biomedllama_cli.corpus.bucket import BucketReader
        from biomedllama_cli.corpus.sources.pmc import PmcReader

        articles = PmcReader(settings.articles)
        fetched = settings.bucket.inventory is not None
        return BucketReader(articles) if fetched else articles
    if inputs:
        return PileReader(settings.source.text_field)
    return HubReader(
        open_hub_dataset(settings.source.hub_dataset, settings.source.hub_split), settings.source.text_field
    )


def _check_something_named(name: str, inputs: tuple[str, ...]) -> None:
    if inputs:
        return
    hints = {
        "pubmed": "Give the folder of the baseline and update files with --input DIR.",
        "pmc": "Give a folder of articles or archives with --input DIR, or fetch them with --inventory latest.",
    }
    raise SettingsError(f"source.source = {name}: there is no input to read.", hints[name])


def _build_part(name: str, reader: Reader, inputs: tuple[str, ...], weight: float) -> Part:
    return Part(name, reader, tuple(reader.list_inputs(inputs)), weight)


def _build_replay(reader: Reader, name: str) -> Part:
    try:
        return _build_part(REPLAY, reader, (name,), 1.0)
    except DataError as error:
        raise DataError(
            f"replay.replay: {error.message}",
            "Give --replay files, a folder, a glob or a hub dataset of text.",
        ) from None


def is_local(name: str) -> bool:
    """Tell whether a name means files, not a dataset of the hub."""
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or "*" in name or path.suffix != ""
    return path.exists() or looks_local


def build_gates(settings: PrepareSettings, source: Source) -> tuple[Gate, ...]:
    """Return what each source keeps, in order."""
    return tuple(_build_gate(settings, part.name) for part in source.parts)


def _build_gate(settings: PrepareSettings, name: str) -> Gate:
    selection = settings.selection
    subset = settings.source.subset
    describes_itself = name in ("pubmed", "pmc")
    kind: Literal["abstract", "article"] = "abstract" if name == "pubmed" else "article"
    return Gate(
        subset=SUBSETS[subset] if subset and name in ("pile", "sample") else None,
        licences=selection.licences if name == "pmc" else None,
        no_derivatives=selection.no_derivatives,
        drop_retracted=describes_itself and selection.retracted == "drop",
        drop_historical_ocr=describes_itself and selection.historical_ocr == "drop",
        language=LanguageFilter(selection.language) if is_on(selection.language_filter, name) else None,
        quality=QualityFilter(kind, selection.language) if is_on(selection.quality_filter, name) else None,
    )


def is_on(switch: Switch, name: str) -> bool:
    """Tell whether a filter looks at a source.

    >>> is_on("auto", "pile"), is_on("auto", "pmc"), is_on("on", "pile")
    (False, True, True)
    """
    return name != REPLAY and (switch == "on" or (switch == "auto" and name not in _AS_IT_IS))


def build_rules(settings: PrepareSettings, source: Source) -> GlobalRules:
    """Return what the whole input is held to."""
    selection = settings.selection
    return GlobalRules(
        gates_abstracts=selection.licences != "all",
        accepts_abstract_copyright=selection.accept_abstract_copyright,
        drops_retracted=selection.retracted == "drop",
        drops_contaminated_twins=decontamination_mode(settings) == "drop",
        removes_near_duplicates=signs(settings, source),
        validation_fraction=settings.output.validation_fraction,
        replay_fraction=settings.replay.replay_fraction,
        seed=settings.seed,
    )


def signs(settings: PrepareSettings, source: Source) -> bool:
    """Tell whether near-duplicates are looked for: over all sources, as soon as one asks for it."""
    return any(is_on(settings.selection.near_duplicates, part.name) for part in source.parts)


def decontamination_mode(settings: PrepareSettings) -> Literal["report", "drop", "off"]:
    """Return report, drop or off."""
    section = settings.decontamination
    return section.decontaminate or ("drop" if section.benchmark else "off")


def find_replay(source: Source) -> int | None:
    """Return the number of the source that is replayed text."""
    return next((number for number, part in enumerate(source.parts) if part.name == REPLAY), None)

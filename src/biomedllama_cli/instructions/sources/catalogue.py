"""The formats that sources of instruction data come in, and how a source is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.sources.alpaca import iter_alpaca, iter_visual_med_alpaca
from biomedllama_cli.instructions.sources.benchmarks import benchmark_reader
from biomedllama_cli.instructions.sources.chains import iter_subject_chains, iter_text_chains
from biomedllama_cli.instructions.sources.exemplars import iter_exemplars
from biomedllama_cli.instructions.sources.findings import Findings
from biomedllama_cli.instructions.sources.messages import iter_messages
from biomedllama_cli.instructions.sources.questions import iter_examples
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.catalogue import Source
from biomedllama_cli.tasks.hub import HubRecords, HubSplit
from biomedllama_cli.tasks.records import Record, file_sha256, iter_records

Reader = Callable[[Iterable[Record], str, Findings], Iterator[Example]]
"""Turns records into examples of a source, told by its name."""


@dataclass(frozen=True)
class SourceFormat:
    """One schema.

    Attributes:
        name: as in a mixture's `format`.
        schema: what its records hold, in one line.
        read: its reader.
    """

    name: str
    schema: str
    read: Reader


_LETTERED = "`question`, `options` by letter, `answer_idx`, `answer`; or BigBio's `choices` and `answer`"
_EXEMPLAR = (
    "`dataset` (medqa, medmcqa, pubmedqa, liveqa, medicationqa), `question`, `answer`; `options`, `context`, and "
    "`explanation` with a chain of thought"
)

FORMATS: dict[str, SourceFormat] = {
    format.name: format
    for format in (
        SourceFormat("medqa", f"four options: {_LETTERED}", benchmark_reader("medqa")),
        SourceFormat("medqa-5", f"five options: {_LETTERED}", benchmark_reader("medqa-5")),
        SourceFormat(
            "medmcqa", "`id`, `question`, `opa` to `opd`, `cop`", benchmark_reader("medmcqa", whole=True)
        ),
        SourceFormat(
            "pubmedqa",
            "by PMID `QUESTION`, `CONTEXTS`, `final_decision`; or the hub's `pubid`, `question`, `context`",
            benchmark_reader("pubmedqa"),
        ),
        SourceFormat("alpaca", "`instruction`, `input` (may be empty), `output`", iter_alpaca),
        SourceFormat(
            "visual-med-alpaca",
            "as alpaca (`med_alpaca_data_clean.json`); records about an image are left out",
            iter_visual_med_alpaca,
        ),
        SourceFormat("medpalm", _EXEMPLAR, iter_exemplars),
        SourceFormat("medpalm2", _EXEMPLAR, iter_exemplars),
        SourceFormat(
            "mmlu-cot", "an object of subjects, each a text of `Q: ... A: ...`", iter_subject_chains
        ),
        SourceFormat("codex-cot", "a text (.txt) of `Q: ... A: ...`", iter_text_chains),
        SourceFormat("messages", "`messages`: a list of `role` and `content`", iter_messages),
        SourceFormat(
            "questions",
            "`question`, `options` (a list, or by letter), `answer_index`, `answer_idx` or `answer`, maybe `context`",
            iter_examples,
        ),
    )
}
"""Every format by name."""


@dataclass(frozen=True)
class LoadedSource:
    """The examples of a source and what is to be known about them.

    Attributes:
        examples: in the order of their file; their ids differ.
        origin: file with its SHA-256, or hub split with its commit where that can be told; `rows` counts examples.
        left_out: records that gave no example, by snake_case reason.
        noted: records that gave one and are not quite what they should be, by snake_case reason.
    """

    examples: list[Example]
    origin: Source
    left_out: Mapping[str, int]
    noted: Mapping[str, int]


def find_format(name: str) -> SourceFormat:
    """Return a format by its name.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in FORMATS:
        hint = suggest(name, FORMATS) or f"Formats: {', '.join(FORMATS)}."
        raise SettingsError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}", hint)
    return FORMATS[name]


def read_source(format_name: str, location: Path | HubSplit, name: str) -> list[Example]:
    """Return the examples of a source; see `load_source`."""
    return load_source(format_name, location, name).examples


def load_source(format_name: str, location: Path | HubSplit, name: str) -> LoadedSource:
    """Read a source whole. What was left out or noted is logged once by reason, and counted.

    Args:
        format_name: as in `FORMATS`.
        location: a file (.jsonl, .json, .parquet, .txt; the first two may be compressed by gzip or zstd), or a split
            on the hub.
        name: what the source is called, in its examples and in messages.

    Raises:
        SettingsError: there is no such format.
        DataError: the file is missing or broken, records of it are wrong, or none gives an example.
        UnavailableError: the hub is needed and cannot be reached.
    """
    reader, findings = find_format(format_name).read, Findings()
    records = _open(location, name)
    examples = list(_with_own_ids(_telling_where(reader(records, name, findings), name), findings))
    findings.warn(name)
    if not examples:
        raise DataError(f"{name}: {location} holds no example", f"Its format must be {format_name}.")
    return LoadedSource(
        examples, _describe(location, records, len(examples)), dict(findings.left_out), dict(findings.noted)
    )


def _open(location: Path | HubSplit, name: str) -> HubRecords | Iterator[Record]:
    if isinstance(location, HubSplit):
        return HubRecords(location, name)
    if not location.exists():
        raise DataError(
            f"{name}: {location}: there is no such file",
            f"Give --source {name}=FILE the path of an existing file.",
        )
    return iter_records(location)


def _telling_where(examples: Iterator[Example], name: str) -> Iterator[Example]:
    """Yield examples; where the hub cannot be reached, say how to give a file instead."""
    try:
        yield from examples
    except UnavailableError as error:
        raise UnavailableError(
            f"{name}: {error.message}", f"Give a local file of the same format: --source {name}=FILE."
        ) from error


def _with_own_ids(examples: Iterator[Example], findings: Findings) -> Iterator[Example]:
    """Yield examples; an id that came before gets a number behind it, so that reports can name each."""
    seen: set[str] = set()
    for example in examples:
        own, count = example.id, 1
        while own in seen:
            count += 1
            own = f"{example.id}#{count}"
        seen.add(own)
        if count > 1:
            findings.note(Record(f"id {example.id}", "", {}), "repeated_id", f"the second is called {own}")
            example = replace(example, id=own)
        yield example


def _describe(location: Path | HubSplit, records: HubRecords | Iterator[Record], rows: int) -> Source:
    if isinstance(records, HubRecords):
        return Source("hub", str(location), rows, None, records.revision)
    assert isinstance(location, Path)
    return Source("file", str(location), rows, file_sha256(location))

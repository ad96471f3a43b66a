"""The formats that sources of instruction data come in, and how a source is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.sources.alpaca import iter_alpaca, iter_visual_med_alpaca
from biomedllama_cli.instructions.sources.benchmarks import benchmark_reader, iter_own_examples
from biomedllama_cli.instructions.sources.chains import iter_subject_chains, iter_text_chains
from biomedllama_cli.instructions.sources.exemplars import iter_exemplars
from biomedllama_cli.instructions.sources.findings import Findings
from biomedllama_cli.instructions.sources.messages import iter_messages
from biomedllama_cli.instructions.training_questions import DataVersion
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.catalogue import Source, describe_source, open_records
from biomedllama_cli.tasks.hub import HubSplit
from biomedllama_cli.tasks.records import Record

Reader = Callable[[Iterable[Record], str, Findings], Iterator[Example]]
"""Turns records into examples of a source, told by its name."""


@dataclass(frozen=True)
class SourceFormat:
    """One schema.

    Attributes:
        name: as in a mixture's `format`.
        schema: what its records hold, in one line.
        read: its reader.
        read_cleaned: the reader that leaves out questions with defects; None where there are no questions to audit.
    """

    name: str
    schema: str
    read: Reader
    read_cleaned: Reader | None = None


def _benchmark(task_name: str, schema: str) -> SourceFormat:
    return SourceFormat(
        task_name, schema, benchmark_reader(task_name), benchmark_reader(task_name, cleaned=True)
    )


_LETTERED = "`question`, `options` by letter, `answer_idx`, `answer`; or BigBio's `choices` and `answer`"
_EXEMPLAR = (
    "`dataset` (medqa, medmcqa, pubmedqa, liveqa, medicationqa), `question`, `answer`; `options`, `context`, and "
    "`explanation` with a chain of thought"
)

FORMATS: dict[str, SourceFormat] = {
    format.name: format
    for format in (
        _benchmark("medqa", f"four options: {_LETTERED}"),
        _benchmark("medqa-5", f"five options: {_LETTERED}"),
        _benchmark("medmcqa", "`id`, `question`, `opa` to `opd`, `cop`"),
        _benchmark(
            "pubmedqa",
            "by PMID `QUESTION`, `CONTEXTS`, `final_decision`; or the hub's `pubid`, `question`, `context`",
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
        SourceFormat(
            "messages",
            "`messages`: a list of `role` and `content`; or ShareGPT's `conversations` of `from` and `value`",
            iter_messages,
        ),
        SourceFormat(
            "questions",
            "`question`, `options` (a list, or by letter), `answer_index`, `answer_idx` or `answer`, maybe `context`",
            iter_own_examples,
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
    """Return the examples of a source as it was published; see `load_source`."""
    return load_source(format_name, location, name).examples


def load_source(
    format_name: str, location: Path | HubSplit, name: str, data_version: DataVersion = "published"
) -> LoadedSource:
    """Read a source whole. What was left out or noted is logged once by reason, and counted.

    Args:
        format_name: as in `FORMATS`.
        location: a file (.jsonl, .json, .parquet, .txt; the first two may be compressed by gzip or zstd), or a split
            on the hub.
        name: what the source is called, in its examples and in messages.
        data_version: `published` takes all questions of a benchmark that have an answer, `cleaned` only those without
            a defect; other formats are read alike.

    Raises:
        SettingsError: there is no such format.
        DataError: the file is missing or broken, records of it are wrong, or none gives an example.
        UnavailableError: the hub is needed and cannot be reached.
    """
    format, findings = find_format(format_name), Findings()
    if isinstance(location, Path) and not location.exists():
        raise DataError(
            f"{name}: {location}: there is no such file",
            f"Give --source {name}=FILE the path of an existing file.",
        )
    records = open_records(location, name)
    read = format.read_cleaned if data_version == "cleaned" and format.read_cleaned else format.read
    examples = list(_with_own_ids(_telling_where(read(records, name, findings), name), findings))
    findings.warn(name)
    origin = describe_source(location, records, len(examples), "example")
    return LoadedSource(examples, origin, dict(findings.left_out), dict(findings.noted))


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
    numbers: dict[str, int] = {}  # the last behind each id: counted on, or many equal ids take quadratic time
    for example in examples:
        own = example.id
        while own in seen:
            numbers[example.id] = numbers.get(example.id, 1) + 1
            own = f"{example.id}#{numbers[example.id]}"
        seen.add(own)
        if own != example.id:
            findings.note_at(f"id {example.id}", "repeated_id", f"the second is called {own}")
            example = replace(example, id=own)
        yield example

"""Find training examples that hold benchmark items, drop them, and say what was found."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex
from biomedllama_cli.corpus.decontamination.matching import NEAR_SHARE, Overlap
from biomedllama_cli.corpus.decontamination.report import (
    BenchmarkCounts,
    describe_overlaps,
    write_findings,
)
from biomedllama_cli.corpus.decontamination.same_items import (
    build_same_items,
    find_same_items,
    holds_options,
)
from biomedllama_cli.corpus.decontamination.screening import find_all_overlaps
from biomedllama_cli.corpus.decontamination.shares import measure_share
from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.benchmarks import LookedFor
from biomedllama_cli.instructions.example import Example

Mode = Literal["drop", "report", "off"]
SUMMARY_FILE, WORDING_REPORT = "decontamination.json", "shared_wording.jsonl"
MIN_SHARE = 0.5
"""Share of an item's question or passage that a run of words must be. Vignettes have stock sentences in common ("pulse
is 83/min, respirations are 13/min, ..."): runs of 13 words and more, up to a quarter of questions that are no copies
of each other. For these `prepare` drops a document; of 320 questions of MedQA it would drop 5 for 320 others."""
PMID_SOURCES = ("pubmedqa", "pubmedqa-no-context")
"""Sources whose ids are PMIDs, as the tasks are called."""
_STEP = 4096  # examples searched together


class TuningDecontamination(BaseModel):
    """Which benchmark items the training examples held: examples = kept + dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mode: Mode
    """Whether examples that hold items were left out, only reported, or not looked for."""
    index_sha256: str | None
    """Identity of everything that was looked for; None when off."""
    examples: int
    """Examples searched."""
    contaminated: int
    """Examples that hold an item."""
    dropped: int
    """Examples left out: all of those, or none."""
    by_source: dict[str, int]
    """Contaminated examples by their source."""
    shared_wording: int
    """Examples that hold runs of 13 words of an item, but less than `min_share` of it, or ask a short question in
    nearly the same words with other options; kept."""
    min_share: float
    """Share of an item's question or passage that a run of words must be."""
    benchmarks: dict[str, BenchmarkCounts]
    """Counts of each benchmark; a document is an example."""
    missing: tuple[str, ...]
    """Published benchmarks that were not to be had and not looked for."""
    incomplete: tuple[str, ...]
    """Published benchmarks that were given in part."""


@dataclass(frozen=True)
class Decontaminated:
    """What is left, and what was found.

    Attributes:
        examples: what is trained on, in the order given.
        places: the place of each among the examples given.
        report: the counts.
    """

    examples: tuple[Example, ...]
    places: tuple[int, ...]
    report: TuningDecontamination


def decontaminate(
    examples: Sequence[Example],
    looked_for: LookedFor,
    *,
    mode: Mode,
    folder: Path | None = None,
    pmid_sources: Collection[str] = PMID_SOURCES,
    min_share: float = MIN_SHARE,
) -> Decontaminated:
    """Search all turns of some examples for benchmark items, by the rules of `prepare` and one more.

    An item counts as found by a run of 13 words of its question or passages, as a near-duplicate, as a short question
    beside its answer, or by its PMID. An item too short or too common for that counts where its question, its right
    answer and three quarters of its options stand together, in whatever order: examples are questions, not papers. A
    run of 13 words counts where such runs are `min_share` of the question or passage, or three quarters of its words
    stand there in order; a short question with words changed where its options stand there too. Other examples share
    wording, no item.

    Args:
        examples: what would be trained on, each once: a drawn mixture is searched before it is drawn.
        looked_for: the items.
        mode: `drop` leaves out the examples that hold one, `report` keeps them, `off` does not look.
        folder: receives `contamination.jsonl`, `untestable.jsonl` and `benchmark_items.jsonl` as `prepare` writes them
            (a document is an example, its `where` source and id), likewise `shared_wording.jsonl`, and
            `decontamination.json`; None writes nothing.
        pmid_sources: names of the sources whose ids are PMIDs.
        min_share: share of an item's question or passage that a run of words must be; 0 is the rule of `prepare`.

    Raises:
        DataError: every example holds an item, so that none would be left.
    """
    findings = (
        _Findings() if mode == "off" else _search(examples, looked_for, frozenset(pmid_sources), min_share)
    )
    report = _report(examples, looked_for, findings, (mode, min_share), folder)
    if report.dropped and report.dropped == len(examples):
        raise DataError(
            f"each of the {len(examples):,} training examples holds a question of "
            f"{', '.join(source.benchmark for source in looked_for.sources)}, so nothing is left to train on",
            "Are the training questions and the test questions the same? --decontaminate report keeps them all.",
        )
    left_out = set(findings.items if mode == "drop" else ())
    places = tuple(place for place in range(len(examples)) if place not in left_out)
    return Decontaminated(tuple(examples[place] for place in places), places, report)


@dataclass(frozen=True)
class _Findings:
    """What was found by the place of the example: items, and where there are none, wording."""

    index: BenchmarkIndex | None = None
    items: dict[int, list[Overlap]] = field(default_factory=dict)
    wording: dict[int, list[Overlap]] = field(default_factory=dict)


def _search(
    examples: Sequence[Example],
    looked_for: LookedFor,
    pmid_sources: frozenset[str],
    min_share: float,
) -> _Findings:
    same = build_same_items(build_index(looked_for.items, looked_for.sources))
    findings = _Findings(same.index)
    numbers = _number_items(same.index)
    for start in range(0, len(examples), _STEP):
        some = examples[start : start + _STEP]
        texts = ["\n".join(turn.text for turn in example.turns) for example in some]
        metadata = [_find_metadata(example, pmid_sources) for example in some]
        overlaps = find_all_overlaps(same.index, zip(texts, metadata, strict=True))
        short = find_same_items(same, texts)
        for place, every in enumerate(overlaps, start=start):
            text = texts[place - start]
            items = [
                one for overlap in every if (one := _judge(same.index, numbers, overlap, text, min_share))
            ]
            if items := items + short[place - start]:
                findings.items[place] = items
            elif every:
                findings.wording[place] = every
    return findings


def _number_items(index: BenchmarkIndex) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of the items by benchmark and id, which several may have."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, item in enumerate(index.items):
        numbers[item.benchmark, item.item_id].append(number)
    return numbers


def _judge(
    index: BenchmarkIndex,
    numbers: Mapping[tuple[str, str], Sequence[int]],
    overlap: Overlap,
    text: str,
    min_share: float,
) -> Overlap | None:
    """Return an overlap that counts, as a near-duplicate where it is one; None for shared wording."""
    changed = overlap.kind == "question_and_answer" and overlap.share < 1
    if overlap.share >= min_share and not changed:
        return overlap
    own = numbers[overlap.benchmark, overlap.item_id]
    if changed:
        # "All of the following are features of ..." is most of a short question, and "all of the above" its answer.
        return overlap if any(holds_options(index.items[number], text) for number in own) else None
    share = max(measure_share(index, number, text) for number in own)
    return replace(overlap, kind="near-duplicate", share=round(share, 3)) if share >= NEAR_SHARE else None


def _report(
    examples: Sequence[Example],
    looked_for: LookedFor,
    findings: _Findings,
    rules: tuple[Mode, float],
    folder: Path | None,
) -> TuningDecontamination:
    """Count what was found, and write it where a folder is given; `rules` are the mode and the share that counts."""
    mode, summary = rules[0], None
    if findings.index is not None:
        assert mode != "off"
        lines = [
            _describe(examples, place, overlaps, dropped=mode == "drop")
            for place, overlaps in findings.items.items()
        ]
        summary = write_findings(findings.index, lines, folder, mode=mode)
    by_source = Counter(examples[place].source for place in findings.items)
    report = TuningDecontamination(
        mode=mode,
        index_sha256=summary.index_sha256 if summary else None,
        examples=len(examples),
        contaminated=len(findings.items),
        dropped=len(findings.items) if mode == "drop" else 0,
        by_source=dict(sorted(by_source.items())),
        shared_wording=len(findings.wording),
        min_share=rules[1],
        benchmarks=summary.benchmarks if summary else {},
        missing=looked_for.missing,
        incomplete=looked_for.incomplete,
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / SUMMARY_FILE).write_text(content + "\n", encoding="utf-8")
    if folder is not None and mode != "off":
        with (folder / WORDING_REPORT).open("w", encoding="utf-8") as file:
            for place, overlaps in findings.wording.items():
                file.write(json.dumps(_describe(examples, place, overlaps, dropped=False)) + "\n")
    return report


def _describe(
    examples: Sequence[Example], place: int, overlaps: Sequence[Overlap], *, dropped: bool
) -> dict[str, Any]:
    where = f"{examples[place].source} {examples[place].id}"
    return describe_overlaps(None if dropped else place, where, None, overlaps)


def _find_metadata(example: Example, pmid_sources: frozenset[str]) -> Metadata | None:
    if example.source not in pmid_sources or not example.id.isdecimal():
        return None
    return Metadata(pmid=int(example.id))

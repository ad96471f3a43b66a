"""What `biomedllama prepare` says at its end."""

from __future__ import annotations

import shlex
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.estimate import Estimate, Range
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.wording import name_count


class PrepareReport(BaseModel):
    """What `prepare` did, or with `--dry-run` would do."""

    model_config = ConfigDict(frozen=True)

    schema_version: str = "biomedllama.prepare/1"
    state: Literal["finished", "already_finished", "planned", "submitted"]
    output_dir: str
    inputs: int
    input_bytes: int | None
    tasks: int
    tasks_resumed: int = 0
    tokenizer: str
    seconds: float = 0.0
    jobs: tuple[str, ...] = ()
    manifest: CorpusManifest | None = None
    estimate: Estimate | None = None
    fetches: str | None = None
    unknown: tuple[str, ...] = ()
    stops_at_unreadable: bool = True

    def lines(self) -> list[str]:
        """Return the summary for people."""
        size = "" if self.input_bytes is None else f", {self.input_bytes / 1e6:,.1f} MB"
        inputs = f"{self.inputs} input{'' if self.inputs == 1 else 's'}{size}"
        if self.state == "submitted":
            done = (
                f"; {self.tasks_resumed} of {self.tasks} tasks were done before" if self.tasks_resumed else ""
            )
            return [
                f"Slurm has the work in job{'' if len(self.jobs) == 1 else 's'} {' and '.join(self.jobs)}{done}",
                f"It will write {self.output_dir}; the same command says whether it has, and submits what failed",
            ]
        if self.manifest is None:
            tasks = f"{self.tasks:,} task{'' if self.tasks == 1 else 's'}"
            return [
                f"Would fetch {self.fetches}" if self.fetches else f"Would read {inputs} in {tasks}",
                f"Would tokenise with {self.tokenizer}",
                *(_describe_estimate(self.estimate) if self.estimate else ()),
                *(_describe_unreadable(self.estimate, self.stops_at_unreadable) if self.estimate else ()),
                *self.unknown,
                f"Would write {self.output_dir}; nothing was written",
            ]
        documents, tokens = self.manifest.documents, self.manifest.tokens
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in documents.dropped.items()) or "none"
        repeated = sum(tokens.dropped.values())
        bos = "BOS and EOS" if self.manifest.adds_bos else "EOS, no BOS"
        first = {
            "finished": f"Corpus {self.output_dir} from {inputs} in {self.seconds:,.1f} s",
            "already_finished": f"Corpus {self.output_dir} was already finished by this same job; nothing to do",
        }[self.state]
        looked_for = self.manifest.decontamination
        return [
            first,
            f"Documents: {documents.read:,} read, {documents.kept:,} kept ({documents.train:,} train, "
            f"{documents.validation:,} validation); dropped: {dropped}",
            f"Tokens: {tokens.train:,} train, {tokens.validation:,} validation; {repeated:,} more left out",
            *([_describe_benchmarks(looked_for)] if looked_for.get("benchmarks") else ()),
            f"Tokenizer: {self.tokenizer}, {self.manifest.vocabulary_size:,} ids, {bos} per document",
            f"Next: biomedllama pretrain --corpus {shlex.quote(self.output_dir)}",
        ]


def _describe_benchmarks(summary: dict[str, Any]) -> str:
    counts = summary["benchmarks"].values()
    found, items = (sum(count[key] for count in counts) for key in ("contaminated", "items"))
    untestable = items - sum(count["testable"] for count in counts)
    fate = "left out" if summary["mode"] == "drop" else "kept"
    return (
        f"Benchmarks: {name_count(summary['documents'], 'document')} held {found:,} of {name_count(items, 'item')} of "
        f"{name_count(len(counts), 'benchmark')}, {fate}: see contamination.jsonl; "
        f"{name_count(untestable, 'item')} could not be looked for"
    )


def _describe_unreadable(estimate: Estimate, stops: bool) -> list[str]:
    if not estimate.unreadable:
        return []
    fate = (
        "the run would stop there; --on-bad-record skip counts such records and goes on"
        if stops
        else "such records would be counted and left out"
    )
    of = "the input" if estimate.exact else "the sample"
    return [
        f"{name_count(estimate.unreadable, 'record')} of {of} cannot be read, first {estimate.first_unreadable}: {fate}"
    ]


def _describe_estimate(estimate: Estimate) -> list[str]:
    share = estimate.sampled_bytes / max(estimate.input_bytes, 1)
    seen = "all of the input" if estimate.exact else f"{100 * share:.2g} % of the input, 95 % intervals"
    return [
        f"Estimate ({seen}; before duplicates and other decisions over the whole input):",
        f"  documents  {_show(estimate.documents)} of {_show(estimate.documents_read)} read",
        f"  tokens     {_show(estimate.tokens)}",
        f"  disk       {_show(estimate.disk_bytes, 1e6)} MB, and as much again while it is made",
        f"  time       {_show(estimate.seconds)} s to read and tokenise; starting and writing the corpus come on top",
    ]


def _show(found: Range, unit: float = 1.0) -> str:
    value, low, high = (round(number / unit) for number in (found.value, found.low, found.high))
    return f"{value:,}" if low == high else f"{value:,} ({low:,} to {high:,})"

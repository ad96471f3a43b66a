"""A data card in Markdown, with the header that dataset hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from biomedllama_cli.corpus.card_counts import GROUPS, Counts, Row
from biomedllama_cli.corpus.card_facts import CardFacts, Example
from biomedllama_cli.corpus.card_header import render_header
from biomedllama_cli.corpus.card_rules import list_rules
from biomedllama_cli.corpus.card_text import REASONS, escape, list_notices, name_size, render_table
from biomedllama_cli.corpus.card_use import render_benchmarks, render_use
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.corpus.source import REPLAY
from biomedllama_cli.wording import name_count

_MOST_ROWS = 15
_DIGITS = 16  # of a SHA-256 in a table


def render_card(facts: CardFacts, picture: str) -> str:
    """Return the card; `picture` is the file name of the histogram."""
    manifest, counts = facts.manifest, facts.counts
    sections = (
        render_header(manifest, counts),
        _render_summary(manifest),
        render_use(manifest),
        _render_sources(manifest),
        _render_documents(counts, picture),
        _render_dropped(manifest, facts.examples),
        _render_policy(manifest, counts),
        render_benchmarks(manifest),
        _render_origin(manifest),
    )
    return "\n".join(line for section in sections for line in section) + "\n"


def _render_summary(manifest: CorpusManifest) -> list[str]:
    documents, tokens = manifest.documents, manifest.tokens
    epoch = sum(source.train_tokens * source.weight for source in manifest.sources)
    repeated = tokens.dropped.get("exact_duplicate", 0)
    near = tokens.dropped.get("near_duplicate", 0)
    facts: list[tuple[str, str]] = [
        ("Documents", f"{documents.kept:,} kept of {documents.read:,} read"),
        ("For training", _count_both(documents.train, tokens.train)),
        ("Held out", _count_both(documents.validation, tokens.validation)),
        ("Unique tokens", f"{_sum_tokens(manifest):,}"),
        *_summarise_replay(manifest, epoch),
        ("Repeated tokens, left out", f"{repeated:,} in exact duplicates, {near:,} in near-duplicates"),
        ("One epoch", f"{epoch:,.0f} tokens at the weights below"),
        ("Text", f"{name_size(manifest.bytes.train + manifest.bytes.validation)} of UTF-8"),
        ("Tokenizer", f"{escape(manifest.tokenizer.source)}, {manifest.vocabulary_size:,} ids"),
    ]
    return [
        f"# {escape(manifest.name)}",
        "",
        "Biomedical text as token ids, for the continued pretraining of language models. Each document is listed in "
        "`documents.parquet`, with licence and origin; `manifest.json` has the settings and hashes to make it again.",
        "",
        *render_table(("", ""), facts, numbers=0),
    ]


def _summarise_replay(manifest: CorpusManifest, epoch: float) -> list[tuple[str, str]]:
    """Return how much of the figures is general text, and how much is not."""
    replay = [source for source in manifest.sources if source.name == REPLAY]
    if not replay:
        return []
    documents = sum(source.documents.kept for source in replay)
    tokens = sum(source.train_tokens for source in replay)
    share = sum(source.train_tokens * source.weight for source in replay) / max(epoch, 1)
    return [
        (
            "Of these, biomedical",
            _count_both(manifest.documents.kept - documents, _sum_tokens(manifest) - tokens),
        ),
        (
            "Of these, replayed general text",
            f"{_count_both(documents, tokens)}, {100 * share:.2g} % of an epoch",
        ),
    ]


def _count_both(documents: int, tokens: int) -> str:
    return f"{name_count(documents, 'document')}, {name_count(tokens, 'token')}"


def _sum_tokens(manifest: CorpusManifest) -> int:
    return manifest.tokens.train + manifest.tokens.validation


def _render_sources(manifest: CorpusManifest) -> list[str]:
    rows = [
        (
            escape(source.name),
            f"{source.documents.read:,}",
            f"{source.documents.kept:,}",
            f"{source.train_tokens + source.validation_tokens:,}",
            f"{source.train_tokens:,}",
            f"{source.weight:g}",
            f"{source.train_tokens * source.weight:,.0f}",
        )
        for source in manifest.sources
    ]
    titles = ("Source", "Read", "Kept", "Tokens", "To train on", "Passes per epoch", "Tokens per epoch")
    return ["## Sources", "", *render_table(titles, rows, numbers=6)]


def _render_documents(counts: Counts, picture: str) -> list[str]:
    lines = [
        "## What the documents are",
        "",
        f"![Histogram of the documents' lengths in tokens]({picture})",
        "",
    ]
    for name, columns in GROUPS.items():
        rows: Sequence[Row] = counts.breakdowns[name]
        if name == "subset":
            rows = [row for row in rows if row.kind[-1] is not None]
        if name == "source" or (name != "licence" and all(row.kind[-1] is None for row in rows)):
            continue
        if name == "year" and len(rows) > _MOST_ROWS:
            rows = join_decades(rows)
        titles = (*(column.capitalize() for column in columns), "Documents", "Tokens", "Bytes")
        shown = [(*map(_name_kind, row.kind), *_format_sums([row])) for row in rows[:_MOST_ROWS]]
        if rows[_MOST_ROWS:]:
            rest = (f"{len(rows) - _MOST_ROWS:,} more, in `data_card.json`", *[""] * (len(columns) - 1))
            shown.append((*rest, *_format_sums(rows[_MOST_ROWS:])))
        lines += [f"### By {name}", "", *render_table(titles, shown, numbers=3)]
    return lines


def join_decades(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each decade of rows for each year."""
    joined: dict[str | None, list[int]] = {}
    for row in rows:
        year = row.kind[0]
        name = f"{year // 10 * 10}s" if isinstance(year, int) else None
        sums = joined.setdefault(name, [0, 0, 0])
        for index, number in enumerate((row.documents, row.tokens, row.bytes)):
            sums[index] += number
    return [Row(kind=(name,), documents=d, tokens=t, bytes=b) for name, (d, t, b) in joined.items()]


def _name_kind(value: str | int | None) -> str:
    return "none stated" if value is None else escape(str(value))


def _format_sums(rows: Sequence[Row]) -> tuple[str, str, str]:
    return tuple(f"{sum(getattr(row, key) for row in rows):,}" for key in ("documents", "tokens", "bytes"))  # type: ignore[return-value]


def _render_dropped(manifest: CorpusManifest, examples: Mapping[str, Sequence[Example]]) -> list[str]:
    dropped = manifest.documents.dropped
    order = sorted(dropped, key=lambda reason: (-dropped[reason], reason))
    rows = [
        (
            f"`{reason}`",
            escape(REASONS.get(reason, reason.replace("_", " "))),
            f"{dropped[reason]:,}",
            f"{manifest.tokens.dropped[reason]:,}" if reason in manifest.tokens.dropped else "",
        )
        for reason in order
    ]
    total = manifest.documents.read - manifest.documents.kept
    lines = [
        "## What was left out",
        "",
        f"{name_count(manifest.documents.read, 'document')} read = {manifest.documents.kept:,} kept + {total:,} "
        "left out, each for one reason. Tokens are known of those that were left out after they were tokenised.",
        "",
    ]
    if rows:
        lines += render_table(("Reason", "Meaning", "Documents", "Tokens"), rows, numbers=2)
    quoted = [reason for reason in order if examples.get(reason)]
    if quoted:
        lines += ["<details><summary>Examples</summary>", ""]
        for reason in quoted:
            lines += [
                f"`{reason}`",
                "",
                *(f"- {_render_example(example)}" for example in examples[reason]),
                "",
            ]
        lines += ["</details>", ""]
    return lines


def _render_example(example: Example) -> str:
    names = [
        f"PMID {example.pmid}" if example.pmid else "",
        example.pmcid or "",
        example.title,
        example.where,
    ]
    place = ", ".join(escape(name) for name in names if name)
    return f"{place}: “{escape(example.text)}”" if example.text else place


def _render_policy(manifest: CorpusManifest, counts: Counts) -> list[str]:
    lines = [
        "## Licences, retractions and other rules",
        "",
        *(f"- {rule}" for rule in list_rules(manifest, counts)),
        "",
    ]
    for notice in list_notices(manifest):
        lines += [notice, ""]
    return lines


def _render_origin(manifest: CorpusManifest) -> list[str]:
    inputs = [
        (
            escape(entry.path),
            f"`{entry.sha256[:_DIGITS]}`" if entry.sha256 else "",
            "" if entry.size is None else f"{entry.size:,}",
        )
        for entry in manifest.inputs[:_MOST_ROWS]
    ]
    shards = [
        (
            escape(entry.file),
            f"`{entry.sha256[:_DIGITS]}`",
            entry.split,
            f"{entry.documents:,}",
            f"{entry.tokens:,}",
        )
        for entry in manifest.shards[:_MOST_ROWS]
    ]
    versions = ", ".join(
        f"{escape(name)} {escape(number)}" for name, number in sorted(manifest.versions.items())
    )
    return [
        "## How it was made",
        "",
        f"{escape(manifest.created)}, with {versions}:",
        "",
        *_fence(manifest.command, "sh"),
        "<details><summary>Settings</summary>",
        "",
        *_fence(json.dumps(manifest.settings, indent=1, sort_keys=True, ensure_ascii=False), "json"),
        "</details>",
        "",
        f"Inputs ({len(manifest.inputs):,}), with the first {_DIGITS} digits of their SHA-256:",
        "",
        *render_table(("Input", "SHA-256", "Bytes"), inputs, numbers=1),
        *_mention_rest(len(manifest.inputs)),
        f"Shards ({len(manifest.shards):,}):",
        "",
        *render_table(("Shard", "SHA-256", "Split", "Documents", "Tokens"), shards, numbers=2),
        *_mention_rest(len(manifest.shards)),
    ]


def _mention_rest(count: int) -> list[str]:
    return [f"{count - _MOST_ROWS:,} more are in `data_card.json`.", ""] if count > _MOST_ROWS else []


def _fence(text: str, language: str) -> list[str]:
    """Return a code block that nothing in the text ends."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text, fence, ""]

"""The card of a tuned model: what it was made from, and the licence that follows for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from biomedllama_cli.corpus.card_text import escape, render_table, shorten
from biomedllama_cli.instructions.licences import ACADEMIC, HUB_NAMES, UNKNOWN
from biomedllama_cli.instructions.manifest import LeftOut, MixtureManifest, SourceDraws
from biomedllama_cli.instructions.manifest_lines import (
    describe_fit,
    format_passes,
    format_share,
    name_restricted,
)
from biomedllama_cli.wording import name_count

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DIGITS = 16  # of a SHA-256 in a table
_OTHER = "other"
_MEANINGS = {
    ACADEMIC: "for academic research only: neither commercial nor clinical use",
    UNKNOWN: "not known for every source, and what is not known may not be permitted: take it for research only, and "
    "ask the sources' authors before any other use",
}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model card says.

    Attributes:
        base_model: hub id or folder it was tuned from.
        method: how: all weights, LoRA, ...
        manifest: the mixture it was tuned on.
        command: command line that made it.
        versions: of the software, by name.
        adapter: whether the folder holds adapters beside a base model.
        notes: further sentences, such as what was left out by decontamination.
    """

    base_model: str
    method: str
    manifest: MixtureManifest
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    adapter: bool = False
    notes: tuple[str, ...] = ()


def write_model_card(folder: Path, facts: ModelFacts) -> Path:
    """Write `README.md`, the model card with the header that model hubs read, into the folder of a model.

    It carries the strictest licence of the sources, and the table of them.
    """
    path = folder / CARD_FILE
    text = "\n".join([*_render_header(facts), *_render_body(facts)]) + "\n"
    # A name may hold bytes that are no UTF-8: they must not cost the card.
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return path


def _render_header(facts: ModelFacts) -> list[str]:
    licence = facts.manifest.strictest_licence
    named = HUB_NAMES.get(licence, _OTHER)
    header: dict[str, object] = {"license": named}
    if named == _OTHER:
        header["license_name"] = licence.replace(" ", "-").lower()
    header["language"] = ["en"]
    # A folder of this machine means nothing to a hub.
    if _HUB_ID.fullmatch(facts.base_model) and not Path(facts.base_model).exists():
        header["base_model"] = facts.base_model
        header["base_model_relation"] = "adapter" if facts.adapter else "finetune"
    datasets = sorted({source.hub for source in facts.manifest.sources if source.hub and source.draws})
    if datasets:
        header["datasets"] = datasets
    header["library_name"] = "peft" if facts.adapter else "transformers"
    header["pipeline_tag"] = "text-generation"
    header["tags"] = ["biology", "medical", "biomedical", "instruction-tuning"]
    return ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def _render_body(facts: ModelFacts) -> list[str]:
    manifest = facts.manifest
    return [
        f"# {escape(shorten(_name_base(facts.base_model), 100))}, tuned on the mixture {escape(manifest.mixture)}",
        "",
        f"{escape(_name_base(facts.base_model))}, tuned to follow instructions ({escape(facts.method)}) on "
        f"{manifest.rows:,} rows drawn from {sum(source.examples for source in manifest.sources):,} examples of the "
        f"mixture {escape(manifest.mixture)}. For research: its answers can be wrong and are no medical advice.",
        "",
        *_render_licence(manifest),
        *_render_sources(manifest),
        *(line for note in facts.notes for line in (escape(note), "")),
        *_render_origin(facts),
    ]


def _render_licence(manifest: MixtureManifest) -> list[str]:
    strictest = manifest.strictest_licence
    names = [source.name for source in manifest.sources if source.draws and source.licence_code == strictest]
    meaning = f": {_MEANINGS[strictest]}" if strictest in _MEANINGS else ""
    lines = [
        "## Licence",
        "",
        f"The strictest licence of what it was tuned on: **{escape(strictest)}** ({escape(', '.join(names))})"
        f"{meaning}. The licence of the base model applies besides.",
        "",
    ]
    if restricted := name_restricted(manifest):
        lines += [f"Restricted besides: {escape(restricted)}.", ""]
    if kept_back := manifest.kept_back():
        lines += [f"Examples that may not be passed on: {escape(', '.join(kept_back))}.", ""]
    open_questions = [source for source in manifest.sources if source.draws and source.licence_note]
    lines += [f"- {escape(source.name)}: {escape(source.licence_note)}" for source in open_questions]
    return [*lines, ""] if open_questions else lines


def _render_sources(manifest: MixtureManifest) -> list[str]:
    titles = (
        "Source",
        "Licence",
        "SHA-256",
        "Examples",
        "Drawn",
        "Passes",
        "Tokens learnt",
        "Share",
        "Published",
    )
    lines = [
        "## What it was tuned on",
        "",
        *render_table(titles, [_list_cells(source) for source in manifest.sources], numbers=6),
        f"{manifest.epochs:g} x {manifest.draws:,} rows, drawn with seed {manifest.seed}"
        + (f"; {_name_fit(manifest)}" if manifest.degrees_of_freedom else "")
        + ". Shares are of the rows; `mixture.json` has all figures.",
        "",
    ]
    for source in manifest.sources:
        if source.substitute:
            lines.append(f"- \\* {escape(source.name)} is a substitute: {escape(source.substitute)}")
    lines += [
        f"- {escape(each.name)}{_name_size(each)} was left out, and its share went to the others."
        for each in manifest.left_out
    ]
    return [*lines, ""] if lines[-1] else lines


def _name_size(left_out: LeftOut) -> str:
    size = left_out.published_samples
    return "" if size is None else f" ({name_count(size, 'example')})"


def _list_cells(source: SourceDraws) -> tuple[str, ...]:
    return (
        escape(source.name) + (" \\*" if source.substitute else ""),
        escape(source.licence),
        f"`{source.sha256[:_DIGITS]}`",
        f"{source.examples:,}",
        f"{source.draws:,}",
        format_passes(source.passes),
        "" if source.target_tokens is None else f"{source.target_tokens:,}",
        format_share(source.realised_share),
        "" if source.published_share is None else format_share(source.published_share),
    )


def _render_origin(facts: ModelFacts) -> list[str]:
    versions = ", ".join(
        f"{escape(name)} {escape(number)}" for name, number in sorted(facts.versions.items())
    )
    longest = max(map(len, re.findall("`+", facts.command)), default=0)
    fence = "`" * max(3, longest + 1)
    return [
        "## How it was made",
        "",
        f"With {versions}:" if versions else "By the command",
        "",
        f"{fence}sh",
        facts.command,
        fence,
    ]


def _name_fit(manifest: MixtureManifest) -> str:
    # The only names in it are those of sources; its equals sign begins no line, so nothing is made of it.
    return escape(describe_fit(manifest)).replace("\\=", "=")


def _name_base(base: str) -> str:
    """Return a hub id as it is, and of a folder what says nothing of the machine: of a checkpoint its run and step.

    >>> _name_base("/home/me/runs/mine/checkpoints/step-00000433")
    'mine-step-00000433'
    """
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        return base
    parts = [part for part in Path(base).parts if part not in {"/", ".", "..", "checkpoints"}]
    return "-".join(parts[-2:] if parts and parts[-1].startswith("step-") else parts[-1:]) or "a local model"

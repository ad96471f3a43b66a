"""The card of an exported model: base, data, licence, intended use, how it was made, what was measured."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from biomedllama_cli.corpus.card import CARD_FILE as DATA_CARD_FILE
from biomedllama_cli.corpus.card_text import escape, render_table, shorten
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.instructions.manifest_lines import format_passes
from biomedllama_cli.recipes.export_origin import BaseModel, Origin, Stage, read_licence_header

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NOTICES_FOLDER = "base_model_notices"
_MEASURED = {
    "validation_loss_before": "Held-out loss before (nats per token)",
    "validation_loss_after": "Held-out loss after (nats per token)",
    "bits_per_byte_before": "Held-out bits per byte before",
    "bits_per_byte_after": "Held-out bits per byte after",
    "bits_per_byte_unigram": "Bits per byte of a unigram model of the training tokens",
    "tokens_seen": "Target tokens trained on",
}


def render_model_card(origin: Origin, *, name: str, dtype: str, cards: Mapping[Path, str]) -> str:
    """Return the card in Markdown, with the header that model hubs read.

    Args:
        origin: of the weights.
        name: of the model.
        dtype: of the weights in the folder.
        cards: names of the cards beside it, by the path of the corpus's card or of the one that tuning left.
    """
    sections = (
        _render_header(origin),
        [f"# {escape(shorten(name, 100))}", "", *_render_summary(origin, dtype)],
        _render_use(),
        _render_licence(origin, cards),
        _render_data(origin, cards),
        _render_measured(origin.stages[-1].report if origin.stages else {}),
        [line for stage in origin.stages for line in _render_stage(stage)],
    )
    return "\n".join(line for section in sections for line in section).rstrip() + "\n"


def _render_header(origin: Origin) -> list[str]:
    header: dict[str, Any] = dict(_choose_licence(origin))
    header["language"] = ["en"]
    base = origin.base.source
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        header |= {"base_model": base, "base_model_relation": "finetune"}
    header |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    header["tags"] = ["biology", "medical", "biomedical", "research-only"]
    return ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def _choose_licence(origin: Origin) -> Mapping[str, str]:
    """Return the licence for the header: the base model's where nothing else asks for another."""
    ours = [stage.licence for stage in origin.stages if stage.card is not None]
    base = origin.base.licence_header
    if _HUB_LICENCE.fullmatch(base.get("license", "")) and not set(ours) - {origin.base.licence}:
        return base
    if origin.base.is_scratch and len(set(ours)) == 1 and _HUB_LICENCE.fullmatch(str(ours[0])):
        assert origin.stages[-1].card is not None
        return read_licence_header(origin.stages[-1].card)
    return {"license": "other", "license_name": "see-the-licence-section"}


def _render_summary(origin: Origin, dtype: str) -> list[str]:
    base = origin.base
    start = (
        f"random weights of the shape {escape(base.source)}"
        if base.is_scratch
        else escape(name_source(base.source))
    )
    ways = {"pretrain": "trained further on biomedical text", "finetune": "fine-tuned on questions"}
    done = ", then ".join(ways.get(stage.command, "tuned to follow instructions") for stage in origin.stages)
    return [f"From {start}{', ' if done else ''}{done}. Weights are {dtype}.", ""]


def _render_use() -> list[str]:
    return [
        "## Intended use",
        "",
        "For research on language models and biomedical text. **Research only; not for clinical decisions**: what the "
        "model says can be wrong, out of date or made up, it has not been examined as a medical device, and nothing it "
        "says is medical advice. It may repeat names and errors of the texts it was trained on.",
        "",
    ]


def _render_licence(origin: Origin, cards: Mapping[Path, str]) -> list[str]:
    base = origin.base
    if base.is_scratch:
        first = "The weights began as random numbers: no other model's licence applies to them."
    elif base.licence:
        first = (
            f"Inherited from the base model: **{escape(base.licence)}**. Its terms apply to these weights."
        )
    else:
        first = (
            f"The licence of the base model ({escape(name_source(base.source))}) **was not found** beside it. It "
            "applies to these weights all the same: read it before they are used or passed on."
        )
    lines = ["## Licence", "", first, ""]
    if base.notices:
        named = ", ".join(_quote(f"{NOTICES_FOLDER}/{name}") for name in base.notices)
        lines += [f"Licence and notices that came with the base model: {named}. Pass them on.", ""]
    for stage in origin.stages:
        if stage.card is not None:
            asked = f"**{escape(stage.licence)}**" if stage.licence else "a licence that was not found"
            card = cards[stage.card]
            lines += [
                f"The examples that it was tuned on ({stage.command}) ask for {asked} besides: [{card}]({card}).",
                "",
            ]
    lines += ["The texts have licences of their own; see the data below.", ""]
    return lines


def _quote(name: str) -> str:
    """Return the name of a file as code, in which a backslash hides nothing.

    >>> _quote("notices/USE_POLICY.md")
    '`notices/USE_POLICY.md`'
    """
    return f"`{shorten(name, 200).replace('`', chr(39))}`"


def _render_data(origin: Origin, cards: Mapping[Path, str]) -> list[str]:
    lines = ["## Data", ""]
    told: set[Path] = set()
    for stage in origin.stages:
        for folder, manifest in stage.corpora.items():
            if folder in told:  # by an earlier run
                continue
            told.add(folder)
            passes = _add_passes(origin, folder)
            lines += list(_render_corpus(manifest, cards.get(folder / DATA_CARD_FILE), passes))
        lines += [
            f"- The corpus {escape(Path(name).name)} was not at hand when this card was written."
            for name in stage.missing
        ]
        if stage.command != "pretrain":
            card = cards.get(stage.card) if stage.card else None
            where = f"; everything about them is in [{card}]({card})" if card else ""
            lines.append(f"- Examples of the run {escape(stage.run_folder.name)} ({stage.command}){where}.")
    return [*lines, ""] if len(lines) > 2 else []


def _add_passes(origin: Origin, folder: Path) -> dict[str, float]:
    """Return the passes of all runs over each source of a corpus; empty where those of one are not known."""
    readers = [stage.passes for stage in origin.stages if folder in stage.corpora]
    if not all(readers):
        return {}
    names = [name for place, name in readers[0] if place == folder]
    return {name: sum(passes[folder, name] for passes in readers) for name in names}


def _render_corpus(manifest: CorpusManifest, card: str | None, passes: Mapping[str, float]) -> Iterator[str]:
    where = f"; everything about it is in [{card}]({card})" if card else ""
    yield (
        f"{escape(manifest.name)}: {manifest.documents.train:,} training documents, {manifest.tokens.train:,} training "
        f"tokens{where}."
    )
    yield ""
    rows = [
        (
            *(escape(source.name), f"{source.documents.train:,}", f"{source.train_tokens:,}"),
            format_passes(passes[source.name]) if source.name in passes else "not known",
        )
        for source in manifest.sources
    ]
    heads = ("Source", "Training documents", "Training tokens", "Passes made")
    yield from render_table(heads, rows, numbers=3)


def _render_measured(report: dict[str, Any]) -> list[str]:
    part = " (estimated from a part)" if report.get("validation_is_sampled") else ""
    rows = [
        (words + part if words.startswith("Held-out") else words, _format(report[key]))
        for key, words in _MEASURED.items()
        if isinstance(report.get(key), int | float)
    ]
    return ["## Measured", "", *render_table(("", ""), rows, numbers=1)] if rows else []


def _format(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _render_stage(stage: Stage) -> list[str]:
    versions = ", ".join(
        f"{escape(name)} {escape(str(number))}" for name, number in sorted(stage.versions.items())
    )
    command = shorten_paths(stage.command_line)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return [
        f"## How it was made: {stage.command}, step {stage.step}",
        "",
        f"With {versions}:" if versions else "By the command",
        "",
        f"{fence}sh",
        command,
        fence,
        "",
    ]


def shorten_paths(command_line: str) -> str:
    """Return a command line with the last part alone of every path.

    >>> shorten_paths("biomedllama pretrain --corpus '/home/me/my notes' --general a=~/b.jsonl --weight notes/pile=1.5")
    "biomedllama pretrain --corpus 'my notes' --general a=b.jsonl --weight notes/pile=1.5"
    """
    try:
        words = shlex.split(command_line)
    except ValueError:  # a quotation mark without its other one
        words = command_line.split()
    parts = [[name_source(part) if "/" in part else part for part in word.split("=")] for word in words]
    return shlex.join(map("=".join, parts))


def name_source(source: str) -> str:
    """Return a hub id as it is, and of a folder its name alone, which says nothing of the machine.

    >>> name_source("huggyllama/llama-7b"), name_source("/home/me/models/llama")
    ('huggyllama/llama-7b', 'llama')
    """
    return (
        source
        if _HUB_ID.fullmatch(source) and not Path(source).exists()
        else Path(source).name or "a local model"
    )


def list_base_lines(base: BaseModel) -> list[str]:
    """Return what the terminal says of the base model."""
    if base.is_scratch:
        return ["Base model: none, the weights began as random numbers."]
    if base.licence is None:
        return [
            f"Base model: {base.source}; its licence was not found: look it up before these weights are passed on."
        ]
    return [
        f"Base model: {base.source}, licence {base.licence}; {len(base.notices)} of its notices are beside it."
    ]

"""The files of `pubmedqa_gain`: folds of PubMedQA with cut contexts, texts to forget, and a small mixture."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedllama_cli.models.tokenizer import Tokenizer
from continue_smollm2 import content_order, iter_pile_abstracts, write_records

CONTEXT_TOKENS = 256
ABSTRACTS, GENERAL_TEXTS = 60, 40
GENERAL_CHARACTERS = 2000
MEDQA_HELD_OUT = 140
INSTRUCT_SOURCES = {
    "alpaca-roleplay": ("alpaca", "alpaca_format_roleplay300.json", "an AlpacaDataCleaned extension"),
    "alpaca-gsm": ("alpaca", "alpaca_format_gsm300.json", "an AlpacaDataCleaned extension"),
    "mmlu-cot": ("mmlu-cot", "mmlu-cot.json", None),
    "codex-cot": ("codex-cot", "codex-cot_usmle_5shot.txt", "five exemplars for the original's three"),
}


@dataclass(frozen=True)
class Fold:
    """What is trained on, and the questions kept apart; `number` counts from 1."""

    number: int
    train: Path
    test: Path


def write_folds(
    source: Path, folder: Path, tokenizer: Tokenizer, folds: int, limit: int | None
) -> list[Fold]:
    """Split the questions into folds of the same shares of yes, no and maybe, with contexts cut from the left.

    The split follows from the questions alone, never from the order of the file or a seed.

    Args:
        source: PubMedQA in its original schema.
        folder: where to write.
        tokenizer: whose tokens a context has at most CONTEXT_TOKENS of.
        folds: how many.
        limit: take only so many questions, to try this out.
    """
    items: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    ordered = sorted(items, key=content_order)[:limit]
    ordered.sort(key=lambda pmid: items[pmid]["final_decision"])  # stable: by label, then by content
    short = {pmid: _cut_context(items[pmid], tokenizer) for pmid in ordered}
    written = []
    for number in range(folds):
        test = ordered[number::folds]
        fold = Fold(
            number + 1, folder / f"fold-{number + 1}-train.json", folder / f"fold-{number + 1}-test.json"
        )
        _write_json(fold.train, {pmid: short[pmid] for pmid in sorted(set(ordered) - set(test))})
        _write_json(fold.test, {pmid: short[pmid] for pmid in sorted(test)})
        written.append(fold)
    return written


def write_forgetting_texts(shared: Path, folder: Path) -> dict[str, Path]:
    """Write abstracts and general text that nothing here is trained on."""
    abstracts = sorted(set(iter_pile_abstracts(shared / "pile")), key=content_order)
    texts = {"pubmed-abstracts": abstracts[:ABSTRACTS], "text": _choose_general()}
    paths = {}
    for name, chosen in texts.items():
        paths[name] = folder / f"forgetting-{name}.jsonl"
        write_records(paths[name], chosen)
    return paths


def write_mixture(shared: Path, folder: Path, fold: Fold) -> tuple[Path, Path]:
    """Write a mixture of the shared sources; return it and the MedQA questions kept apart.

    MedQA's file holds test questions only: some are trained on here and others kept apart, so that no score of them is
    one of MedQA's test set.
    """
    lines = (shared / "medqa" / "test_5options_first640.jsonl").read_text(encoding="utf-8").splitlines()
    ordered = sorted(dict.fromkeys(lines), key=content_order)
    kept, learnt = folder / "medqa-kept-apart.jsonl", folder / "medqa-learnt.jsonl"
    kept.write_text("\n".join(ordered[:MEDQA_HELD_OUT]) + "\n", encoding="utf-8")
    learnt.write_text("\n".join(ordered[MEDQA_HELD_OUT:]) + "\n", encoding="utf-8")
    sources: list[dict[str, Any]] = [
        {"source": "pubmedqa", "format": "pubmedqa", "path": str(fold.train.resolve())},
        {
            "source": "medqa",
            "format": "medqa-5",
            "path": str(learnt.resolve()),
            "substitute": "test questions",
        },
    ]
    for name, (form, file, substitute) in INSTRUCT_SOURCES.items():
        path = str((shared / "instruct" / file).resolve())
        sources.append({"source": name, "format": form, "path": path, "substitute": substitute})
    mixture = folder / "mixture.yaml"
    _write_json(mixture, {"name": "shared", "sources": sources})  # JSON is YAML
    return mixture, kept


def _cut_context(item: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return an item whose context has lost its left end: results stand at the right."""
    text = "\n".join(item["CONTEXTS"])
    ids = tokenizer.encode(text)
    if len(ids) > CONTEXT_TOKENS:
        # A cut within a character leaves a replacement character, which is no text.
        text = tokenizer.decode(ids[-CONTEXT_TOKENS:]).lstrip("\N{REPLACEMENT CHARACTER} ")
    return {**item, "CONTEXTS": [text]}


def _choose_general() -> list[str]:
    """Return pieces of Python's language reference: general text that no source of the mixture holds."""
    pieces: list[str] = []
    for topic in pydoc_data.topics.topics.values():
        grown = ""
        for paragraph in re.split(r"\n\s*\n", topic):
            grown += paragraph + "\n\n"
            if len(grown) > GENERAL_CHARACTERS:
                pieces.append(grown.strip())
                grown = ""
    return sorted(set(pieces), key=content_order)[:GENERAL_TEXTS]


def _write_json(path: Path, content: dict[str, Any] | Iterable[Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

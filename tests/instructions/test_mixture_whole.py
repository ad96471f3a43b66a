"""A mixture from its files to its manifest, on the sources that are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from biomedllama_cli.instructions.drawing import draw, find_parts
from biomedllama_cli.instructions.manifest import DrawnRows, build_manifest
from biomedllama_cli.instructions.mixture_file import load_mixture
from biomedllama_cli.instructions.sources.catalogue import load_source
from biomedllama_cli.models import hub

EXEMPLAR = '{{"dataset": "{}", "id": "{}", "question": "Is water wet?", "options": ["yes", "no"], "answer_index": 0}}'
LONG = '{{"dataset": "{}", "id": "{}", "question": "Is water wet?", "answer": "It is, mostly."}}'


def test_exemplars_are_drawn_by_the_weight_of_their_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    path = tmp_path / "medpalm.jsonl"
    choices = [EXEMPLAR.format("medqa" if number < 7 else "medmcqa", number) for number in range(13)]
    open_ended = [LONG.format("liveqa" if number < 6 else "medicationqa", number) for number in range(11)]
    path.write_text("\n".join(choices + open_ended), encoding="utf-8")
    mixture = load_mixture("paper", {"medpalm": path}, True)
    examples = {"medpalm": load_source("medpalm", path, "medpalm").examples}
    assert len(examples["medpalm"]) == 24
    rows = draw({"medpalm": 24}, mixture, 7600, 1, 0, parts=find_parts(mixture, examples))
    # 13 x 5 + 11 x 1 = 76
    assert abs((rows[:, 1] < 13).sum() - 6500) < 4 * np.sqrt(7600 * 65 / 76 * 11 / 76)


def test_the_sources_at_hand_take_over_the_shares_of_the_missing(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    folder = shared_data / "instruct"
    data = {
        "mmlu-cot": folder / "mmlu-cot.json",
        "codex-cot": folder / "codex-cot_usmle_5shot.txt",
        "alpaca-cleaned": folder / "alpaca_format_gsm300.json",
    }
    mixture = load_mixture("paper", data, True)
    examples = {
        each.name: load_source(each.source.format, each.path, each.name).examples for each in mixture.sources
    }
    counts = {name: len(listed) for name, listed in examples.items()}
    assert counts["codex-cot"] == 5
    assert counts["alpaca-cleaned"] == 300
    rows = draw(counts, mixture, 4000, 2, 0)
    tokens = {
        name: np.array([len(example.turns[-1].text.split()) for example in listed])
        for name, listed in examples.items()
    }
    manifest = build_manifest(
        mixture, DrawnRows(rows=rows, counts=counts, draws=4000, epochs=2, seed=0), target_tokens=tokens
    )
    masses = {
        name: counts[name] * weight
        for name, weight in (("alpaca-cleaned", 0.5), ("mmlu-cot", 3), ("codex-cot", 3))
    }
    for source in manifest.sources:
        assert source.expected_share == pytest.approx(masses[source.name] / sum(masses.values()))
        assert abs(source.deviation) < 4
        assert source.draws >= 1
        assert source.target_tokens is not None
        assert source.target_tokens > source.draws
    assert manifest.p_value > 0.001
    assert len(manifest.left_out) == 7
    substitutes = {source.name: source.substitute for source in manifest.sources}
    assert "300 examples of alpaca_format_gsm300.json where" in (substitutes["alpaca-cleaned"] or "")
    assert substitutes["codex-cot"]

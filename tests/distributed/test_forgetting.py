"""What a run forgets: one process, several with rows of their own, and several that share rows tell the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus

from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.pretrain import PretrainSettings


@pytest.fixture(scope="module")
def runs(job_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the run folders of one process, of two copies that went on from its middle, and of two that share rows."""
    folder = tmp_path_factory.mktemp("forgetting")
    corpus = write_corpus(folder / "corpora" / "papers", read_sample(40))
    notes = folder / "notes.jsonl"
    notes.write_text("".join(json.dumps({"text": text}) + "\n" for text in read_sample(70)[40:]))
    tree: dict[str, Any] = {
        "corpus": str(corpus),
        "model": "scratch:tiny",
        "batch": {"sequence_length": 64, "micro_batch_size": 2, "global_batch_size": 8},
        "duration": {"max_steps": 4},
        "optimizer": {"peak_learning_rate": 1e-3},
        "numerics": {"precision": "fp32"},
        "checkpoint": {"save_every_steps": 2},
        "monitor": {"general": [f"notes={notes}"]},
        "parallel": {"device": "cpu"},
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    pretrain(PretrainSettings.model_validate({**tree, "output_dir": folder / "one"}))
    settings = folder / "settings.yaml"
    settings.write_text(json.dumps(tree))  # JSON is YAML
    options = {
        "more": ["--resume", str(folder / "one/checkpoints/step-00000002"), "--sharding", "replicate"],
        "shared": ["--cp-size", "2"],
    }
    command = [sys.executable, "-m", "biomedllama_cli", "pretrain", "--json", "--config", str(settings)]
    jobs = {
        name: subprocess.Popen(
            [*command, "--num-processes", "2", "--output-dir", str(folder / name), *own],
            env=job_environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, own in options.items()
    }
    for job in jobs.values():
        errors = job.communicate(timeout=280)[1]
        assert job.returncode == 0, errors
    return {name: folder / name for name in ("one", *jobs)}


def read_report(run: Path) -> dict[str, Any]:
    forgetting: dict[str, Any] = json.loads((run / "report.json").read_text())["forgetting"]
    return forgetting


@pytest.mark.parametrize("name", ["more", "shared"])
def test_however_many_processes_look_they_tell_what_one_does(runs: dict[str, Path], name: str) -> None:
    expected, found = read_report(runs["one"]), read_report(runs[name])
    assert found["step"] == expected["step"] == 4
    for ours, theirs in zip(found["texts"], expected["texts"], strict=True):
        assert (ours["name"], ours["documents"]) == (theirs["name"], theirs["documents"])
        for field in ("bits_per_byte", "given", "delta", "interval"):
            assert ours[field] == pytest.approx(theirs[field], abs=2e-5), field
    assert [place["tokens"] for place in found["positions"]] == [
        place["tokens"] for place in expected["positions"]
    ]
    assert [place["perplexity"] for place in found["positions"]] == pytest.approx(
        [place["perplexity"] for place in expected["positions"]], rel=1e-4
    )


def test_every_look_stands_in_the_metrics_once(runs: dict[str, Path]) -> None:
    for run in (runs["one"], runs["shared"]):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        looks = [line for line in lines if "general/notes/bits_per_byte" in line]
        assert [line["step"] for line in looks] == [0, 4]
        assert looks[0]["general/notes/delta"] == 0

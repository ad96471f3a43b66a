"""Every command that trains compares what its processes see of the run folder, before it believes its own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from small_corpora import read_sample, write_corpus
from tuning_runs import run_finetune, run_instruct, write_questions

from biomedllama_cli.engine import agreement
from biomedllama_cli.errors import OutputError
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.pretrain import PretrainSettings


def run(command: str, folder: Path, model: Path, mixture: Path) -> Any:
    """Train one step in `folder`/run."""
    if command == "instruct":
        return run_instruct(folder, model, mixture, duration={"max_steps": 1})
    if command == "finetune":
        task = write_questions(folder / "task.jsonl", 16)
        return run_finetune(folder, model, task, duration={"max_steps": 1})
    corpus = folder / "corpus"
    tree = {
        "corpus": corpus if corpus.is_dir() else write_corpus(corpus, read_sample(30)),
        "model": "scratch:tiny",
        "output_dir": folder / "run",
        "batch": {"sequence_length": 64, "global_batch_size": 1},
        "duration": {"max_steps": 1},
        "numerics": {"precision": "fp32"},
        "parallel": {"device": "cpu"},
        "monitor": {"general": ["none"]},
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    return pretrain(PretrainSettings.model_validate(tree))


@pytest.mark.parametrize("command", ["pretrain", "finetune", "instruct"])
def test_a_finished_run_that_another_node_does_not_see_is_not_finished(
    command: str, tmp_path: Path, model: Path, mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(command, tmp_path, model, mixture)
    other = ("no checkpoint to go on from", "gpu7")
    monkeypatch.setattr(agreement, "gather_object", lambda own: [*own, other])
    monkeypatch.setattr(agreement, "PAUSE_SECONDS", 0.0)
    with pytest.raises(OutputError) as told:
        run(command, tmp_path, model, mixture)
    assert (
        f"output_dir {tmp_path / 'run'} is not the same for all processes: gpu7 sees no "
        in told.value.message
    )
    assert told.value.message.endswith(" sees step-00000001 (step 1) of a finished run.")

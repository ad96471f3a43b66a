"""`biomedllama export`: what is in the folder, and what its card says."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine.saved_runs import find_checkpoint
from biomedllama_cli.errors import DataError, OutputError, SettingsError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.export import export
from biomedllama_cli.recipes.export_origin import read_licence, trace_origin
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.recipes.pretrain import pretrain
from biomedllama_cli.settings.export import ExportSettings
from biomedllama_cli.settings.prepare import PrepareSettings
from biomedllama_cli.settings.pretrain import PretrainSettings

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with its data card, a base model with licence and notices, and two runs, one after the other."""
    folder = tmp_path_factory.mktemp("workspace")
    corpus = folder / "corpora" / "papers"
    sample = {"source": {"sample": True}, "tokenization": {"vocabulary_size": 512}, "output_dir": corpus}
    prepare(PrepareSettings.model_validate(sample))
    manifest = json.loads((corpus / "manifest.json").read_text())
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = folder / "base"
    LlamaForCausalLM(LlamaConfig(vocab_size=manifest["vocabulary_size"], **shape)).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: llama-research\n---\n# Base\n")
    (base / "LICENSE.txt").write_text("Not for commerce.\n")
    (base / "NOTICE").write_text("Made by others.\n")
    for name, model in (("first", str(base)), ("second", str(folder / "runs" / "first"))):
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = {
            "workspace": folder,
            "corpus": corpus,
            "model": model,
            "output_dir": folder / "runs" / name,
            "batch": {"sequence_length": 64, "micro_batch_size": 2, "global_batch_size": 2},
            "duration": {"max_steps": 2},
            "numerics": {"precision": "fp32"},
            "parallel": {"device": "cpu"},
            "monitor": {"validation_sequences": 4, "general": ["none"]},
        }
        pretrain(PretrainSettings.model_validate(settings))
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def run(there: Path, folder: Path, **changes: Any) -> Any:
    settings = {"checkpoint": there / "runs" / "second", "folder": folder, **changes}
    return export(ExportSettings.model_validate(settings))


def test_it_is_a_plain_transformers_folder_with_the_checkpoint_s_weights(
    workspace: Path, tmp_path: Path
) -> None:
    report = run(workspace, tmp_path / "model", dtype="fp32")
    checkpoint = find_checkpoint(workspace / "runs" / "second")
    assert report.checkpoint == checkpoint
    assert report.step == 2
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, load_model(str(checkpoint)).eval()(IDS).logits)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "model", checkpoint))
    sentence = "the mitral valve lies between atrium and ventricle"
    assert len(ours(sentence).input_ids) > 5
    assert ours(sentence).input_ids == theirs(sentence).input_ids
    there = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "DATA_CARD.md", "base_model_notices"} <= there
    assert not there & {"COMPLETE", "training_state"}
    assert report.files.keys() >= {"model.safetensors", "base_model_notices/NOTICE"}
    assert not [path for path in tmp_path.iterdir() if path.name != "model"]


def test_the_weights_may_be_read_by_whom_the_umask_lets(workspace: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run(workspace, tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model" / "model.safetensors").stat().st_mode) == 0o640


def test_weights_are_rounded_to_the_type_that_is_asked_for(workspace: Path, tmp_path: Path) -> None:
    assert run(workspace, tmp_path / "model").dtype == "bf16"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}


def test_the_card_says_where_it_comes_from_and_what_it_is_not_for(workspace: Path, tmp_path: Path) -> None:
    report = run(workspace, tmp_path / "model", name="Our *model*")
    assert report.base_model == str(workspace / "base")
    assert report.base_licence == "llama-research"
    card = (tmp_path / "model" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["license_name"]) == ("other", "llama-research")
    assert "base_model" not in header  # a folder of this machine means nothing to a hub
    assert str(workspace) not in card.split("## How it was made")[0]
    for part in (
        "# Our \\*model\\*",
        "Research only; not for clinical decisions",
        "llama-research",
        "`base_model_notices/LICENSE.txt`",
        "[DATA_CARD.md](DATA_CARD.md)",
        "Held-out bits per byte after (estimated from a part)",
        "training documents, ",
        "Bits per byte of a unigram model of the training tokens |",
        "trained further on biomedical text, then trained further",
    ):
        assert part in card, part
    assert card.count("## How it was made: pretrain, step 2") == 2
    assert card.count("everything about it is in") == 1  # of one corpus, which both runs read
    (corpus,) = (workspace / "corpora").iterdir()
    (source,) = json.loads((corpus / "manifest.json").read_text())["sources"]
    passes = 2 * 2 * 2 * 64 / source["train_tokens"]  # two runs of two steps of two rows
    documents = (source["documents"]["train"], source["train_tokens"])
    assert "| sample | {:,} | {:,} | {:#.3g} |".format(*documents, passes) in card
    assert (tmp_path / "model" / "base_model_notices" / "NOTICE").read_text() == "Made by others.\n"


def test_what_was_measured_at_the_end_of_a_run_is_not_said_of_an_earlier_checkpoint(
    workspace: Path, tmp_path: Path
) -> None:
    checkpoint = find_checkpoint(workspace / "runs" / "second")
    assert checkpoint is not None
    earlier = shutil.copytree(checkpoint, checkpoint.with_name("step-00000001"))
    try:
        assert not trace_origin(earlier).stages[-1].report
        assert trace_origin(checkpoint).stages[-1].report["steps"] == 2
        run(workspace, tmp_path / "model", checkpoint=earlier)
        card = (tmp_path / "model" / "README.md").read_text()
    finally:
        shutil.rmtree(earlier)
    assert "Held-out" not in card
    assert "step 1" in card


def test_a_model_from_random_weights_inherits_nothing_and_a_missing_licence_is_said(
    workspace: Path, tmp_path: Path
) -> None:
    settings = workspace / "runs" / "first" / "settings.json"
    saved = settings.read_text()
    try:
        for model, says in (
            ("scratch:tiny", "began as random numbers"),
            ("nobody/nothing", "**was not found**"),
        ):
            changed = json.loads(saved)
            changed["job"]["model"] = model
            settings.write_text(json.dumps(changed))
            report = run(workspace, tmp_path / model, checkpoint=workspace / "runs" / "first")
            assert report.base_licence is None
            assert says in (tmp_path / model / "README.md").read_text()
    finally:
        settings.write_text(saved)


def test_a_corpus_that_is_gone_costs_its_card_alone(workspace: Path, tmp_path: Path) -> None:
    (corpus,) = (workspace / "corpora").iterdir()
    away = corpus.rename(workspace / "away")
    try:
        report = run(workspace, tmp_path / "model")
    finally:
        away.rename(corpus)
    assert report.data_cards == []
    assert "was not at hand" in (tmp_path / "model" / "README.md").read_text()


def test_nothing_is_overwritten_and_what_is_no_checkpoint_is_refused(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        run(workspace, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    run(workspace, tmp_path / "empty")
    with pytest.raises(DataError, match="not a complete checkpoint"):
        run(workspace, tmp_path / "model", checkpoint=workspace / "base")
    with pytest.raises(DataError, match="holds none"):
        run(workspace, tmp_path / "model", checkpoint=None, workspace=tmp_path)
    with pytest.raises(SettingsError, match="FOLDER is missing"):
        export(ExportSettings(checkpoint=workspace / "runs" / "second"))
    assert not (tmp_path / "model").exists()


def test_a_dry_run_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    settings = ExportSettings(workspace=workspace, folder=tmp_path / "model")
    report = export(settings, dry_run=True)
    assert report.status == "would export"
    assert report.checkpoint == find_checkpoint(workspace / "runs" / "second")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [\n---\n", None),
        ("---\n- 1\n---\n", None),
        ("no header", None),
        ("---", None),
    ],
)
def test_licences_of_cards(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path / "README.md") == licence
    assert read_licence(tmp_path / "none.md") is None

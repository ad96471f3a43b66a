"""Where exported weights come from: tuned runs, other working folders, and folders that others have laid traps in."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_corpora import read_sample, write_corpus
from tuning_runs import run_instruct, write_mixture

from biomedllama_cli.errors import DataError
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.export import copy_tokenizer, export, name_cards
from biomedllama_cli.recipes.export_corpora import count_passes
from biomedllama_cli.recipes.export_origin import read_base, read_licence, trace_origin
from biomedllama_cli.settings.export import ExportSettings


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> Path:
    """A base model that may be used for anything, and a run that tuned and merged adapters on what may not."""
    folder = tmp_path_factory.mktemp("tuned")
    base = folder / "base"
    shutil.copytree(chat_model, base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "USE_POLICY.md").write_text("Be good.\n")
    run_instruct(
        folder,
        base,
        write_mixture(folder),
        output_dir=folder / "runs" / "tuned",
        duration={"max_steps": 1},
        adapter={"method": "lora", "merge": True},
    )
    return folder


@pytest.fixture
def run(workspace: Path) -> Path:
    """The run folder."""
    return workspace / "runs" / "tuned"


@pytest.fixture
def saved(run: Path) -> Any:
    """The run's settings.json, which a test may change."""
    path = run / "settings.json"
    before = path.read_text()
    yield json.loads(before)
    path.write_text(before)


@pytest.mark.parametrize(
    "given", ["", "runs/tuned", "runs/tuned/merged", "runs/tuned/checkpoints/step-00000001"]
)
def test_adapters_are_exported_merged_with_the_licences_of_base_and_examples(
    workspace: Path, tmp_path: Path, given: str
) -> None:
    report = export(
        ExportSettings(
            checkpoint=workspace / given if given else None,
            folder=tmp_path / "model",
            workspace=workspace,
            dtype="fp32",
        )
    )
    assert report.checkpoint.name == "step-00000001"
    assert (report.base_licence, report.data_cards) == ("mit", ["TUNING_CARD.md"])
    merged, ours = (
        load_model(str(each)).state_dict() for each in (workspace / "runs/tuned/merged", tmp_path / "model")
    )
    assert all(tensor.equal(ours[name]) for name, tensor in merged.items())
    card = (tmp_path / "model" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "other"  # mit alone would permit what the examples forbid
    assert "**cc-by-nc-4.0** besides: [TUNING_CARD.md](TUNING_CARD.md)" in card
    assert "talks" in (tmp_path / "model" / "TUNING_CARD.md").read_text()
    assert "`base_model_notices/USE_POLICY.md`" in card
    assert json.loads((tmp_path / "model" / "tuning.json").read_text())["template"] == "chat"


def test_a_run_on_merged_adapters_goes_back_to_their_base(run: Path, saved: Any) -> None:
    saved["job"] |= {"command": "pretrain", "model": str(run / "merged")}
    later = run.parent / "later"
    (later / "checkpoints" / "step-00000002").mkdir(parents=True)
    (later / "settings.json").write_text(json.dumps(saved))
    origin = trace_origin(later / "checkpoints" / "step-00000002")
    assert [(stage.command, stage.step) for stage in origin.stages] == [("instruct", 1), ("pretrain", 2)]
    assert origin.base.licence == "mit"


def test_a_run_that_goes_on_from_another_s_checkpoint_is_its_second_stage(run: Path, saved: Any) -> None:
    later = run.parent / "longer"
    (later / "checkpoints" / "step-00000003").mkdir(parents=True)
    for resume, runs in (
        (str(run / "checkpoints" / "step-00000001"), [run, later]),
        ("runs/tuned/checkpoints/step-00000001", [run, later]),
        (str(later / "checkpoints" / "step-00000002"), [later]),
    ):
        saved["settings"] |= {"resume": resume, "output_dir": "runs/longer"}
        (later / "settings.json").write_text(json.dumps(saved))
        origin = trace_origin(later / "checkpoints" / "step-00000003")
        assert [stage.run_folder for stage in origin.stages] == runs
        assert origin.base.licence == "mit"


def test_a_run_is_traced_from_any_folder_and_through_a_link(
    run: Path, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was started in the workspace, and says so of its paths."""
    saved["job"]["model"] = "base"
    saved["settings"]["output_dir"] = "runs/tuned"
    (run / "settings.json").write_text(json.dumps(saved))
    assert trace_origin(run / "checkpoints" / "step-00000001").base.licence == "mit"
    monkeypatch.chdir(run / "checkpoints")
    assert trace_origin(Path("step-00000001")).base.licence == "mit"
    latest = tmp_path / "latest"
    latest.symlink_to(run / "checkpoints" / "step-00000001")
    assert trace_origin(latest).stages[0].step == 1


def test_the_command_in_a_card_says_nothing_of_the_machine(run: Path, saved: Any, tmp_path: Path) -> None:
    for command in (
        f"biomedllama instruct --model {run.parent} --seed 1",
        "biomedllama '/home/me/x --seed 1",
    ):
        (run / "settings.json").write_text(json.dumps(saved | {"command": command}))
        model = tmp_path / str(len(command))
        export(ExportSettings(checkpoint=run, folder=model))
        card = (model / "README.md").read_text()
        assert "--seed 1\n" in card
        assert str(run.parent.parent) not in card
        assert "/home/me" not in card


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 3}', "[" * 100_000])
def test_settings_that_say_nothing_are_refused(run: Path, saved: Any, content: str) -> None:
    (run / "settings.json").write_text(content)
    with pytest.raises(DataError, match="where the weights come from is not known"):
        trace_origin(run / "checkpoints" / "step-00000001")


def test_passes_are_those_up_to_the_checkpoint_without_what_another_run_had_read(tmp_path: Path) -> None:
    def save(name: str, tokens: int, order: dict[str, Any]) -> Path:
        (tmp_path / name / "training_state").mkdir(parents=True)
        progress = {"step": 1, "tokens_seen": tokens, "order": order, "grad_scaler": {}}
        (tmp_path / name / "training_state" / "progress.json").write_text(json.dumps(progress))
        (tmp_path / name / "COMPLETE").touch()
        return tmp_path / name

    def describe(**tokens: int) -> Any:
        return SimpleNamespace(sources=[SimpleNamespace(name=k, train_tokens=v) for k, v in tokens.items()])

    ours, notes = tmp_path / "ours", tmp_path / "notes"
    corpora = {ours: describe(pmc=100, pile=300), notes: describe(pmc=100)}
    mixture = {"ours/pmc": 1.0, "pile": 0.5, "notes/pmc": 2.5}  # an epoch is 100 + 150 + 250 tokens
    later, earlier = save("later", 150, {"mixture": mixture}), save("earlier", 50, {"mixture": mixture})
    wanted = {(ours, "pmc"): 0.3, (ours, "pile"): 0.15, (notes, "pmc"): 0.75}
    assert count_passes(corpora, later, None) == pytest.approx(wanted)
    assert count_passes(corpora, later, earlier) == pytest.approx({k: v * 2 / 3 for k, v in wanted.items()})
    assert count_passes(corpora, tmp_path / "gone", None) == {}
    for number, order in enumerate(
        ({}, {"mixture": 3}, {"mixture": {"pile": []}}, {"mixture": {"pile": "nan"}})
    ):
        assert count_passes(corpora, save(f"odd{number}", 9, order), None) == {}


def test_the_folder_may_be_the_empty_one_at_hand(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    report = export(ExportSettings(checkpoint=run, folder=Path(".")))
    assert report.folder == folder
    assert (folder / "README.md").read_text().count("# here\n") == 1


def test_a_model_that_merely_lies_in_a_folder_called_checkpoints_is_no_run(tmp_path: Path) -> None:
    model = tmp_path / "checkpoints" / "llama"
    model.mkdir(parents=True)
    (tmp_path / "settings.json").write_text("{}")
    assert trace_origin(model).stages == ()


@pytest.mark.parametrize("source", ["", "./gone", "/nowhere/model", "a/b/c", "no name"])
def test_a_base_model_that_is_gone_has_no_licence(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "LICENSE").write_text("of what happens to be at hand")
    monkeypatch.chdir(tmp_path)
    base = read_base(source)
    assert (base.licence, dict(base.notices)) == (None, {})


def test_links_out_of_a_model_bring_nothing_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret, model, out = tmp_path / "secret", tmp_path / "model", tmp_path / "out"
    secret.write_text("password")
    for folder in (model, out):
        folder.mkdir()
    (model / "LICENSE").symlink_to(secret)
    (model / "tokenizer.model").symlink_to(secret)
    (model / "NOTICE").write_text("ours")
    for name in ("vocab.json", "merges.txt", "chat_template.jinja"):
        (model / name).write_text("{}")
    for name in (
        "pytorch_model.bin",
        "modeling_own.py",
        "install.sh",
        "kernel.so",
        "model.gguf",
        "config.json",
    ):
        (model / name).write_text("import os")
    with caplog.at_level(logging.WARNING):
        assert read_base(str(model)).notices == {"NOTICE": b"ours"}
    assert "is a link out of its folder" in caplog.text
    copy_tokenizer(model, out)
    assert [path.name for path in sorted(out.iterdir())] == [
        "chat_template.jinja",
        "merges.txt",
        "vocab.json",
    ]


def test_cards_that_are_links_or_huge_are_not_passed_on(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, corpus = tmp_path / "secret", write_corpus(tmp_path / "corpus", read_sample(12))
    secret.write_text("password")
    (corpus / "DATA_CARD.md").write_text("of the corpus")
    checkpoint = shutil.copytree(run, tmp_path / "foreign") / "checkpoints" / "step-00000001"
    settings = checkpoint.parent.parent / "settings.json"
    saved = json.loads(settings.read_text())
    saved["settings"]["corpus"] = str(corpus)
    settings.write_text(json.dumps(saved))
    assert sorted(name_cards(trace_origin(checkpoint)).values()) == ["DATA_CARD.md", "TUNING_CARD.md"]
    for card in (checkpoint / "README.md", corpus / "DATA_CARD.md"):
        card.unlink()
        card.symlink_to(secret)
    assert not name_cards(trace_origin(checkpoint))
    assert caplog.text.count("is a link out of its folder") == 2
    (checkpoint / "README.md").unlink()
    (checkpoint / "README.md").write_text("x" * 2**21)
    assert not name_cards(trace_origin(checkpoint))


def test_notices_in_the_hub_s_cache_are_links_and_count(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("terms")
    (snapshot / "LICENSE").symlink_to("../../blobs/1")
    assert read_base(str(snapshot)).notices == {"LICENSE": b"terms"}


def test_hostile_model_cards_say_nothing_and_fill_no_memory(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for text in (f"---\n{bomb}license: *i\n---\n", f"---\nlicense: {'[' * 5000}\n---\n", "x" * 2**21):
        card.write_text(text)
        assert read_licence(card) is None
    card.write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    assert read_licence(card) == "mit, apache-2.0"

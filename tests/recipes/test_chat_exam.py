"""`chat --mc`: what a script is told of a multiple-choice question."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_llama import TinyModel, build_tiny_model

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.recipes.chat import chat
from biomedllama_cli.recipes.chat_exam import ExamReport
from biomedllama_cli.recipes.chat_report import ChatPlan
from biomedllama_cli.settings.chat import ChatSettings

QUESTION = "Which rusts? | tin | iron | gold | Answer: B"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build_tiny_model(tmp_path_factory.mktemp("exam"), adds_bos=False)


def ask(model: Path, **more: object) -> ExamReport:
    questions = {"mc": more.pop("mc", QUESTION)}
    report = chat(ChatSettings.model_validate({"model": str(model), "questions": questions, **more}))
    assert isinstance(report, ExamReport)
    return report


def test_the_report_holds_what_its_lines_show(tiny: TinyModel) -> None:
    report = ask(tiny.folder)
    (answer,) = json.loads(json.dumps(report.model_dump(mode="json")))["answers"]
    assert answer["options"] == ["tin", "iron", "gold"]
    assert answer["answer_index"] == 1
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert f"{answer['probabilities'][1]:.3f}" in "\n".join(report.lines())


def test_two_models_stand_under_their_names(tiny: TinyModel) -> None:
    lines = ask(tiny.folder, compare=str(tiny.folder)).lines()
    assert lines.count(f"{tiny.folder}:") == 2


def test_another_profile_is_asked_with_its_own_words(tiny: TinyModel) -> None:
    (answer,) = ask(tiny.folder, exam={"profile": "instructed"}).answers
    assert answer["profile"].startswith("instructed/")
    assert "tin" in answer["prompt"]


def test_a_question_without_options_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="option"):
        ask(tmp_path, mc="Which rusts?")


@pytest.mark.parametrize(("profile", "reason"), [("harness", "lm-eval"), ("cot", "chains of thought")])
def test_a_profile_without_scores_is_refused_before_a_model_is_loaded(
    tmp_path: Path, profile: str, reason: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=reason):
        ask(tmp_path, exam={"profile": profile})


def test_the_exam_needs_no_chat_template(tiny: TinyModel, tmp_path: Path) -> None:
    """Neither one that works nor one that was asked for."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder, folder)
    (folder / "chat_template.jinja").write_text("{% for %}")
    wanted = ask(tiny.folder).answers
    assert ask(folder).answers == wanted
    assert ask(tiny.folder, style={"template": "chat"}).answers == wanted


def test_a_dry_run_names_the_question(tiny: TinyModel) -> None:
    settings = ChatSettings.model_validate({"model": str(tiny.folder), "questions": {"mc": QUESTION}})
    plan = chat(settings, dry_run=True)
    assert isinstance(plan, ChatPlan)
    assert plan.asks == "one multiple-choice question: Which rusts?"


def test_only_one_thing_is_asked() -> None:
    with pytest.raises(ValueError, match="prompt and mc are given at once"):
        ChatSettings.model_validate({"questions": {"prompt": "a", "mc": "b"}})

"""`chat` with one question: what the answer tells, side by side, with sources, and from one process to the next."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from retrieval_corpora import make_corpus

from biomedllama_cli.chat.conversation import Reply
from biomedllama_cli.cli.app import run
from biomedllama_cli.recipes import chat_once
from biomedllama_cli.recipes.chat import chat
from biomedllama_cli.recipes.chat_report import ChatReport
from biomedllama_cli.settings.chat import ChatSettings

QUESTION = "Does cress hear what is hummed to it?"
PAPER = """<PubmedArticleSet><PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">71</PMID><Article>
<ArticleTitle>{title}</ArticleTitle><Abstract><AbstractText>{text}</AbstractText></Abstract>
<Language>eng</Language></Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_models: Any) -> Path:
    """A corpus of one made-up abstract."""
    folder = tmp_path_factory.mktemp("shelf")
    text = "Cress that was hummed to for an hour a day grew no taller than cress that stood in silence."
    (folder / "papers").mkdir()
    (folder / "papers" / "one.xml").write_text(PAPER.format(title="Cress and humming.", text=text))
    return make_corpus(folder, tiny_models.plain, source=("pubmed",), input=(str(folder / "papers"),))


def ask(model: Path | str, question: str = QUESTION, **settings: Any) -> ChatReport:
    content: dict[str, Any] = {
        "model": str(model),
        "compute": {"device": "cpu"},
        "reply": {"max_new_tokens": 6, "temperature": 1.0},
        "questions": {"prompt": question},
    }
    content |= settings
    report = chat(ChatSettings.model_validate(content))
    assert isinstance(report, ChatReport)
    return report


def test_the_answer_comes_with_all_that_is_known_of_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["chat", "--model", str(model), "--prompt", QUESTION, "--max-new-tokens", "6", "--json"]
    assert run([*line, "--device", "cpu", "--seed", "9"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [
        *(
            "schema_version",
            "model",
            "other",
            "style",
            "seed",
            "noise_seed",
            "settings",
            "question",
            "prompt",
        ),
        *("replies", "sources"),
    ]
    assert (told["schema_version"], told["style"], told["seed"]) == ("biomedllama.chat/1", "completion", 9)
    assert told["question"] == told["prompt"] == QUESTION
    assert told["other"] is told["sources"] is None
    assert told["settings"]["max_new_tokens"] == 6
    (reply,) = told["replies"]
    assert reply["model"] == told["model"]["source"] == str(model)
    assert (reply["new_tokens"], reply["finish"], reply["dropped_turns"]) == (6, "length", 0)
    assert reply["seconds"] >= reply["seconds_to_first_token"] > 0
    assert len(told["model"]["weights_sha256"]) == 64
    assert told["model"]["parameters"] == 43168


def test_people_get_the_answer_alone_and_the_log_says_why_it_ended(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = ask(model)
    assert f"{model}: the reply was cut at its longest (--max-new-tokens)" in caplog.text
    assert "\n".join(report.lines()) in (report.replies[0].answer, report.replies[0].answer.rstrip("\n"))


def test_the_chat_template_stands_around_the_question(chat_model: Path, model: Path) -> None:
    plain, templated = ask(model), ask(chat_model, style={"system": "Be brief."})
    assert (plain.style, templated.style) == ("completion", "chat")
    assert templated.replies[0].prompt_tokens > plain.replies[0].prompt_tokens + len("Be brief.") / 4


def test_both_models_answer_from_the_same_seed(tiny_models: Any) -> None:
    """A model beside itself says the same, sampled; another model does not, and says what it says alone."""
    twice = ask(tiny_models.plain, compare=str(tiny_models.plain))
    assert twice.replies[0].answer == twice.replies[1].answer
    both = ask(tiny_models.plain, compare=str(tiny_models.other))
    assert both.other is not None
    assert both.other["source"] == both.replies[1].model == str(tiny_models.other)
    assert both.replies[0].answer == twice.replies[0].answer != both.replies[1].answer
    assert both.replies[1].answer == ask(tiny_models.other).replies[0].answer
    named = [line for line in both.lines() if line.endswith(":")]
    assert named == [f"{tiny_models.plain}:", f"{tiny_models.other}:"]


def test_a_seed_gives_the_same_answer_in_another_process(
    model: Path, repository: Path, tmp_path: Path
) -> None:
    here = [ask(model, seed=seed).replies[0].answer for seed in (5, 5, 6)]
    assert here[0] == here[1] != here[2]
    line = [sys.executable, "-m", "biomedllama_cli", "chat", "--model", str(model), "--seed", "5", "--json"]
    line += ["--device", "cpu", "--max-new-tokens", "6", "--temperature", "1.0"]
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        line, input=QUESTION + "\n", capture_output=True, text=True, env=environment, check=True, cwd=tmp_path
    )
    assert json.loads(done.stdout)["replies"][0]["answer"] == here[0]
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_stands_in_the_prompt_and_under_the_answer(model: Path, shelf: Path) -> None:
    report = ask(model, sources={"corpus": shelf, "passages": 1, "passage_words": 40})
    assert report.sources is not None
    (source,) = report.sources
    assert (source.number, source.pmid, source.title) == (1, 71, "Cress and humming.")
    assert "[1] PMID 71 · Cress and humming." in report.prompt
    assert report.prompt.endswith(f"Question: {QUESTION}")
    assert report.question == QUESTION
    assert report.lines()[-2:] == ["Sources:", f"[1] {source.citation}"]
    assert "Cress that was hummed to" in source.text


def test_a_question_that_no_passage_knows_goes_without(model: Path, shelf: Path) -> None:
    report = ask(model, "Zzyzx?", sources={"corpus": shelf, "passage_words": 20})
    assert (report.sources, report.prompt) == ((), "Zzyzx?")
    assert report.lines()[-1] == "No passage of the corpus holds a word of the question."
    assert not any("passage" in line for line in ask(model, "Zzyzx?").lines())


def test_a_saved_conversation_goes_on(
    chat_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "talks.jsonl"
    ask(chat_model, "What is cress?", transcript={"save": file})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with caplog.at_level(logging.INFO):
        second = ask(chat_model, "And moss?", transcript={"save": file, "load": file})
    assert "another model" not in caplog.text
    assert second.question == second.prompt == "And moss?"
    (line,) = [json.loads(text) for text in file.read_text().splitlines()]
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"] * 2
    assert [each["question"] for each in line["exchanges"]] == ["What is cress?", "And moss?"]
    alone = ask(chat_model, "And moss?")
    assert second.replies[0].prompt_tokens > alone.replies[0].prompt_tokens + 6
    assert second.noise_seed != alone.noise_seed


def test_a_conversation_that_is_only_loaded_stays_and_gives_the_same_answer_again(
    chat_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "talks.jsonl"
    ask(chat_model, "What is cress?", transcript={"save": file})
    before = file.read_bytes()
    answers = {ask(chat_model, "And moss?", transcript={"load": file}).replies[0].answer for _ in range(2)}
    assert len(answers) == 1
    assert file.read_bytes() == before


def test_turns_that_have_no_room_are_told_of(
    chat_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "talks.jsonl"
    for number in range(2):
        load = {"load": file} if number else {}
        ask(chat_model, "What is cress? " * 8, transcript={"save": file, **load})
    short = {"device": "cpu", "context_length": 100}
    report = ask(chat_model, "And moss?", transcript={"load": file}, compute=short)
    dropped = report.replies[0].dropped_turns
    assert dropped > 0
    assert f"{chat_model}: the context has no room for the oldest {dropped} turns, left out" in caplog.text
    caplog.clear()
    ask(chat_model, "And moss?", transcript={"load": file})
    assert "no room" not in caplog.text


def test_another_models_conversation_is_told_of(
    tiny_models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "talks.jsonl"
    ask(tiny_models.plain, transcript={"save": file})
    with caplog.at_level(logging.INFO):
        ask(tiny_models.other, transcript={"load": file})
    assert "The replies so far are those of another model" in caplog.text
    assert str(tiny_models.plain) in caplog.text


def test_the_log_says_how_a_model_is_spoken_to(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask(model)
    assert f"{model} is given bare text" in caplog.text
    assert QUESTION not in caplog.text


def test_an_empty_reply_that_cannot_be_saved_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chat_once, "_answer", lambda *_: Reply("", "end", 5, 0, 1))
    file = tmp_path / "talks.jsonl"
    with caplog.at_level(logging.WARNING):
        ask(model, transcript={"save": file})
    assert not file.exists()
    assert f"the reply is empty, so there is no conversation to save: {file} is not written" in caplog.text

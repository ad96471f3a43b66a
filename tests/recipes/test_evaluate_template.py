"""`evaluate --template`: a model is asked as it was taught, and as published where nothing says how that was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from evaluation_runs import cell_of, read_samples, run, write_medqa

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.cells import CellFacts
from biomedllama_cli.evaluation.comparison import compare
from biomedllama_cli.evaluation.generation import HuggingFaceGenerator
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer
from biomedllama_cli.models.tuning_facts import TuningOrigin, write_tuning_facts
from biomedllama_cli.settings.evaluate import EvaluateSettings

CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture
def chat_model(tmp_path, model) -> Path:
    """A model that brings a chat template."""
    folder = tmp_path / "chat-model"
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def ask(folder, model, profile="instructed", **options):
    """Return the cell and the generated texts."""
    folder.mkdir(exist_ok=True)
    data = [f"medqa={write_medqa(folder / 'test.jsonl', 3)}"]
    few = {"max_new_tokens": 6, "chains": 2}
    report = run(folder, model, task=["medqa"], data=data, profile=[profile], generation=few, **options)
    texts = [sample["texts"] for sample in read_samples(folder, "medqa", profile)]
    return cell_of(report, "medqa", profile), texts


def test_a_template_alone_changes_nothing(tmp_path, model, chat_model):
    bare = ask(tmp_path / "bare", model)
    auto = ask(tmp_path / "auto", chat_model)
    plain = ask(tmp_path / "plain", chat_model, template="plain")
    assert bare[1] == auto[1] == plain[1]
    assert [cell.facts.generation["template"] for cell, _ in (bare, auto, plain)] == ["plain"] * 3


@pytest.mark.parametrize("profile", ["instructed", "cot", "finetuned"])
def test_a_checkpoint_tuned_with_its_template_is_asked_in_it(tmp_path, chat_model, profile):
    asked = ask(tmp_path / "asked", chat_model, profile, template="chat")
    plain = ask(tmp_path / "plain", chat_model, profile)
    write_tuning_facts(chat_model, TuningOrigin("chat", "all-turns", "base"))
    tuned = ask(tmp_path / "tuned", chat_model, profile)
    assert tuned[0].facts.generation["template"] == "chat"
    assert tuned[1] == asked[1] != plain[1]


def test_a_checkpoint_tuned_on_plain_text_is_asked_in_plain_text(tmp_path, chat_model):
    write_tuning_facts(chat_model, TuningOrigin("plain", "all-turns", "base"))
    cell, _ = ask(tmp_path / "out", chat_model)
    assert cell.facts.generation["template"] == "plain"
    cell, _ = ask(tmp_path / "asked", chat_model, template="chat")
    assert cell.facts.generation["template"] == "chat"


def test_the_opening_bracket_is_no_part_of_a_turn(tmp_path, chat_model, monkeypatch):
    """The published prompt ends in `### Answer:(`; what was taught in a template is a turn that begins with it."""
    seen: list[str] = []

    def record(self, prompts, rule, *_, **__):
        seen.extend(rule.show(prompt) for prompt in prompts)
        yield from ((number, "(A) yes") for number in range(len(prompts)))

    monkeypatch.setattr(HuggingFaceGenerator, "generate", record)
    ask(tmp_path / "chat", chat_model, template="chat")
    ask(tmp_path / "plain", chat_model)
    assert len(seen) == 6
    assert all(text.endswith("### Answer:</s>\n<s>assistant\n") for text in seen[:3])
    assert all(text.endswith("### Answer:(") for text in seen[3:])


def test_a_model_without_template_is_refused_before_anything_is_scored(tmp_path, model, monkeypatch):
    monkeypatch.setattr(SharedPrefixScorer, "score", lambda *_, **__: pytest.fail("something was scored"))
    with pytest.raises(SettingsError, match="has no chat template"):
        ask(tmp_path / "out", model, template="chat")


def test_a_template_that_takes_no_question_is_refused(tmp_path, chat_model, monkeypatch):
    (chat_model / "chat_template.jinja").write_text("{{ raise_exception('no users') }}")
    monkeypatch.setattr(SharedPrefixScorer, "score", lambda *_, **__: pytest.fail("something was scored"))
    with pytest.raises(DataError, match="no users"):
        ask(tmp_path / "out", chat_model, template="chat")


def test_plain_and_chat_are_not_compared(tmp_path, chat_model):
    ask(tmp_path / "plain", chat_model)
    ask(tmp_path / "chat", chat_model, template="chat")
    with pytest.raises(SettingsError, match=r"generation\.template is 'plain'") as caught:
        compare([tmp_path / "plain" / "out", tmp_path / "chat" / "out"])
    assert caught.value.hint == "Evaluate both with the same --template."


def test_a_published_row_is_asked_as_published(tmp_path, chat_model):
    row = {"reproduce": "BioMed-LLaMA-7B instructed"}
    with pytest.raises(
        SettingsError, match=r"protocol\.template is chat, but reproduce runs a published row"
    ):
        run(tmp_path, chat_model, dry_run=True, template="chat", **row)


def test_results_from_before_templates_count_as_plain():
    generation = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "chains": 1, "backend": "hf"}
    assert CellFacts.model_validate(
        {
            "prompt": {},
            "bos": "none",
            "context_length": 1,
            "shots": 0,
            "draw_rule": None,
            "draws_sha256": "",
            "items_sha256": "",
            "pool_sha256": None,
            "source": {"kind": "file", "location": "x", "rows": 1, "sha256": None},
            "pool_source": None,
            "generation": generation,
        }
    ).generation == {**generation, "template": "plain"}
    assert EvaluateSettings().protocol.template == "auto"

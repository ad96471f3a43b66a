"""`chat --file` started again: what is answered already, what is not, and what must not be replaced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from chat_file_runs import build_settings, run
from gguf_writing import write_gguf
from tiny_llama import TinyModel, build_tiny_model

from biomedllama_cli.chat.answers_file import load_facts, name_facts_file
from biomedllama_cli.errors import OutputError, Resumable
from biomedllama_cli.evaluation.journal import Journal
from biomedllama_cli.evaluation.refilling import RefilledBatch
from biomedllama_cli.recipes.chat_file import find_answers
from biomedllama_cli.recipes.chat_file_run import FileRun


def test_a_finished_run_answers_again_without_loading_or_writing(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output)
    first = run(settings)
    before = {path: path.stat().st_mtime_ns for path in (output, name_facts_file(output))}
    monkeypatch.setattr(RefilledBatch, "run", lambda *_: pytest.fail("something was answered"))
    again = find_answers(settings, [settings.model], None)
    assert again is not None
    assert (again.found, again.counts, again.tokens_per_second) == (14, first.counts, None)
    assert run(settings) == again
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"reply": {"temperature": 0.0}}, {"style": {"system": "Be brief."}}]
)
def test_answers_of_another_run_are_replaced_only_where_that_is_asked_for(
    tmp_path: Path, chatty: TinyModel, questions: Path, changes: dict[str, Any]
) -> None:
    output = tmp_path / "answers.jsonl"
    run(build_settings(chatty, questions, output))
    before = output.read_bytes()
    other = build_settings(chatty, questions, output, **changes)
    with pytest.raises(OutputError, match="holds the answers of another run") as error:
        find_answers(other, [other.model], None)
    assert "--overwrite" in error.value.hint
    assert output.read_bytes() == before
    run(other.model_copy(update={"overwrite": True}))
    assert output.read_bytes() != before


def test_answers_questions_or_a_model_that_changed_are_not_taken_for_finished(
    tmp_path: Path, chatty: TinyModel, questions: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output)
    run(settings)
    other = build_tiny_model(tmp_path / "other", adds_bos=False, seed=9)
    for change in (
        lambda: output.write_text(output.read_text() + "\n"),
        lambda: questions.write_text(questions.read_text() + '{"question": "One more?"}\n'),
    ):
        change()
        with pytest.raises(OutputError, match="holds the answers of another run"):
            find_answers(settings, [settings.model], None)
        run(settings.model_copy(update={"overwrite": True}))
        assert find_answers(settings, [settings.model], None) is not None
    (other.folder / "model.safetensors").replace(chatty.folder / "model.safetensors.new")
    try:
        (chatty.folder / "model.safetensors").rename(chatty.folder / "kept")
        (chatty.folder / "model.safetensors.new").rename(chatty.folder / "model.safetensors")
        with pytest.raises(OutputError, match="holds the answers of another run"):
            find_answers(settings, [settings.model], None)
    finally:
        (chatty.folder / "kept").replace(chatty.folder / "model.safetensors")


SAYS_LESS = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
SAYS_MORE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", SAYS_MORE),
        ("generation_config.json", '{"eos_token_id": 7}'),
        ("config.json", None),
        ("tokenizer_config.json", None),
    ],
)
def test_a_model_that_is_spoken_to_in_another_way_has_not_answered_yet(
    tmp_path: Path, questions: Path, name: str, content: str | None
) -> None:
    model = build_tiny_model(tmp_path / "model", adds_bos=False, seed=3)
    (model.folder / "chat_template.jinja").write_text(SAYS_LESS)
    settings = build_settings(model, questions, tmp_path / "answers.jsonl")
    run(settings)
    assert find_answers(settings, [settings.model], None) is not None
    file = model.folder / name
    file.write_text(file.read_text() + "\n" if content is None else content)
    with pytest.raises(OutputError, match="holds the answers of another run"):
        find_answers(settings, [settings.model], None)


def test_a_run_that_was_stopped_does_not_go_on_with_another_chat_template(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny_model(tmp_path / "model", adds_bos=False, seed=3)
    settings = build_settings(model, questions, tmp_path / "out" / "answers.jsonl")
    append, left = Journal.append, iter((True, True, False))

    def stop(self: Journal, *arguments: Any) -> None:
        append(self, *arguments)
        if not next(left):
            raise Resumable("stopped")

    template = model.folder / "chat_template.jinja"
    template.write_text(SAYS_LESS)
    monkeypatch.setattr(Journal, "append", stop)
    with pytest.raises(Resumable):
        run(settings)
    monkeypatch.setattr(Journal, "append", append)
    template.write_text(SAYS_MORE)
    assert run(settings).found == 0


def test_a_gguf_file_that_was_replaced_has_not_answered_yet(tmp_path: Path, questions: Path) -> None:
    file = tmp_path / "model.gguf"
    models = [build_tiny_model(tmp_path / str(seed), adds_bos=True, seed=seed) for seed in (3, 9)]
    settings = build_settings(models[0], questions, tmp_path / "answers.jsonl")
    settings = settings.model_copy(update={"model": str(file)})
    write_gguf(models[0].folder, file)
    run(settings)
    assert find_answers(settings, [settings.model], None) is not None
    file.unlink()
    write_gguf(models[1].folder, file)
    with pytest.raises(OutputError, match="holds the answers of another run"):
        find_answers(settings, [settings.model], None)


def test_questions_that_are_changed_while_they_are_answered_are_not_taken_for_answered(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output)
    asked, answer = questions.read_bytes(), FileRun.answer

    def change(self: FileRun) -> None:
        answer(self)
        questions.write_text('{"question": "Another one?"}\n')

    monkeypatch.setattr(FileRun, "answer", change)
    run(settings)
    facts = load_facts(output)
    assert facts is not None
    assert facts.questions.sha256 == hashlib.sha256(asked).hexdigest()
    with pytest.raises(OutputError, match="holds the answers of another run"):
        find_answers(settings, [settings.model], None)
    questions.write_bytes(asked)
    assert find_answers(settings, [settings.model], None) is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda facts: facts | {"schema_version": "biomedllama.answers/2"}, "schema_version is 'biomed"),
        (lambda facts: facts | {"questions": {}}, "questions.path is missing"),
        (lambda facts: facts | {"asked": {}}, "asked.seed is missing"),
        (lambda facts: facts | {"models": []}, "models is"),
        (lambda facts: facts | {"counts": [{"finish": "all"}]}, "counts.0.finish is 'all'"),
        (lambda _: {"recipe": "bread"}, "created is missing"),
        (lambda _: 7, "it is no object of JSON"),
    ],
)
def test_facts_that_this_version_did_not_write_are_told_and_kept(
    tmp_path: Path, chatty: TinyModel, questions: Path, change: Any, told: str
) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output, reply={"max_new_tokens": 2})
    run(settings)
    file = name_facts_file(output)
    changed = json.dumps(change(json.loads(file.read_text())))
    for holds in (True, False):
        file.write_text(changed)
        with pytest.raises(
            OutputError, match=r"answers\.jsonl\.run\.json.* holds something else: .*"
        ) as error:
            run(settings)
        assert told in error.value.message
        assert "--overwrite" in error.value.hint
        assert file.read_text() == changed
        if holds:
            output.unlink()
    run(settings.model_copy(update={"overwrite": True}))
    assert find_answers(settings, [settings.model], None) is not None


def test_the_file_of_questions_is_no_file_of_facts(tmp_path: Path, chatty: TinyModel) -> None:
    questions = tmp_path / "a.jsonl.run.json"
    questions.write_text('{"question": "Which metal?"}\n')
    settings = build_settings(chatty, questions, tmp_path / "a.jsonl", overwrite=True)
    with pytest.raises(OutputError, match="is the file of the questions itself"):
        run(settings)


def test_facts_name_no_folder_to_remove(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output)
    run(settings)
    (tmp_path / "precious").mkdir()
    facts = load_facts(output)
    assert facts is not None
    for name in ("precious", "../precious", ".."):
        changed = facts.model_copy(update={"work": name})
        name_facts_file(output).write_text(changed.model_dump_json())
        assert find_answers(settings, [settings.model], None) is not None
    assert (tmp_path / "precious").is_dir()

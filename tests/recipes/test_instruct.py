"""`instruct` on made-up sources: what is drawn, learnt, and said of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from tuning_runs import (
    RIGHT,
    list_files,
    make_question,
    read_losses,
    run_instruct,
    write_lines,
    write_questions,
)

from biomedllama_cli.errors import OutputError, SettingsError

COUNTS = {"exams": 60, "talks": 30, "tasks": 5}
SHARES = {"exams": 0.6 / 1.4, "talks": 0.6 / 1.4, "tasks": 0.2 / 1.4}


class Instructed:
    """A run with the model's chat template."""

    def __init__(self, folder: Path, model: Path, mixture: Path) -> None:
        self.folder, self.model, self.mixture = folder, model, mixture
        self.report = self.run()

    def run(self, **changes: Any) -> Any:
        duration = {"max_steps": None, "epochs": 1.5}
        return run_instruct(
            self.folder, self.model, self.mixture, draw={"draws": 120}, duration=duration, **changes
        )


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory, chat_model: Path, mixture: Path) -> Instructed:
    return Instructed(tmp_path_factory.mktemp("instructed"), chat_model, mixture)


def test_a_mixture_is_learnt(instructed: Instructed) -> None:
    losses = read_losses(instructed.report)
    assert len(losses) == math.ceil(180 / 8)
    assert sum(losses[-4:]) < sum(losses[:4]) / 2
    checkpoint = instructed.report.runs[0].checkpoint
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == len(
        AutoTokenizer.from_pretrained(checkpoint)
    )
    assert instructed.report.lines()[-1] == (
        f"Next: biomedllama evaluate --model {checkpoint} --profile instructed --task medqa"
    )


def test_the_next_command_can_be_typed_and_reads_rows_whole(
    tmp_path: Path, model: Path, mixture: Path
) -> None:
    planned = run_instruct(tmp_path, model, mixture, dry_run=True)
    run = planned.runs[0].model_copy(update={"checkpoint": Path("my runs/step-1")})
    done = planned.model_copy(update={"dry_run": False, "sequence_length": 4096, "runs": (run,)})
    assert done.lines()[-1] == (
        "Next: biomedllama evaluate --model 'my runs/step-1' --profile instructed --context-length 4096 --task medqa"
    )


def test_epochs_may_be_drawn_in_part_and_parts_without_examples_are_refused(
    tmp_path: Path, model: Path, mixture: Path
) -> None:
    report = run_instruct(tmp_path, model, mixture, dry_run=True, duration={"epochs": 1.5, "max_steps": None})
    assert (report.mixture.rows, report.mixture.epochs, report.mixture.draws) == (60, 1.5, 40)
    text = mixture.read_text().replace("path: ", f"path: {mixture.parent}/")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("weight: 2,", "weight: 2, part_weights: {none: 1},"))
    with pytest.raises(SettingsError, match="source talks: `part_weights` names 'none'"):
        run_instruct(tmp_path, model, wrong, dry_run=True)


def test_the_manifest_says_what_was_drawn(instructed: Instructed) -> None:
    content = json.loads((instructed.report.runs[0].run_folder / "mixture.json").read_text())
    assert content == instructed.report.mixture.model_dump(mode="json")
    sources = {source["name"]: source for source in content["sources"]}
    assert {name: source["examples"] for name, source in sources.items()} == COUNTS
    assert sum(source["draws"] for source in sources.values()) == content["rows"] == 180
    assert sources["talks"]["licence"] == "CC BY-NC 4.0"
    assert sources["tasks"]["substitute"] == "made-up tasks for real ones"
    assert [sources[name]["redistributable"] for name in COUNTS] == [True, False, True]
    assert all(len(source["sha256"]) == 64 for source in sources.values())
    assert sum(source["target_tokens"] for source in sources.values()) == (
        instructed.report.runs[0].target_tokens_seen
    )
    assert (content["strictest_licence"], content["redistributable"]) == ("CC BY-NC", False)
    text = "\n".join(instructed.report.lines())
    assert "Substitute: tasks: made-up tasks for real ones" in text
    assert "Strictest licence: CC BY-NC" in text
    data = instructed.report.data
    # Of the 8 tasks 5 are within the cap.
    assert (data.rows, data.row_target_tokens, data.examples) == (180, content["target_tokens"], 95)
    share = data.row_target_tokens / data.row_tokens
    assert (
        f"180 rows drawn of 95 examples ({data.row_tokens:,} tokens in all rows, {share:.1%} of them targets), "
        "0 held out"
    ) in text
    assert data.row_tokens > data.tokens > data.target_tokens
    assert "\nBenchmark questions were not looked for among the examples.\n" in text


def test_the_checkpoint_carries_card_and_licence(instructed: Instructed) -> None:
    card = (instructed.report.runs[0].checkpoint / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc-by-nc-4.0"
    assert all(name in card for name in COUNTS)
    assert "\n# chat-model, tuned on the mixture ours\n" in card
    assert "\nBenchmark questions were not looked for among the examples.\n" in card


def test_realised_shares_are_the_weighted_ones(tmp_path: Path, model: Path, mixture: Path) -> None:
    draws = 4000
    report = run_instruct(
        tmp_path,
        model,
        mixture,
        dry_run=True,
        draw={"draws": draws},
        duration={"max_steps": None, "epochs": 1},
    )
    assert list_files(tmp_path) == []
    assert (report.runs[0].status, report.runs[0].steps) == ("would train", 500)
    for source in report.mixture.sources:
        share = SHARES[source.name]
        assert abs(source.draws - draws * share) < 4 * math.sqrt(draws * share * (1 - share))
        assert source.expected_share == pytest.approx(share)
        assert source.unique_examples == COUNTS[source.name]
        assert source.passes == pytest.approx(source.draws / COUNTS[source.name])


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path, model: Path, mixture: Path) -> None:
    def draw(seed: int) -> Any:
        report = run_instruct(tmp_path, model, mixture, dry_run=True, seed=seed)
        return [source.draws for source in report.mixture.sources]

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(4)}) > 1


def test_the_same_command_does_not_train_again_and_another_is_refused(
    instructed: Instructed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomedllama_cli.recipes.instruct.tune", lambda *_: pytest.fail("it trained again"))
    assert instructed.run().runs[0].status == "already trained"
    before = list_files(instructed.folder)
    with pytest.raises(OutputError, match="seed was 0 and is 1") as caught:
        instructed.run(seed=1)
    assert "--overwrite" in caught.value.hint
    assert list_files(instructed.folder) == before


def test_another_run_replaces_one_only_when_asked(tmp_path: Path, model: Path, mixture: Path) -> None:
    first = run_instruct(tmp_path, model, mixture, duration={"max_steps": 1})
    other = run_instruct(tmp_path, model, mixture, duration={"max_steps": 2}, seed=1, overwrite=True)
    assert (first.runs[0].steps_done, other.runs[0].steps_done) == (1, 2)
    assert len(read_losses(other)) == 2


def test_missing_sources_are_left_out_when_asked(tmp_path: Path, model: Path, mixture: Path) -> None:
    more = tmp_path / "more.yaml"
    text = mixture.read_text().replace("path: ", f"path: {mixture.parent}/")
    more.write_text(text + "- {source: lost, format: alpaca, path: gone.json, how_to_get: ask the library}\n")
    report = run_instruct(tmp_path, model, more, dry_run=True, draw={"skip_missing": True})
    assert [source.name for source in report.mixture.sources] == list(COUNTS)
    assert sum(source.expected_share for source in report.mixture.sources) == pytest.approx(1)
    (line,) = [line for line in report.lines() if line.startswith("Left out")]
    assert "lost" in line


def test_a_source_takes_the_file_that_is_given(tmp_path: Path, model: Path, mixture: Path) -> None:
    file = write_questions(tmp_path / "other.jsonl", 7, seed=3)
    report = run_instruct(tmp_path, model, mixture, dry_run=True, draw={"source": (f"exams={file}",)})
    assert report.mixture.sources[0].examples == 7


def test_test_questions_are_taken_out_of_all_sources(tmp_path: Path, model: Path, mixture: Path) -> None:
    exam = make_question(3)
    options = dict(zip("ABCD", [*exam["options"], "ivory", "jade"], strict=True))
    record = {"question": exam["question"], "options": options, "answer": RIGHT, "answer_idx": "B"}
    test = write_lines(tmp_path / "test.jsonl", [record])
    report = run_instruct(
        tmp_path,
        model,
        mixture,
        decontamination={"decontaminate": "drop", "benchmark": (f"medqa={test}",)},
        duration={"max_steps": 1},
    )
    assert (report.data.dropped_contaminated, report.data.contaminated) == (1, {"medqa": 1})
    assert report.mixture.sources[0].examples == 59
    found = (report.runs[0].run_folder / "contamination.jsonl").read_text()
    assert json.loads(found)["documents"][0]["where"] == "exams q0-3"


@pytest.mark.parametrize(("train_on", "learnt"), [("all-turns", 2), ("last-turn", 1)])
def test_conversations_are_learnt_in_the_models_own_template(
    tmp_path: Path, chat_model: Path, mixture: Path, train_on: str, learnt: int
) -> None:
    talks = tmp_path / "talks.yaml"
    talks.write_text(f"sources: [{{source: talks, format: messages, path: {mixture.parent}/talks.jsonl}}]")
    report = run_instruct(tmp_path, chat_model, talks, rows={"train_on": train_on}, show_masks=2)
    assert report.template == "chat"
    assert list_files(tmp_path) == ["talks.yaml"]
    for row in report.rows:
        assert row["trained_text"] == ("Yes.</s>" if learnt == 2 else "") + "Quite so.</s>"
        text = AutoTokenizer.from_pretrained(chat_model).decode(row["token_ids"])
        assert text.startswith("<|user|>\nIs it ")


def test_the_view_of_masks_does_not_depend_on_the_terminal(
    tmp_path: Path, model: Path, mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    for columns in ("40", "170"):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("FORCE_COLOR", "1")
        reports.append(run_instruct(tmp_path, model, mixture, show_masks=3))
    assert reports[0].model_dump_json() == reports[1].model_dump_json()
    assert reports[0].lines() != reports[1].lines()
    assert "\x1b" not in reports[0].view
    assert "\x1b" in "\n".join(reports[0].lines())


def test_the_rows_that_are_shown_of_a_mixture_are_the_first_that_are_drawn(
    tmp_path: Path, model: Path, mixture: Path
) -> None:
    rows = run_instruct(tmp_path, model, mixture, show_masks=25).rows
    assert {row["source"] for row in rows} == set(COUNTS)
    assert [row["source"] for row in rows] != sorted(row["source"] for row in rows)  # the order of the file
    assert len({(row["source"], row["id"]) for row in rows}) == len(rows) == 25


def test_without_a_template_of_its_own_a_model_is_tuned_on_plain_text(
    tmp_path: Path, model: Path, mixture: Path
) -> None:
    assert run_instruct(tmp_path, model, mixture, show_masks=1).template == "plain"

"""The study of gains on PubMedQA: folds that share no question, contexts cut from the left, pieces run once."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest

LABELS = ("yes", "no", "maybe")


class WordTokenizer:
    """Words as ids, so that a cut can be counted."""

    def encode(self, text: str) -> list[int]:
        return [int(word.removeprefix("w")) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{number}" for number in ids)


@pytest.fixture
def study(repository: Path, monkeypatch):
    """The scripts import one another as they do when they are run."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import piece_inputs
    import pubmedqa_files
    import pubmedqa_gain

    return argparse.Namespace(files=pubmedqa_files, gain=pubmedqa_gain, inputs=piece_inputs)


def write_items(path: Path, pmids, words: int = 300) -> Path:
    content = {
        str(pmid): {
            "QUESTION": f"Is {pmid} so?",
            "CONTEXTS": [" ".join(f"w{number}" for number in range(words)), "w7"],
            "final_decision": LABELS[pmid % 3 if pmid % 10 else 0],
        }
        for pmid in pmids
    }
    path.write_text(json.dumps(content))
    return path


def test_folds_share_no_question_and_have_the_same_labels(study, tmp_path):
    source = write_items(tmp_path / "items.json", range(1, 61))
    folds = study.files.write_folds(source, tmp_path, WordTokenizer(), 4, None)
    tests = [json.loads(fold.test.read_text()) for fold in folds]
    assert sorted(pmid for test in tests for pmid in test) == sorted(map(str, range(1, 61)))
    for fold, test in zip(folds, tests, strict=True):
        train = json.loads(fold.train.read_text())
        assert not train.keys() & test.keys()
        assert len(train) + len(test) == 60
    counts = [Counter(item["final_decision"] for item in test.values()) for test in tests]
    assert all(max(one[label] for one in counts) - min(one[label] for one in counts) <= 1 for label in LABELS)


def test_folds_do_not_depend_on_the_order_of_the_file(study, tmp_path):
    texts = []
    for name, pmids in (("one", range(1, 31)), ("two", range(30, 0, -1))):
        folder = tmp_path / name
        folder.mkdir()
        folds = study.files.write_folds(
            write_items(folder / "items.json", pmids), folder, WordTokenizer(), 3, None
        )
        texts.append([fold.test.read_text() for fold in folds])
    assert texts[0] == texts[1]


def test_contexts_lose_their_left_end(study, tmp_path):
    source = write_items(tmp_path / "items.json", [1, 2], words=300)
    (fold, _) = study.files.write_folds(source, tmp_path, WordTokenizer(), 2, None)
    for item in json.loads(fold.test.read_text()).values():
        (context,) = item["CONTEXTS"]
        words = context.split()
        assert (len(words), words[0], words[-1]) == (256, "w45", "w7")


def test_a_finished_piece_is_run_again_only_with_other_arguments(study, tmp_path, monkeypatch):
    commands: list[tuple[str, ...]] = []

    def run(*arguments: str) -> dict[str, int]:
        commands.append(arguments)
        return {"number": len(commands)}

    monkeypatch.setattr(study.gain, "run_command", run)
    pieces = [study.gain.Study(tmp_path, argparse.Namespace()) for _ in range(3)]
    assert pieces[0].run("fold", "evaluate", "--limit", "2") == {"number": 1}
    assert pieces[1].run("fold", "evaluate", "--limit", "2") == {"number": 1}
    assert pieces[2].run("fold", "evaluate", "--limit", "3") == {"number": 2}
    assert len(commands) == 2
    assert commands[0][-3:] == ("--output-dir", str(tmp_path / "fold"), "--overwrite")
    assert pieces[1].minutes.keys() == {"fold"}


def test_a_finished_piece_is_run_again_when_what_it_reads_has_changed(study, tmp_path, monkeypatch):
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(study.gain, "run_command", lambda *arguments: commands.append(arguments) or {})
    questions, learnt = tmp_path / "fold-1-test.json", tmp_path / "learnt.json"
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(json.dumps({"name": "own", "sources": [{"source": "own", "path": str(learnt)}]}))

    def run() -> int:
        study.inputs._hash_model.cache_clear()  # every start of the study is a process of its own
        study.gain.Study(tmp_path, argparse.Namespace()).run(
            *("tune", "instruct", "--model", str(weights.parent), "--mixture", str(mixture)),
            *("--benchmark", f"pubmedqa={questions}", "--peak-learning-rate", "2e-4"),
        )
        return len(commands)

    for path in (questions, learnt, weights):
        path.write_text("one")
    assert (run(), run()) == (1, 1)
    for count, path in enumerate((questions, learnt, weights), start=2):
        path.write_text("two")
        assert (run(), run()) == (count, count), path
    weights.write_text("two")  # written once more with the same content
    (weights.parent / "optimizer.pt").write_text("of no weight")
    assert run() == 4

"""Questions that stand in a training corpus are found, by what `prepare` noted or in the corpus itself."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedllama_cli.corpus.decontamination.report import LOOKED_FOR_REPORT
from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.contamination import find_contaminated
from biomedllama_cli.models.tokenizer import train_tokenizer
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.settings.prepare import PrepareSettings
from biomedllama_cli.tasks.catalogue import TASKS, load_questions
from biomedllama_cli.tasks.question import Question

WORDS = (
    "cell",
    "blood",
    "heart",
    "liver",
    "dose",
    "trial",
    "patient",
    "group",
    "risk",
    "mean",
    "drug",
    "renal",
)
MakeCorpus = Callable[..., Path]

# Made up: nobody studied this.
PUBMEDQA = {
    "QUESTION": "Does humming to seedlings alter their chlorophyll?",
    "CONTEXTS": [
        "Forty trays of cress were hummed to for an hour each morning while forty stood in a silent room next door.",
        "Chlorophyll was extracted with ethanol after nine days and read at two wavelengths by a blinded assistant.",
    ],
    "final_decision": "no",
    "LONG_ANSWER": "Humming did not alter the chlorophyll of cress seedlings in this small and invented experiment.",
}


def make_text(seed: int, words: int = 60) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(words)) + "."


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([make_text(seed) for seed in range(30)], 300, folder, seed=0)
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path, vocabulary: Path) -> MakeCorpus:
    def make(*texts: str, **decontamination: Any) -> Path:
        """Return a corpus of the texts and of 20 others, none of them held out."""
        lines = [{"text": text} for text in [*(make_text(seed) for seed in range(100, 120)), *texts]]
        inputs = tmp_path / "input.jsonl"
        inputs.write_text("".join(json.dumps(line) + "\n" for line in lines))
        folder = tmp_path / "corpus"
        prepare(
            PrepareSettings.model_validate(
                {
                    "output_dir": folder,
                    "overwrite": True,
                    "source": {"input": (str(inputs),)},
                    "tokenization": {"tokenizer": str(vocabulary)},
                    "output": {"validation_fraction": 0.0},
                    "decontamination": decontamination,
                }
            )
        )
        return folder

    return make


@pytest.fixture(scope="module")
def sample() -> tuple[Question, ...]:
    return load_questions(TASKS["sample-questions"], shots=0).items


def write_pubmedqa(path: Path, *pmids: str) -> tuple[Question, ...]:
    path.write_text(json.dumps(dict.fromkeys(pmids, PUBMEDQA)))
    return load_questions(TASKS["pubmedqa"], shots=0, test_file=path).items


def test_planted_question_is_found_in_the_text_and_others_are_not(make_corpus, sample):
    planted = next(item for item in sample if len(item.question.split()) >= 13)
    told: list[int] = []
    folder = make_corpus(
        make_text(1)
        + f" I remember it well: {planted.question.upper()} {planted.answer} was right. "
        + make_text(2)
    )
    found = find_contaminated(folder, sample, "sample-questions", told.append)
    assert found.contaminated == (planted.id,)
    assert (found.listed, found.searched, found.documents) == (0, len(sample), 21)
    assert found.corpus == str(folder)
    assert found.manifest_sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    tokens = load_corpus(folder).manifest.tokens.train
    assert sum(told) == tokens
    assert "searched for in 21 training documents" in found.describe()
    assert find_contaminated(make_corpus(), sample, "sample-questions").contaminated == ()


def test_short_questions_are_listed_as_not_testable(make_corpus):
    short = Question("s", "Which vitamin prevents scurvy?", ("C", "D"), 0)
    found = find_contaminated(make_corpus(f"{short.question} C."), [short], "sample-questions")
    assert found.untestable == ("s",)
    assert found.contaminated == ()


def test_made_up_pubmedqa_item_is_found_by_its_passage_with_and_without_its_context(make_corpus, tmp_path):
    (item,) = write_pubmedqa(tmp_path / "ori_pqal.json", "99999999")
    other = replace(item, id="99999998", question="Else?", context=make_text(7), long_answer=make_text(8))
    folder = make_corpus(make_text(3) + " " + str(item.context) + " " + str(item.long_answer))
    assert find_contaminated(folder, [other, item], "pubmedqa").contaminated == (item.id,)
    bare = [replace(other, context=None), replace(item, context=None)]
    assert find_contaminated(folder, bare, "pubmedqa-no-context").contaminated == (item.id,)


@pytest.mark.parametrize(("mode", "contaminated"), [("drop", ()), ("report", ("99999999",))])
def test_what_prepare_looked_for_is_known_by_content_without_a_search(
    make_corpus, tmp_path, mode, contaminated
):
    benchmark = tmp_path / "ori_pqal.json"
    (item,) = write_pubmedqa(benchmark, "99999999")
    folder = make_corpus(
        f"{item.context} {item.long_answer}", benchmark=(f"pubmedqa={benchmark}",), decontaminate=mode
    )
    found = find_contaminated(folder, [item], "pubmedqa")
    assert (found.contaminated, found.listed, found.documents) == (contaminated, 1, 0)
    again = replace(item, question=" ".join(item.question.upper().split()))
    assert find_contaminated(folder, [again], "pubmedqa").listed == 1  # another spelling of the same item
    stranger = replace(item, question="Does whistling?", context=make_text(7), long_answer=make_text(8))
    mixed = find_contaminated(folder, [item, stranger], "pubmedqa")  # the same id, another item
    assert (mixed.listed, mixed.searched, mixed.contaminated) == (1, 1, contaminated)


def test_a_corpus_without_the_list_is_searched(make_corpus, tmp_path):
    benchmark = tmp_path / "ori_pqal.json"
    (item,) = write_pubmedqa(benchmark, "99999999")
    folder = make_corpus(str(item.context), benchmark=(f"pubmedqa={benchmark}",), decontaminate="report")
    (folder / LOOKED_FOR_REPORT).unlink()
    found = find_contaminated(folder, [item], "pubmedqa")
    assert (found.contaminated, found.listed, found.searched) == ((item.id,), 0, 1)


def test_pmid_of_a_training_document_is_enough(make_corpus, tmp_path):
    (item,) = write_pubmedqa(tmp_path / "ori_pqal.json", "99999999")
    folder = make_corpus()
    path = folder / "documents.parquet"
    table = pq.read_table(path)
    pmids = pa.array([99999999] + [None] * (table.num_rows - 1), pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("pmid"), "pmid", pmids), path)
    assert find_contaminated(folder, [item], "pubmedqa").contaminated == (item.id,)


def test_a_corpus_with_another_tokenizer_is_not_called_clean(make_corpus, sample, tmp_path):
    folder = make_corpus()
    shutil.rmtree(folder / "tokenizer")
    train_tokenizer([make_text(seed) for seed in range(40, 60)], 310, folder / "tokenizer", seed=0)
    with pytest.raises(DataError, match="is not the tokenizer of this corpus"):
        find_contaminated(folder, sample, "sample-questions")


def test_no_corpus_is_named(tmp_path, sample):
    with pytest.raises(DataError, match="There is no corpus"):
        find_contaminated(tmp_path / "none", sample, "sample-questions")

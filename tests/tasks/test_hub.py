"""The hub is read through `datasets`, in the published order, and its absence names the local way."""

from __future__ import annotations

import json
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub import HfApi, constants

from biomedllama_cli.errors import DataError, UnavailableError
from biomedllama_cli.models import hub
from biomedllama_cli.tasks import hub as hub_data
from biomedllama_cli.tasks.catalogue import TASKS, load_documents, load_questions

BIGBIO = {"id": "test-0", "question": "Which?", "choices": ["a", "b", "c", "d", "e"], "answer": ["c"]}


def test_test_and_train_split_are_asked_for(monkeypatch):
    asked = []

    def load(dataset, configuration, *, split, streaming):
        asked.append((dataset, configuration, split, streaming))
        row = {"id": split, "question": "?", "opa": "a", "opb": "b", "opc": "c", "opd": "d"}
        return [row | {"cop": 0}, row | {"cop": 3, "id": f"{split}-2"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded = load_questions(TASKS["medmcqa"], shots=10)
    assert asked == [("medmcqa", None, "validation", False), ("medmcqa", None, "train", False)]
    assert [item.id for item in loaded.items] == ["validation", "validation-2"]
    assert loaded.draw_rule == "train split"
    assert loaded.source.location == "medmcqa, validation split"
    load_questions(TASKS["medmcqa"], shots=0)
    assert len(asked) == 3  # no pool without shots


def test_pubmedqa_draws_from_its_own_items_without_a_warning(monkeypatch, caplog):
    row = {"question": "?", "context": {"contexts": ["x"]}, "final_decision": "no"}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [row | {"pubid": n} for n in range(3)])
    loaded = load_questions(TASKS["pubmedqa"], shots=1)
    assert loaded.pool is None
    assert loaded.draw_rule == "the test items without the item itself"
    assert caplog.text == ""


def test_loading_script_is_replaced_by_the_hubs_parquet_copy(monkeypatch):
    revisions = []

    def load(dataset, configuration, *, split, streaming, revision=None):
        revisions.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found med_qa.py")
        return [BIGBIO]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_questions(TASKS["medqa-5"], shots=0).items[0].answer == "c"
    assert revisions == [None, "refs/convert/parquet"]


def test_pile_is_streamed_and_filtered(monkeypatch):
    rows = [{"text": name, "meta": {"pile_set_name": name}} for name in ("PubMed Central", "ArXiv")]

    def load(dataset, configuration, *, split, streaming):
        assert (dataset, split, streaming) == ("monology/pile-uncopyrighted", "test", True)
        return iter(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (document,) = load_documents(TASKS["pubmed-central"]).items
    assert document.text == "PubMed Central"


def test_absent_hub_names_the_data_option():
    with pytest.raises(UnavailableError, match="medmcqa, validation split cannot be read") as error:
        load_questions(TASKS["medmcqa"], shots=0)
    assert "--data medmcqa=FILE" in error.value.hint


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch):
    modes = []

    def load(*_, **__):
        modes.append(constants.is_offline_mode())
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UnavailableError):
        load_questions(TASKS["medmcqa"], shots=0)
    assert modes == [True]
    assert not constants.is_offline_mode()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class CachedRows(list):
    """Rows as `datasets` returns them: in a file whose folder is named after the commit."""

    cache_files = ({"filename": f"/cache/medmcqa/default/0.0.0/{COMMIT}/medmcqa-validation.arrow"},)


def test_commit_of_the_data_set_is_recorded(monkeypatch):
    row = {"id": "1", "question": "?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: CachedRows([row]))
    loaded = load_questions(TASKS["medmcqa"], shots=1)
    assert loaded.source.revision == loaded.pool_source.revision == COMMIT
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [row])
    assert load_questions(TASKS["medmcqa"], shots=0).source.revision is None


def test_cached_files_of_datasets_itself_lie_in_a_folder_named_after_the_hash(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "a.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    (file,) = rows.cache_files
    *_, version, folder, _ = file["filename"].split("/")
    assert version == "0.0.0"
    assert len(folder) == 64  # of local files it is a SHA-256, which is no commit
    assert hub_data._find_revision(hub_data.HubSplit("json", "train"), rows, None) is None


def test_commit_of_streamed_rows_is_asked_for_where_the_hub_answers(monkeypatch):
    rows = [{"text": "A paper.", "meta": {"pile_set_name": "PubMed Central"}}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    assert load_documents(TASKS["pubmed-central"]).source.revision is None  # offline: nobody is asked
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: True)
    assert load_documents(TASKS["pubmed-central"]).source.revision == COMMIT

    def fail(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    assert load_documents(TASKS["pubmed-central"]).source.revision is None


def test_subjects_of_mmlu_are_read_one_after_the_other(monkeypatch):
    asked = []

    def load(dataset, configuration, *, split, streaming):
        asked.append((dataset, configuration, split))
        return [{"question": "?", "choices": ["a", "b"], "answer": 1, "subject": configuration}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded = load_questions(TASKS["mmlu-medical"], shots=5)
    assert len(asked) == 12
    assert asked[0] == ("cais/mmlu", "anatomy", "test")
    assert asked[-1] == ("cais/mmlu", "professional_medicine", "dev")
    assert loaded.items[0].id == "anatomy-0"
    assert loaded.items[5].groups == (("subject", "professional_medicine"),)
    assert loaded.draw_rule == "train split"


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_split_is_named(monkeypatch, tmp_path, streaming):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    real = datasets.load_dataset

    def load(*_, split, **__):  # the library's own message for a split that is not there
        return real(
            "json",
            data_files={"train": str(tmp_path / "a.jsonl")},
            split=split,
            streaming=streaming,
            cache_dir=str(tmp_path),
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        UnavailableError, match="medmcqa on the hub has no split 'validation' any more"
    ) as error:
        load_questions(TASKS["medmcqa"], shots=0)
    assert "train" in error.value.message
    assert "--data medmcqa=FILE" in error.value.hint


def test_renamed_columns_are_named_with_their_row(monkeypatch):
    row = {"id": "1", "question": "?", "option_a": "a", "option_b": "b", "cop": 0}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [row])
    with pytest.raises(DataError, match="medmcqa, validation split, row 0: field `opa` is missing") as error:
        load_questions(TASKS["medmcqa"], shots=0)
    assert "option_a" in error.value.hint


def test_empty_split_is_named(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [])
    with pytest.raises(DataError, match="medmcqa, validation split: the split holds no question"):
        load_questions(TASKS["medmcqa"], shots=0)

"""The hub is read through `datasets`, in the published order, and its absence names the local way."""

from __future__ import annotations

import datasets
import pytest
from huggingface_hub import constants

from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.models import hub
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

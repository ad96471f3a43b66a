"""What a checkpoint says of its tuning is read leniently: a model can be used without it."""

from __future__ import annotations

import json
import logging

import pytest

from biomedllama_cli.models.tuning_facts import (
    TUNING_FILE,
    TuningOrigin,
    read_tuning_facts,
    write_tuning_facts,
)


def test_what_is_written_is_read(tmp_path):
    facts = TuningOrigin("chat", "last-turn", "org/model")
    write_tuning_facts(tmp_path, facts)
    assert read_tuning_facts(str(tmp_path)) == facts
    assert json.loads((tmp_path / TUNING_FILE).read_text())["schema_version"] == "biomedllama.tuning/1"


def test_fields_of_later_versions_and_missing_ones_do_no_harm(tmp_path):
    (tmp_path / TUNING_FILE).write_text('{"template": "plain", "colour": "blue"}')
    assert read_tuning_facts(str(tmp_path)) == TuningOrigin("plain", "", "")


@pytest.mark.parametrize("content", ["", "[1]", '{"template": "jinja"}', '{"template": ["chat"]}', "\x00"])
def test_a_file_that_says_nothing_readable_is_told_and_counts_as_none(tmp_path, caplog, content):
    (tmp_path / TUNING_FILE).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_tuning_facts(str(tmp_path)) is None
    assert TUNING_FILE in caplog.text


@pytest.mark.parametrize("source", ["org/model", "scratch:tiny"])
def test_what_is_no_folder_says_nothing(source, caplog):
    assert read_tuning_facts(source) is None
    assert not caplog.text


def test_a_file_given_as_model_says_nothing(tmp_path):
    (tmp_path / "weights").write_text("x")
    assert read_tuning_facts(str(tmp_path / "weights")) is None

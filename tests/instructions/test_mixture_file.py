"""Mixture files: what they may say, what is wrong with them, and which sources can be had."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import pytest
import yaml

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.licences import ORDER, allows_any_use, classify_licence, find_strictest
from biomedllama_cli.instructions.mixture import Format
from biomedllama_cli.instructions.mixture_file import load_mixture, read_plan
from biomedllama_cli.instructions.sources.catalogue import FORMATS
from biomedllama_cli.models import hub


def write(folder: Path, content: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave neither a hub nor a cache of it."""
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))


def test_formats_are_those_that_can_be_read() -> None:
    assert set(get_args(Format)) == set(FORMATS)


def test_a_file_gives_sources_with_all_they_may_say(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.jsonl").write_text("{}", encoding="utf-8")
    file = write(
        tmp_path,
        {
            "name": "ward",
            "sources": [
                {
                    "source": "notes",
                    "format": "messages",
                    "path": "data/notes.jsonl",
                    "weight": 2,
                    "cap": 10,
                    "licence": "CC-BY-SA-4.0",
                    "redistributable": True,
                    "domain": "medical",
                },
            ],
        },
    )
    mixture = load_mixture(file, {}, False)
    source = mixture.sources[0].source
    assert (mixture.name, mixture.names, mixture.missing) == ("ward", ("notes",), ())
    assert (source.weight, source.cap, source.redistributable) == (2.0, 10, True)
    assert mixture.sources[0].path.samefile(tmp_path / "data" / "notes.jsonl")
    assert mixture.strictest_licence == "CC BY-SA"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.jsonl").write_text("{}", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sources = [{"source": "notes", "format": "messages", "path": "notes.jsonl"}]
    write(tmp_path, {"sources": sources})
    mixture = load_mixture("../mine.yaml", {}, False)
    assert mixture.name == "mine"
    assert mixture.sources[0].path.is_file()
    absolute = [{**sources[0], "path": str(tmp_path / "notes.jsonl")}]
    assert load_mixture(write(elsewhere, {"sources": absolute}), {}, False).sources[0].path.is_file()


def test_a_file_takes_over_sources_of_a_built_in_one(tmp_path: Path) -> None:
    own = {"source": "notes", "format": "messages", "path": "notes.jsonl"}
    plan = read_plan(write(tmp_path, {"base": "paper", "only": ["pubmedqa", "medqa"], "sources": [own]}))
    assert [source.source for source in plan.sources] == ["medqa", "pubmedqa", "notes"]
    assert plan.sources[0].weight == 3
    assert len(read_plan(write(tmp_path, {"base": "paper"})).sources) == 10


NOTES = {"source": "notes", "format": "messages", "path": "notes.jsonl"}


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            {"sources": [{**NOTES, "weights": 2}]},
            r"mine.yaml: source notes has the unknown field 'weights'",
            "weight",
        ),
        (
            {"sources": [{**NOTES, "weight": 0}]},
            r"mine.yaml: source notes: `weight` is 0, but must be greater",
            "",
        ),
        ({"sources": [{**NOTES, "weight": "much"}]}, r"`weight` is 'much', but must be a number", ""),
        (
            {"sources": [{**NOTES, "weight": float("inf")}]},
            r"`weight` is inf, but must be a finite number",
            "",
        ),
        ({"sources": [{**NOTES, "cap": 0}]}, r"source notes: `cap` is 0, but must be greater than 0", ""),
        (
            {"sources": [{**NOTES, "format": "alpacca"}]},
            r"`format` is 'alpacca', but must be one of",
            "alpaca",
        ),
        ({"sources": [{"source": "notes"}]}, r"source notes lacks the field `format`", ""),
        ({"sources": [{"format": "alpaca"}]}, r"source number 1 lacks the field `source`", ""),
        ({"sources": [{**NOTES, "source": "a b"}]}, r"`source` is 'a b', but is refused", ""),
        ({"sources": [{**NOTES, "hub": "a/b", "file": "c"}]}, r"source notes: `path` and `hub` exclude", ""),
        (
            {"sources": [{"source": "n", "format": "alpaca", "hub": "a/b"}]},
            r"source n: `hub` needs `file`",
            "",
        ),
        ({"sources": [{**NOTES, "revision": "main"}]}, r"`revision` belong to a data set on the hub", ""),
        ({"sources": [NOTES, NOTES]}, r"mine.yaml: the source notes comes twice", ""),
        ({"sources": ["notes"]}, r"entry 1 of `sources` is 'notes', but must be a mapping", "source: notes"),
        ({"sources": NOTES}, r"`sources` is .*, but must be a list", ""),
        ({"source": [NOTES]}, r"mine.yaml has the unknown key 'source'", "Did you mean sources"),
        ({"sources": []}, r"mine.yaml has no source", "base"),
        ({"name": 3, "sources": [NOTES]}, r"`name` is 3, but must be text", ""),
        (
            {"name": "../ward", "sources": [NOTES]},
            r"mine.yaml: `name` is '../ward', but must be",
            "the file's",
        ),
        ({"base": "papers"}, r"`base` is 'papers', but must be paper or permissive", "paper"),
        ({"only": ["medqa"], "sources": [NOTES]}, r"`only` chooses sources of `base`", ""),
        ({"base": "paper", "only": ["medqq"]}, r"`only` names 'medqq', which paper does not have", "medqa"),
        ({"base": "paper", "only": [{"medqa": 1}]}, r"`only` names {'medqa': 1}, which paper", ""),
        ({"base": "paper", "only": "medqa"}, r"`only` is 'medqa', but must be a list", ""),
        ("sources: [\n", r"mine.yaml is not valid YAML in line 2", ""),
        ("- notes\n", r"mine.yaml must be a mapping", ""),
        ("sources: []\nsources: []\n", r"the key 'sources' comes twice", ""),
        ("sources: !!python/object/apply:os.getcwd []\n", r"not valid YAML in line 1", ""),
    ],
)
def test_a_wrong_file_is_refused_by_file_source_and_field(
    tmp_path: Path, content: object, message: str, hint: str
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_plan(write(tmp_path, content))
    assert hint in caught.value.hint


def test_all_that_is_wrong_with_a_source_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_plan(write(tmp_path, {"sources": [{**NOTES, "weight": -1, "cap": 1.5, "licence": 4}]}))
    assert all(f"`{field}`" in caught.value.message for field in ("weight", "cap", "licence"))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("papr", "is 'papr', but must be paper or permissive, or a YAML file", "Did you mean paper?"),
        (
            "there-is-none.yaml",
            "there-is-none.yaml, but there is no such file",
            "Give --mixture paper, permissive, or the path of an existing YAML file.",
        ),
    ],
)
def test_a_mixture_that_is_not_there_is_refused(name: str, message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_plan(name)
    assert caught.value.hint == hint


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(SettingsError, match="not UTF-8 text"):
        read_plan(str(tmp_path / "mine.yaml"))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_plan(str(tmp_path))


def test_permissive_holds_exactly_the_sources_that_allow_any_use() -> None:
    free = [source.source for source in read_plan("paper").sources if allows_any_use(source.licence)]
    assert (
        [source.source for source in read_plan("permissive").sources]
        == free
        == [
            "medqa",
            "medmcqa",
            "pubmedqa",
            "codex-cot",
        ]
    )


def test_the_paper_states_the_restricted_licences() -> None:
    licences = {source.source: source.licence_code for source in read_plan("paper").sources}
    assert licences["alpaca-cleaned"] == "CC BY-NC"
    assert licences["visual-med-alpaca"] == "academic only"
    assert find_strictest(licences.values()) == "unknown"
    assert all(source.how_to_get for source in read_plan("paper").sources)


@pytest.mark.usefixtures("no_hub")
def test_all_missing_sources_are_named_at_once_with_how_to_get_them(tmp_path: Path) -> None:
    given = tmp_path / "cot.json"
    given.write_text("{}", encoding="utf-8")
    with pytest.raises(UnavailableError) as caught:
        load_mixture("paper", {"mmlu-cot": given}, False)
    message = caught.value.message
    assert message.startswith("9 of the 10 sources of the mixture paper cannot be had here:")
    assert "mmlu-cot:" not in message
    for source in read_plan("paper").sources:
        if source.source != "mmlu-cot":
            assert f"  {source.source}: " in message
            assert source.how_to_get in message
    assert (
        "GBaker/MedQA-USMLE-4-options (phrases_no_exclude_train.jsonl) is not in the hub's cache" in message
    )
    assert "--source NAME=FILE" in caught.value.hint
    assert "--skip-missing" in caught.value.hint


@pytest.mark.usefixtures("no_hub")
def test_missing_sources_are_skipped_on_demand_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = tmp_path / "cot.json"
    given.write_text("{}", encoding="utf-8")
    mixture = load_mixture("paper", {"mmlu-cot": given, "codex-cot": given}, True)
    assert mixture.names == ("mmlu-cot", "codex-cot")
    assert len(mixture.missing) == 8
    assert caplog.text.count("left out of the mixture paper, its share goes to the others") == 8
    with pytest.raises(UnavailableError, match="10 of the 10 sources") as caught:
        load_mixture("paper", {}, True)
    assert "--skip-missing" not in caught.value.hint
    with pytest.raises(UnavailableError, match="10 of the 10 sources") as caught:
        load_mixture("paper", {}, False)
    assert "once one is there, --skip-missing leaves the others out" in caught.value.hint


def test_a_path_that_is_not_there_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"notes: there is no file .*notes.jsonl"):
        load_mixture(write(tmp_path, {"sources": [NOTES]}), {}, False)


def test_given_files_must_be_of_the_mixture_and_there(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="names 'medqaa', which the mixture paper does not have"
    ) as caught:
        load_mixture("paper", {"medqaa": tmp_path / "x"}, True)
    assert caught.value.hint == "Did you mean medqa?"
    with pytest.raises(DataError, match="for medqa, but there is no such file"):
        load_mixture("paper", {"medqa": tmp_path / "x"}, True)


def test_a_file_in_the_hubs_cache_is_found_offline_with_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "datasets--yahma--alpaca-cleaned"
    file = repository / "snapshots" / commit / "alpaca_data_cleaned.json"
    file.parent.mkdir(parents=True)
    file.write_text("[]", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: False)
    mixture = load_mixture("paper", {}, True)
    assert mixture.names == ("alpaca-cleaned",)
    assert mixture.sources[0].commit == commit
    assert mixture.sources[0].path.read_text(encoding="utf-8") == "[]"


def test_a_file_is_fetched_where_the_hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(dataset: str, file: str, **_: object) -> str:
        asked.append((dataset, file))
        if dataset == "qiaojin/PubMedQA":
            raise PermissionError("gated\nask for access")
        path = tmp_path / "datasets--x" / "snapshots" / ("a" * 40) / "train"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]", encoding="utf-8")
        return str(path)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: True)
    mixture = load_mixture("permissive", {}, True)
    assert mixture.names == ("medqa", "medmcqa")
    assert {each.commit for each in mixture.sources} == {"a" * 40}
    reasons = {each.name: each.reason for each in mixture.missing}
    assert "cannot be fetched (PermissionError: gated)" in reasons["pubmedqa"]
    assert ("GBaker/MedQA-USMLE-4-options", "phrases_no_exclude_train.jsonl") in asked
    assert len(asked) == 3  # codex-cot is on no hub


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("mit", "MIT"),
        ("The MIT License", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("BSD-3-Clause", "BSD"),
        ("cc0-1.0", "CC0"),
        ("CC BY 4.0", "CC BY"),
        ("cc-by-nc-sa-4.0", "CC BY-NC-SA"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC BY-NC"),
        ("Academic Only", "academic only"),
        ("for research purposes only", "academic only"),
        ("proprietary", "unknown"),
        ("submit a request", "unknown"),
        ("not MIT", "unknown"),
        ("CC BY or CC BY-NC", "CC BY-NC"),
    ],
)
def test_licences_are_known_by_many_names_and_what_is_not_known_is_strict(words: str, code: str) -> None:
    assert classify_licence(words) == code


def test_each_licence_of_the_order_is_stricter_than_the_one_before() -> None:
    for free, strict in itertools.pairwise(ORDER):
        assert find_strictest([strict, free]) == find_strictest([free, strict]) == strict
    wanted = ["CC0", "MIT", "CC BY", "CC BY-SA", "CC BY-NC", "academic only", "unknown"]
    assert [code for code in ORDER if code in wanted] == wanted

"""The data card of a corpus."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from matplotlib.axes import Axes

from biomedllama_cli.corpus import card_counts
from biomedllama_cli.corpus.card import write_card
from biomedllama_cli.corpus.card_counts import CardCounter, Counts
from biomedllama_cli.corpus.card_facts import CardFacts
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.recipes.prepare_report import PrepareReport

Prepare = Callable[..., PrepareReport]
BENCHMARK = {"items": 500, "testable": 490, "contaminated": 3, "documents": 4}
NASTY = (
    "a | b\n# <script>alert(1)</script> ![x](http://evil.example/p.png) `code` \x00\u202e [link](y) \ud800"
)


def make_manifest(**changes: Any) -> CorpusManifest:
    counts = {
        "read": 10,
        "kept": 4,
        "train": 3,
        "validation": 1,
        "dropped": {"other_language": 2, "no_licence": 4},
    }
    tree: dict[str, Any] = {
        "name": "pubmed-2026",
        "job": "0" * 64,
        "documents": counts,
        "tokens": {"train": 3000, "validation": 1000, "dropped": {"exact_duplicate": 70, "near_duplicate": 30}},
        "bytes": {"train": 12_000, "validation": 4000},
        "adds_bos": True,
        "bos_id": 1,
        "eos_id": 2,
        "vocabulary_size": 32_000,
        "tokenizer": {
            "source": "huggyllama/llama-7b",
            "kind": "sentencepiece",
            "fingerprint": "f",
            "digest": "d",
            "adds_bos": True,
        },
        "shards": [
            {"split": "train", "source": "pmc", "file": "train-0", "tokens": 3000, "documents": 3, "sha256": "c" * 64}
        ],
        "sources": [
            {"name": "pmc", "weight": 0.5, "documents": counts, "train_tokens": 2000, "validation_tokens": 1000},
            {"name": "pubmed", "weight": 2, "documents": counts, "train_tokens": 1000, "validation_tokens": 0},
        ],
        "decontamination": {"mode": "drop", "benchmarks": {"pubmedqa": BENCHMARK}},
        "inputs": [{"path": "in|put.xml.gz", "size": 1234, "sha256": "b" * 64}],
        "settings": {"selection": {"licences": "commercial", "language": ["en"], "no_derivatives": "drop"}},
        "versions": {"biomedllama-cli": "0.1", "numpy": "2.4"},
        "created": "2026-11-22T12:00:00+00:00",
        "command": "biomedllama prepare --source pmc",
        **changes,
    }  # fmt: skip
    return CorpusManifest.model_validate(tree)


def count(rows: list[tuple[Any, ...]]) -> Counts:
    counter = CardCounter()
    columns = ("source", "licence", "year", "language", "tokens", "bytes")
    for start in range(0, len(rows), 2):
        part = rows[start : start + 2]
        counter.add(pa.table({name: pa.array([row[i] for row in part]) for i, name in enumerate(columns)}))
    return counter.finish()


ROWS = [
    ("pmc", "CC BY", 2015, "en", 1000, 4000),
    ("pmc", "CC0", 2016, "en", 1024, 4100),
    ("pubmed", None, 2016, "en", 300, 1300),
    ("pmc", "CC BY", None, None, 1, 7),
    ("pmc", "CC BY", 2015, "en", 500, 2000),
]


@pytest.fixture
def facts() -> CardFacts:
    return CardFacts(
        manifest=make_manifest(),
        counts=count(ROWS),
        examples={
            "other_language": tuple(
                {"where": f"f.xml, {i}", "title": NASTY, "text": NASTY * 20} for i in range(5)
            ),
            "no_licence": ({"where": "f.xml", "pmid": 7, "title": "Secret", "text": "not ours to quote"},),
        },
    )


def read_header(card: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return value


def test_documents_are_counted_by_kind_whatever_the_size_of_the_tables() -> None:
    counts = count(ROWS)
    whole = CardCounter()
    columns = ("source", "licence", "year", "language", "tokens", "bytes")
    whole.add(pa.table({name: pa.array([row[i] for row in ROWS]) for i, name in enumerate(columns)}))
    assert counts == whole.finish()
    licences = [(row.kind, row.documents, row.tokens, row.bytes) for row in counts.breakdowns["licence"]]
    assert licences == [
        (("pmc", "CC BY"), 3, 1501, 6007),
        (("pmc", "CC0"), 1, 1024, 4100),
        (("pubmed", None), 1, 300, 1300),
    ]
    assert [(row.kind, row.documents) for row in counts.breakdowns["year"]] == [
        ((2015,), 2),
        ((2016,), 2),
        ((None,), 1),
    ]
    for rows in counts.breakdowns.values():
        assert (sum(row.documents for row in rows), sum(row.tokens for row in rows)) == (5, 2825)


def test_lengths_fall_into_powers_of_two() -> None:
    sizes = [1, 2, 3, 4, 511, 512, 1023, 1024, 2**31]
    counts = count([("pmc", None, None, None, size, 1) for size in sizes])
    assert [(row.kind[1], row.documents) for row in counts.lengths] == [
        (0, 1), (1, 2), (2, 1), (8, 1), (9, 2), (10, 1), (31, 1),
    ]  # fmt: skip


def test_a_source_of_endless_kinds_stays_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_counts, "MOST_ROWS", 10)
    counts = count([("pmc", f"licence {i}", i, "en", 5, 9) for i in range(100)])
    rows = counts.breakdowns["licence"]
    assert len(rows) == 11
    assert sum(row.documents for row in rows) == 100
    assert sum(row.documents for row in counts.breakdowns["year"]) == 100


def test_the_card_adds_up_and_names_what_is_repeated(facts: CardFacts, tmp_path: Path) -> None:
    write_card(tmp_path, facts)
    card = (tmp_path / "DATA_CARD.md").read_text()
    for said in (
        "4 kept of 10 read",
        "| Unique tokens | 4,000 |",
        "70 in exact duplicates, 30 in near-duplicates",
        "3,000 tokens at the weights below",  # 2000 * 0.5 + 1000 * 2
        "| pmc | CC BY | 3 | 1,501 | 6,007 |",
        "| pubmed | none stated | 1 | 300 | 1,300 |",
        "10 documents read = 4 kept + 6 left out",
        "courtesy of the U.S. National Library of Medicine",
        "| pubmedqa | 500 | 490 | 3 | 4 |",
        "b" * 16,
    ):
        assert said in card
    header = read_header(card)
    assert header["license"] == ["cc", "cc0-1.0", "other"]
    assert header["language"] == ["en"]
    assert header["size_categories"] == ["n<1K"]


def test_the_json_says_the_same_for_programs(facts: CardFacts, tmp_path: Path) -> None:
    write_card(tmp_path, facts)
    data = json.loads((tmp_path / "data_card.json").read_text())
    assert data["documents"] == facts.manifest.documents.model_dump()
    assert data["breakdowns"]["licence"][0]["kind"] == ["pmc", "CC BY"]
    assert [example["where"] for example in data["examples"]["other_language"]] == [
        "f.xml, 0",
        "f.xml, 1",
        "f.xml, 2",
    ]
    assert all(len(example["text"]) <= 300 for example in data["examples"]["other_language"])
    assert data["inputs"][0]["sha256"] == "b" * 64


def test_what_no_licence_permits_is_not_quoted(facts: CardFacts, tmp_path: Path) -> None:
    write_card(tmp_path, facts)
    for name in ("DATA_CARD.md", "data_card.json"):
        text = (tmp_path / name).read_text()
        assert "not ours to quote" not in text
        assert "Secret" in text


def test_items_of_an_exam_are_not_passed_on(facts: CardFacts, tmp_path: Path) -> None:
    example = {"where": "f.xml, 3", "pmid": 41, "title": "Does it heal?", "text": "whole question of an exam"}
    found = {"contaminated": (example,), "contaminated_twin": (example,)}
    counts = {**facts.manifest.documents.model_dump(), "dropped": dict.fromkeys(found, 3)}
    manifest = make_manifest(documents=counts)
    facts = CardFacts(manifest=manifest, counts=facts.counts, examples=found)
    write_card(tmp_path, facts)
    card, data = ((tmp_path / name).read_text() for name in ("DATA_CARD.md", "data_card.json"))
    for text in (card, data):
        assert "whole question" not in text
        assert "heal" not in text
    assert card.count("PMID 41, f.xml, 3") == 2
    assert json.loads(data)["examples"]["contaminated"][0]["pmid"] == 41
    assert "do not publish it with the corpus" in card


def test_foreign_text_cannot_become_markup(facts: CardFacts, tmp_path: Path) -> None:
    manifest = make_manifest(name="x\n## <b>|", command="prepare '```\n# heading'")
    write_card(tmp_path, facts.model_copy(update={"manifest": manifest}))
    card = (tmp_path / "DATA_CARD.md").read_text()
    header, body = card.split("---\n")[1:]
    assert yaml.safe_load(header)["pretty_name"] == "x ## <b>|"
    assert "<script>" not in body
    assert "<b>" not in body
    assert "![x]" not in card
    assert "http://evil" not in card
    assert "\u202e" not in card
    assert "\x00" not in card
    assert "````sh\nprepare '```\n# heading'\n````" in card
    for table in re.findall(r"(?:^\|.*\|\n)+", card, flags=re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


def test_the_same_facts_are_the_same_bytes(facts: CardFacts, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    shuffled = CardFacts(
        manifest=facts.manifest, counts=facts.counts, examples=dict(reversed(list(facts.examples.items())))
    )
    for folder, said in zip(folders, (facts, shuffled), strict=True):
        folder.mkdir()
        write_card(folder, said)
    for name in ("DATA_CARD.md", "data_card.json", "document_lengths.png"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_picture_shows_documents_and_tokens_by_length_and_source(
    facts: CardFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: dict[str, list[Any]] = {}
    plain = Axes.bar

    def note(self: Axes, places: Any, heights: Any, **named: Any) -> Any:
        bars.setdefault(named["label"], []).append(dict(zip(places, heights, strict=True)))
        return plain(self, places, heights, **named)

    monkeypatch.setattr(Axes, "bar", note)
    write_card(tmp_path, facts)
    assert (tmp_path / "document_lengths.png").read_bytes().startswith(b"\x89PNG")
    documents, tokens = bars["pmc"]
    assert {k: v for k, v in documents.items() if v} == {0: 1, 8: 1, 9: 1, 10: 1}
    assert {k: v for k, v in tokens.items() if v} == {0: 1, 8: 500, 9: 1000, 10: 1024}
    assert {k: v for k, v in bars["pubmed"][0].items() if v} == {8: 1}


def test_years_become_decades_when_there_are_many(facts: CardFacts, tmp_path: Path) -> None:
    counts = count(
        [("pmc", "CC BY", year, "en", 10, 20) for year in range(1970, 2026)]
        + [("pmc", "CC0", None, "en", 1, 1)]
    )
    write_card(tmp_path, facts.model_copy(update={"counts": counts}))
    card = (tmp_path / "DATA_CARD.md").read_text()
    assert "| 1970s | 10 | 100 | 200 |" in card
    assert "| none stated | 1 | 1 | 1 |" in card
    assert len(json.loads((tmp_path / "data_card.json").read_text())["breakdowns"]["year"]) == 57


def test_the_policy_is_what_the_settings_were(facts: CardFacts, tmp_path: Path) -> None:
    selection = {"licences": "all", "retracted": "keep", "language": ["en", "de"], "quality_filter": "off"}
    manifest = make_manifest(settings={"selection": selection}, decontamination={})
    write_card(tmp_path, facts.model_copy(update={"manifest": manifest}))
    card = (tmp_path / "DATA_CARD.md").read_text()
    for said in (
        "Licences: **no gate.**",
        "retracted articles and the notices are kept",
        "documents in en, de only",
        "- Quality: no filter.",
        "kept also where no licence covers them",
        "Benchmark items were not looked for",
    ):
        assert said in card


def test_abstracts_without_a_licence_are_counted(facts: CardFacts, tmp_path: Path) -> None:
    manifest = make_manifest(settings={"selection": {"accept_abstract_copyright": True}})
    write_card(tmp_path, facts.model_copy(update={"manifest": manifest}))
    rules = [line for line in (tmp_path / "DATA_CARD.md").read_text().splitlines() if "- Abstracts:" in line]
    assert len(rules) == 1
    assert "1 abstract without a licence of their own" in rules[0]


@pytest.mark.parametrize(
    ("articles", "said"),
    [
        ({}, "back matter, tables, captions; without keywords and the list of authors, citation markers, lists of"),
        ({"tables": False, "references": True}, "captions, lists of references; without keywords and the list of "
         "authors, tables, citation markers."),
    ],
)  # fmt: skip
def test_the_parts_of_an_article_that_are_text_are_named(
    facts: CardFacts, tmp_path: Path, articles: dict[str, bool], said: str
) -> None:
    manifest = make_manifest(settings={"articles": articles})
    write_card(tmp_path, facts.model_copy(update={"manifest": manifest}))
    assert said in (tmp_path / "DATA_CARD.md").read_text()


def test_replayed_text_is_told_apart(facts: CardFacts, tmp_path: Path) -> None:
    replayed = {"read": 9, "kept": 1, "train": 1, "validation": 0, "dropped": {"replay_surplus": 8}}
    sources = [
        {**facts.manifest.sources[0].model_dump(), "weight": 1},
        {"name": "replay", "weight": 2, "documents": replayed, "train_tokens": 500, "validation_tokens": 0},
    ]
    write_card(tmp_path, facts.model_copy(update={"manifest": make_manifest(sources=sources)}))
    card = (tmp_path / "DATA_CARD.md").read_text()
    assert "| Of these, biomedical | 3 documents, 3,500 tokens |" in card
    assert "| Of these, replayed general text | 1 document, 500 tokens, 33 % of an epoch |" in card


def test_small_corpora_have_small_units_and_one_document(facts: CardFacts, tmp_path: Path) -> None:
    manifest = make_manifest(bytes={"train": 12_000, "validation": 400})
    write_card(tmp_path, facts.model_copy(update={"manifest": manifest}))
    card = (tmp_path / "DATA_CARD.md").read_text()
    assert "| Text | 12.4 kB of UTF-8 |" in card
    assert "| Held out | 1 document, 1,000 tokens |" in card


def test_the_lines_that_load_a_corpus_show_its_first_document(
    run_prepare: Prepare, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": records.make_text(i)}) + "\n" for i in range(3)))
    monkeypatch.setattr("sys.argv", ["/home/somebody/bin/biomedllama", "prepare", "--input", "a b.jsonl"])
    manifest = run_prepare(source).manifest
    assert manifest is not None
    assert manifest.command == "biomedllama prepare --input 'a b.jsonl'"
    assert "held out for validation: 1 document, too few" in caplog.text
    card = (tmp_path / "corpus" / "DATA_CARD.md").read_text()
    monkeypatch.chdir(tmp_path / "corpus")
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    assert capsys.readouterr().out.strip() == records.make_text(0)


def test_a_corpus_without_licences_years_and_drops_has_a_card(tmp_path: Path) -> None:
    documents = {"read": 1, "kept": 1, "train": 1, "validation": 0, "dropped": {}}
    source = {"name": "pile", "weight": 1, "documents": documents, "train_tokens": 3, "validation_tokens": 0}
    manifest = make_manifest(documents=documents, sources=[source], decontamination={}, settings={})
    write_card(tmp_path, CardFacts(manifest=manifest, counts=count([("pile", None, None, None, 3, 9)])))
    card = (tmp_path / "DATA_CARD.md").read_text()
    assert "### By year" not in card
    assert "### By licence" in card
    assert "| pile | none stated | 1 | 3 | 9 |" in card
    assert "- Language: no filter." in card
    assert read_header(card)["license"] == ["other"]
    write_card(tmp_path, CardFacts(manifest=manifest, counts=CardCounter().finish()))
    assert (tmp_path / "document_lengths.png").read_bytes().startswith(b"\x89PNG")

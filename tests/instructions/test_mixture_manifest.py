"""The manifest of a drawn mixture: counts, shares, licences, and the table people read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from biomedllama_cli.instructions.drawing import draw
from biomedllama_cli.instructions.manifest import (
    DrawnRows,
    MixtureManifest,
    build_manifest,
    compute_fit,
)
from biomedllama_cli.instructions.mixture import LocatedSource, MissingSource, Mixture, MixtureSource

COUNTS = {"exam": 300, "chat": 100, "cot": 5}
CHAT_NOTE = (
    "ask first; declared for the mixture's source; examples.jsonl, given by --source, may be under another"
)


def make_source(name: str, **fields: object) -> MixtureSource:
    return MixtureSource.model_validate({"source": name, "format": "messages", **fields})


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    path = tmp_path / "examples.jsonl"
    path.write_text("[]\n", encoding="utf-8")
    exam = make_source(
        "exam",
        hub="someone/exam",
        file="train.jsonl",
        licence="MIT",
        redistributable=True,
        domain="medical",
        published_samples=300,
        published_share=0.6,
    )
    chat = make_source(
        "chat",
        hub="someone/chat",
        file="chat.json",
        weight=2,
        licence="CC BY-NC 4.0",
        licence_note="ask first",
        redistributable=True,
        published_samples=52_000,
        published_share=0.3,
    )
    cot = make_source(
        "cot", weight=3, licence="Apache-2.0", substitute="five exemplars for the published three"
    )
    lost = make_source("lost", published_share=0.1, how_to_get="ask its authors")
    return Mixture(
        "mine",
        (
            LocatedSource(exam, path, commit="c" * 40),
            LocatedSource(chat, path, given=True),
            LocatedSource(cot, path),
        ),
        (MissingSource(lost, "it is on no hub"),),
    )


@pytest.fixture
def drawn(mixture: Mixture) -> DrawnRows:
    rows = draw(COUNTS, mixture, 200, 3, 11)
    return DrawnRows(rows=rows, counts=COUNTS, draws=200, epochs=3, seed=11)


def test_counts_are_those_of_the_rows(mixture: Mixture, drawn: DrawnRows) -> None:
    rng = np.random.default_rng(0)
    tokens = {name: rng.integers(1, 90, count) for name, count in COUNTS.items()}
    manifest = build_manifest(mixture, drawn, target_tokens=tokens)
    total = 0
    for index, source in enumerate(manifest.sources):
        mine = [example for each, example in drawn.rows.tolist() if each == index]
        assert source.name == mixture.names[index]
        assert source.draws == len(mine) > 0
        assert source.unique_examples == len(set(mine)) < len(mine)
        assert source.passes == len(mine) / COUNTS[source.name]
        assert source.realised_share == len(mine) / 600
        assert source.target_tokens == sum(int(tokens[source.name][example]) for example in mine)
        total += source.target_tokens
    assert manifest.target_tokens == total
    assert (manifest.rows, manifest.draws, manifest.epochs, manifest.seed) == (600, 200, 3, 11)
    # 300 x 1, 100 x 2, 5 x 3
    assert [round(source.expected_share * 515, 6) for source in manifest.sources] == [300, 200, 15]
    exam = manifest.sources[0]
    spread = np.sqrt(600 * 300 / 515 * 215 / 515)
    assert exam.deviation == pytest.approx((exam.draws - 600 * 300 / 515) / spread)


def test_chi_square_is_that_of_scipy(mixture: Mixture, drawn: DrawnRows) -> None:
    manifest = build_manifest(mixture, drawn)
    expected = [600 * source.expected_share for source in manifest.sources]
    wanted = stats.chisquare([source.draws for source in manifest.sources], expected)
    assert manifest.chi_square == pytest.approx(wanted.statistic)
    assert manifest.p_value == pytest.approx(wanted.pvalue)
    assert manifest.degrees_of_freedom == 2


def test_small_cells_are_joined_before_the_chi_square() -> None:
    chi_square, degrees, _ = compute_fit([90, 10, 3, 2], [89.0, 11.0, 2.0, 3.0])
    assert (chi_square, degrees) == (pytest.approx(1 / 89 + 1 / 11), 2)
    # Both small ones expect three together: the next larger takes them in.
    chi_square, degrees, _ = compute_fit([90, 10, 3, 0], [91.0, 9.0, 2.0, 1.0])
    assert (chi_square, degrees) == (pytest.approx(1 / 91 + 1 / 12), 1)
    assert compute_fit([3, 0], [2.0, 1.0]) == (0.0, 0, 1.0)
    assert compute_fit([10, 0], [10.0, 0.0]) == (0.0, 0, 1.0)


def test_the_fit_is_told_only_where_there_is_one(mixture: Mixture, drawn: DrawnRows) -> None:
    manifest = build_manifest(mixture, drawn)
    text = "\n".join(manifest.lines())
    assert "on 2 degrees of freedom, p = " in text
    assert "counted together" not in text
    joined = manifest.model_copy(update={"degrees_of_freedom": 1})
    assert "on 1 degree of freedom (small sources are counted together), p = " in "\n".join(joined.lines())
    alone = manifest.model_copy(update={"degrees_of_freedom": 0})
    assert "chi-square" not in "\n".join(alone.lines())


def test_a_wrong_draw_has_a_small_p(mixture: Mixture, drawn: DrawnRows) -> None:
    rows = drawn.rows.copy()
    rows[:150, 0] = 1
    rows[:150, 1] %= 100
    wrong = DrawnRows(rows=rows, counts=COUNTS, draws=200, epochs=3, seed=11)
    assert build_manifest(mixture, wrong).p_value < 1e-6 < 0.001 < build_manifest(mixture, drawn).p_value


def test_licences_hashes_and_origins_are_recorded(mixture: Mixture, drawn: DrawnRows) -> None:
    manifest = build_manifest(mixture, drawn)
    exam, chat, cot = manifest.sources
    assert manifest.strictest_licence == "CC BY-NC"
    assert (chat.licence, chat.licence_code, chat.licence_note) == ("CC BY-NC 4.0", "CC BY-NC", CHAT_NOTE)
    assert exam.sha256 == hashlib.sha256(b"[]\n").hexdigest()
    assert (exam.hub, exam.revision, exam.location) == ("someone/exam", "c" * 40, "someone/exam/train.jsonl")
    assert (chat.hub, chat.revision, chat.location) == (None, None, "examples.jsonl")
    assert not manifest.redistributable  # cot does not say that it is
    assert (exam.redistributable, cot.redistributable) == (True, False)
    assert manifest.left_out[0].model_dump() == {
        "name": "lost",
        "reason": "it is on no hub; how to get it: ask its authors",
        "published_samples": None,
        "published_share": 0.1,
    }


def test_substitutes_are_marked_whether_declared_or_noticed(mixture: Mixture, drawn: DrawnRows) -> None:
    exam, chat, cot = build_manifest(mixture, drawn).sources
    assert exam.substitute is None
    where = "where the published mixture has 52,000 (given by --source)"
    assert chat.substitute == f"100 examples of examples.jsonl {where}"
    assert cot.substitute == "five exemplars for the published three"


def test_a_licence_is_doubted_only_for_a_given_file_of_another_size(
    mixture: Mixture, drawn: DrawnRows
) -> None:
    for given, read, note in ((True, 100, CHAT_NOTE), (False, 100, "ask first"), (True, 52_000, "ask first")):
        exam, chat, cot = mixture.sources
        sources = (exam, LocatedSource(chat.source, chat.path, given=given), cot)
        manifest = build_manifest(Mixture("mine", sources), drawn, read=COUNTS | {"chat": read})
        assert manifest.sources[1].licence_note == note


def test_a_part_of_an_epoch_is_told_as_such(mixture: Mixture) -> None:
    rows = draw(COUNTS, mixture, 200, 1.5, 11)
    manifest = build_manifest(mixture, DrawnRows(rows=rows, counts=COUNTS, draws=200, epochs=1.5, seed=11))
    assert manifest.lines()[0] == "Mixture mine: 300 rows, 1.5 x 200, seed 11"
    assert manifest.epochs == 1.5


def test_examples_left_out_by_the_run_make_no_substitute(mixture: Mixture, drawn: DrawnRows) -> None:
    fewer = DrawnRows(rows=drawn.rows, counts={**COUNTS, "exam": 290}, draws=200, epochs=3, seed=11)
    exam = build_manifest(mixture, fewer, read=COUNTS).sources[0]
    assert (exam.read, exam.examples, exam.substitute) == (300, 290, None)


def test_a_source_nothing_was_drawn_from_does_not_bind(mixture: Mixture) -> None:
    counts = {"exam": 300, "chat": 0, "cot": 5}
    rows = draw(counts, mixture, 400, 1, 0)
    manifest = build_manifest(mixture, DrawnRows(rows=rows, counts=counts, draws=400, epochs=1, seed=0))
    assert manifest.sources[1].passes == manifest.sources[1].deviation == 0
    assert manifest.strictest_licence == "Apache-2.0"


def test_caps_count_for_passes(mixture: Mixture) -> None:
    exam = mixture.sources[0]
    capped = LocatedSource(exam.source.model_copy(update={"cap": 20}), exam.path)
    rows = draw({"exam": 300}, Mixture("capped", (capped,)), 100, 1, 0)
    drawn = DrawnRows(rows=rows, counts={"exam": 300}, draws=100, epochs=1, seed=0)
    source = build_manifest(Mixture("capped", (capped,)), drawn).sources[0]
    assert (source.read, source.examples, source.cap, source.passes) == (300, 20, 20, 5.0)


def test_the_file_reads_back_as_it_was(mixture: Mixture, drawn: DrawnRows, tmp_path: Path) -> None:
    manifest = build_manifest(mixture, drawn)
    path = manifest.write(tmp_path)
    assert path.name == "mixture.json"
    assert MixtureManifest.model_validate_json(path.read_text(encoding="utf-8")) == manifest
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == "biomedllama.mixture/1"
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_known_restrictions_are_said_beside_an_unknown_licence(mixture: Mixture, drawn: DrawnRows) -> None:
    unknown = mixture.sources[2].source.model_copy(update={"licence": "who knows"})
    sources = (*mixture.sources[:2], LocatedSource(unknown, mixture.sources[2].path))
    lines = build_manifest(Mixture("mine", sources), drawn).lines()
    assert "Strictest licence: unknown; examples that may not be passed on: cot" in lines
    assert "Restricted besides: chat (CC BY-NC 4.0)" in lines


def test_people_read_realised_beside_published_shares(mixture: Mixture, drawn: DrawnRows) -> None:
    manifest = build_manifest(mixture, drawn, target_tokens={n: np.full(c, 7) for n, c in COUNTS.items()})
    lines = manifest.lines()
    header, exam, chat, cot = lines[1:5]
    assert header.split()[:4] == ["source", "examples", "drawn", "unique"]
    assert lines[0] == "Mixture mine: 600 rows, 3 x 200, seed 11"
    draws = manifest.sources[0].draws
    assert exam.split() == [
        "exam",
        "300",
        str(draws),
        str(manifest.sources[0].unique_examples),
        f"{draws / 300:#.3g}",
        f"{7 * draws:,}",
        f"{100 * draws / 600:.2f}",
        "%",
        "58.25",
        "%",
        "60.00",
        "%",
        "MIT",
    ]
    assert "chat *" in chat
    assert cot.split()[-2] == "-"  # nothing published
    assert {line.index("%") for line in (exam, chat, cot)} == {exam.index("%")}
    text = "\n".join(lines)
    assert "Strictest licence: CC BY-NC; examples that may not be passed on: cot" in text
    assert "\nLeft out, their share went to the others: lost\n" in text + "\n"
    assert "Substitute: cot: five exemplars for the published three" in text
    assert f"p = {manifest.p_value:.3g}" in text

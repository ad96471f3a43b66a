"""The draw: shares as declared, examples of a source alike, and nothing but the seed decides."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.instructions.drawing import build_strata, check_parts, compute_shares, draw, find_parts
from biomedllama_cli.instructions.example import make_pair
from biomedllama_cli.instructions.manifest import compute_fit
from biomedllama_cli.instructions.mixture import LocatedSource, Mixture, MixtureSource
from biomedllama_cli.instructions.mixture_file import read_plan

SEEDS = range(20)
DRAWS, EPOCHS = 50_000, 3


def make_mixture(*sources: MixtureSource) -> Mixture:
    return Mixture("mine", tuple(LocatedSource(source, Path("notes.jsonl")) for source in sources))


def make_source(name: str, weight: float = 1.0, **fields: object) -> MixtureSource:
    return MixtureSource.model_validate({"source": name, "format": "messages", "weight": weight, **fields})


@pytest.fixture(scope="module")
def paper() -> Mixture:
    return make_mixture(*read_plan("paper").sources)


@pytest.fixture(scope="module")
def counts(paper: Mixture) -> dict[str, int]:
    return {each.name: each.source.published_samples or 0 for each in paper.sources}


@pytest.fixture(scope="module")
def parts() -> dict[str, list[str]]:
    return {
        "medpalm": ["medqa"] * 5 + ["medmcqa"] * 5 + ["pubmedqa"] * 3 + ["liveqa"] * 6 + ["medicationqa"] * 5
    }


def test_published_shares_follow_from_samples_and_weights(
    paper: Mixture, counts: dict[str, int], parts: dict[str, list[str]]
) -> None:
    strata = build_strata(counts, paper, seed=0, parts=parts)
    assert len(paper.sources) == 10
    assert round(sum(stratum.mass for stratum in strata)) == 142_356
    for share, each in zip(compute_shares(strata, 10), paper.sources, strict=True):
        printed = each.source.published_share
        assert printed is not None
        # Half a unit of the last printed digit: 0.01 % above one percent, and as printed below.
        unit = {0.006: 0.001, 0.00006: 0.00001}.get(printed, 0.0001)
        assert abs(share - printed) <= unit / 2 + 1e-9, each.name


def test_draws_of_every_source_keep_to_its_share_over_twenty_seeds(
    paper: Mixture, counts: dict[str, int], parts: dict[str, list[str]]
) -> None:
    shares = compute_shares(build_strata(counts, paper, seed=0, parts=parts), 10)
    rows = DRAWS * EPOCHS
    total = np.zeros(10)
    p_values = []
    for seed in SEEDS:
        drawn = np.bincount(draw(counts, paper, DRAWS, EPOCHS, seed, parts=parts)[:, 0], minlength=10)
        assert (np.abs(drawn - rows * shares) <= 4 * np.sqrt(rows * shares * (1 - shares))).all(), seed
        assert drawn.min() >= 1
        p_values.append(stats.chisquare(drawn, rows * shares).pvalue)
        assert compute_fit(drawn.tolist(), (rows * shares).tolist())[2] > 0.001
        total += drawn
    assert min(p_values) > 0.001
    assert stats.chisquare(total, len(SEEDS) * rows * shares).pvalue > 0.001
    # As of independent draws: neither farther from the shares than chance, nor suspiciously near.
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_examples_of_a_source_are_alike() -> None:
    mixture = make_mixture(make_source("small", 40.0), make_source("large"))
    counts = {"small": 50, "large": 3000}
    rows = np.concatenate([draw(counts, mixture, 30_000, 1, seed) for seed in range(5)])
    for index, count in enumerate(counts.values()):
        drawn = np.bincount(rows[rows[:, 0] == index, 1], minlength=count)
        assert len(drawn) == count
        assert 0.001 < stats.chisquare(drawn).pvalue < 0.999


def test_parts_are_drawn_by_their_own_weights() -> None:
    source = make_source("exemplars", 5.0, part_weights={"liveqa": 1.0})
    examples = [
        make_pair(f"{part}/{number}", "exemplars", "Q", "A", exact=False)
        for part, number in [("medqa", 1), ("liveqa", 1), ("medqa", 2), ("liveqa", 2)]
    ]
    mixture = make_mixture(source, make_source("plain"))
    parts = find_parts(mixture, {"exemplars": examples, "plain": []})
    assert parts == {"exemplars": ["medqa", "liveqa", "medqa", "liveqa"]}
    rows = draw({"exemplars": 4, "plain": 12}, mixture, 24_000, 1, 3, parts=parts)
    drawn = Counter(map(tuple, rows[rows[:, 0] == 0].tolist()))
    found = [*(drawn[0, number] for number in range(4)), 24_000 - drawn.total()]
    assert stats.chisquare(found, [5000, 1000, 5000, 1000, 12_000]).pvalue > 0.001


def test_a_weight_of_a_part_that_is_none_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    source = make_source("exemplars", part_weights={"livqa": 1.0})
    mixture, parts = make_mixture(source), {"exemplars": ["medqa", "liveqa"]}
    with pytest.raises(SettingsError, match=r"source exemplars: `part_weights` names 'livqa'") as caught:
        check_parts(mixture, parts)
    assert "Did you mean liveqa" in caught.value.hint
    check_parts(make_mixture(make_source("exemplars", part_weights={"liveqa": 1.0})), parts)
    # A file that is given for another need not have all of its parts.
    check_parts(Mixture("mine", (LocatedSource(source, Path("own.jsonl"), given=True),)), parts)
    assert "exemplars: no example of own.jsonl is of the part livqa" in caplog.text


def test_a_source_that_expects_a_draw_gets_one_under_every_seed() -> None:
    # One draw in a thousand: without the promise, a run of a thousand has none in 37 of 100 seeds.
    mixture = make_mixture(make_source("large"), make_source("tiny"), make_source("speck"))
    counts = {"large": 99_850, "tiny": 100, "speck": 50}
    drawn = np.array(
        [np.bincount(draw(counts, mixture, 500, 2, seed)[:, 0], minlength=3) for seed in range(300)]
    )
    assert drawn[:, 1].min() == 1
    assert drawn[:, 2].min() == 0  # it expects half a draw: nothing is promised
    assert (drawn.sum(axis=1) == 1000).all()
    # The promise shifts the mean from 1 to 1 + exp(-1), no more.
    assert abs(drawn[:, 1].mean() - (1 + np.exp(-1))) < 4 * drawn[:, 1].std() / np.sqrt(300)


def test_a_part_of_an_epoch_keeps_the_promise_too() -> None:
    # Of 1.5 epochs the rows of the second half are never trained on: a draw given there would be none.
    mixture = make_mixture(make_source("large"), make_source("tiny"))
    counts = {"large": 749, "tiny": 1}
    for seed in range(100):
        rows = draw(counts, mixture, 500, 1.5, seed)
        assert (len(rows), (rows[:, 0] == 1).any()) == (750, True)


def test_promised_draws_are_examples_of_their_source() -> None:
    mixture = make_mixture(make_source("large"), make_source("tiny", 1 / 8))
    first = [
        tuple(row)
        for seed in range(60)
        for row in draw({"large": 1000, "tiny": 8}, mixture, 1001, 1, seed).tolist()
        if row[0] == 1
    ]
    assert {example for _, example in first} <= set(range(8))
    assert len({example for _, example in first}) > 4


def test_the_seed_decides() -> None:
    mixture = make_mixture(make_source("one"), make_source("two"))
    counts = {"one": 100, "two": 50}
    assert np.array_equal(draw(counts, mixture, 200, 2, 7), draw(counts, mixture, 200, 2, 7))
    assert not np.array_equal(draw(counts, mixture, 200, 2, 7), draw(counts, mixture, 200, 2, 8))


def test_every_epoch_has_an_order_of_its_own() -> None:
    mixture = make_mixture(make_source("one"), make_source("two"))
    rows = draw({"one": 100, "two": 100}, mixture, 400, 3, 0).reshape(3, 400, 2)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        same_source = (rows[first, :, 0] == rows[second, :, 0]).mean()
        assert 0.4 < same_source < 0.6
        assert (rows[first] == rows[second]).all(axis=1).mean() < 0.05


def test_more_epochs_leave_the_first_ones_as_they_are() -> None:
    mixture = make_mixture(make_source("one"), make_source("two"))
    counts = {"one": 100, "two": 100}
    assert np.array_equal(draw(counts, mixture, 50, 3, 0)[:100], draw(counts, mixture, 50, 2, 0))


def test_the_order_of_the_sources_changes_nothing() -> None:
    sources = [make_source("a"), make_source("b", 2.0, cap=30), make_source("c", 0.1)]
    counts = {"a": 100, "b": 50, "c": 70}
    named = []
    for order in (sources, sources[::-1]):
        mixture = make_mixture(*order)
        rows = draw(dict(reversed(counts.items())), mixture, 300, 2, 5).tolist()
        named.append([(mixture.names[index], example) for index, example in rows])
    assert named[0] == named[1]


def test_a_cap_limits_what_is_used_and_the_share() -> None:
    mixture = make_mixture(make_source("capped", cap=25), make_source("other"))
    rows = draw({"capped": 1000, "other": 75}, mixture, 8000, 2, 1)
    capped = rows[rows[:, 0] == 0, 1]
    assert abs(len(capped) - 4000) < 4 * np.sqrt(16_000 * 0.25 * 0.75)
    assert len(np.unique(capped)) == 25
    assert set(capped[: len(capped) // 2]) == set(capped[len(capped) // 2 :])
    assert max(capped) > 100  # not simply the first ones
    other = draw({"capped": 1000, "other": 75}, mixture, 8000, 1, 2)
    assert set(other[other[:, 0] == 0, 1]) != set(capped)
    uncapped = make_mixture(make_source("capped", cap=1000), make_source("other"))
    assert len(np.unique(draw({"capped": 30, "other": 75}, uncapped, 8000, 1, 1)[:, 1])) == 75


def test_weights_are_the_decimals_that_were_written() -> None:
    strata = build_strata({"x": 3}, make_mixture(make_source("x", 0.1)), seed=0)
    assert strata[0].mass * 10 == 3


def test_a_source_without_examples_is_left_out_and_none_at_all_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mixture = make_mixture(make_source("empty"), make_source("full"))
    assert set(draw({"empty": 0, "full": 5}, mixture, 50, 1, 0)[:, 0].tolist()) == {1}
    assert "empty has no example left" in caplog.text
    with pytest.raises(DataError, match="No source of the mixture mine has an example"):
        draw({"empty": 0, "full": 0}, mixture, 50, 1, 0)


def test_the_draw_is_the_same_everywhere() -> None:
    mixture = make_mixture(make_source("one", 0.3), make_source("two", 30.0))
    rows = draw({"one": 1000, "two": 7}, mixture, 6, 1, 42)
    # Written down from a run: another version of numpy, another platform or a change here would show.
    assert rows.tolist() == [[0, 230], [1, 4], [0, 177], [1, 3], [1, 0], [0, 304]]


def test_neither_the_hash_seed_nor_torch_has_a_part_in_it() -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from biomedllama_cli.instructions.drawing import draw\n"
        "from biomedllama_cli.instructions.mixture import LocatedSource, Mixture\n"
        "from biomedllama_cli.instructions.mixture_file import read_plan\n"
        "sources = read_plan('permissive').sources\n"
        "mixture = Mixture('x', tuple(LocatedSource(s, Path('x')) for s in sources))\n"
        "counts = {s.source: s.published_samples for s in sources}\n"
        "print(draw(counts, mixture, 30, 2, 9).tolist())\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert printed.pop().endswith("\n[]\n")

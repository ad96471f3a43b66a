"""What a dry run says a corpus will come to."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Record
from biomedllama_cli.corpus.estimate import Estimate, estimate_corpus
from biomedllama_cli.corpus.sampling import Sampled, iter_order, sample_file
from biomedllama_cli.corpus.sources.files import InputFile

BLOCK = 1000
SPEED = 1_000_000  # bytes a second on the made-up clock


class World:
    """Files whose truth is known, and a clock that only reading moves."""

    def __init__(self, files: int, blocks: tuple[int, int], seed: int) -> None:
        draw = random.Random(seed)
        self.now = 0.0
        self.contents: dict[str, list[tuple[int, int, int]]] = {}  # of each block: tokens, kept, read
        self.inputs: list[InputFile] = []
        for number in range(files):
            count = draw.randint(*blocks)
            density = draw.lognormvariate(-1.2, 0.25)  # what the documents of a file have in common
            rows = []
            for _ in range(count):
                read = draw.randint(1, 9)
                kept = sum(draw.random() < 0.8 for _ in range(read))
                rows.append((int(BLOCK * density * draw.lognormvariate(0, 0.3)) * kept // read, kept, read))
            name = f"{number:04d}.jsonl"
            self.contents[name] = rows
            self.inputs.append(InputFile(Path(name), name, count * BLOCK, 0))

    def sample(self, file: InputFile) -> Iterator[Sampled]:
        sums = [0, 0, 0]
        for number, row in enumerate(self.contents[file.label], start=1):
            self.now += BLOCK / SPEED
            sums = [total + part for total, part in zip(sums, row, strict=True)]
            yield Sampled(number * BLOCK, *sums)

    def estimate(self, seconds: float, **named: Any) -> Estimate:
        found = estimate_corpus(self.inputs, self.sample, seconds=seconds, clock=lambda: self.now, **named)
        assert found is not None
        return found

    @property
    def truth(self) -> dict[str, int]:
        tokens, kept, read = (
            sum(row[i] for rows in self.contents.values() for row in rows) for i in range(3)
        )
        return {
            "tokens": tokens,
            "documents": kept,
            "documents_read": read,
            "disk_bytes": 2 * tokens + 200 * kept,
        }


@pytest.mark.parametrize(
    ("files", "blocks", "seconds"),
    [
        (100, (20, 60), 0.4),  # a part of some files
        (300, (1, 5), 0.15),  # some files whole
        (4, (100, 400), 0.2),  # a part of all files
        (1, (2000, 2000), 0.2),  # a part of the only file
    ],
)  # fmt: skip
def test_the_interval_holds_the_truth_about_as_often_as_it_says(
    files: int, blocks: tuple[int, int], seconds: float
) -> None:
    trials, hits, widths = 100, 0, []
    for seed in range(trials):
        world = World(files, blocks, seed)
        found = world.estimate(seconds, seed=seed)
        assert not found.exact
        hits += found.tokens.low <= world.truth["tokens"] <= found.tokens.high
        widths.append((found.tokens.high - found.tokens.low) / 2 / world.truth["tokens"])
    assert hits / trials >= 0.88
    assert sum(widths) / trials < 0.25  # an interval from nothing to everything would hold the truth, too


def test_the_guess_is_right_on_average() -> None:
    errors = []
    for seed in range(100):
        world = World(60, (5, 50), seed)
        errors.append(world.estimate(0.3, seed=seed).tokens.value / world.truth["tokens"] - 1)
    assert abs(sum(errors) / len(errors)) < 0.01


@pytest.mark.parametrize("files", [1, 2, 40])
def test_an_input_smaller_than_the_sample_is_known_exactly(files: int) -> None:
    world = World(files, (1, 30), seed=files)
    found = world.estimate(1e6)
    assert found.exact
    assert found.sampled_bytes == found.input_bytes == sum(file.size for file in world.inputs)
    for name, truth in world.truth.items():
        number = getattr(found, name)
        assert (number.low, number.value, number.high) == pytest.approx((truth, truth, truth))


def test_time_is_shared_by_workers_but_not_within_a_file() -> None:
    world = World(50, (20, 20), seed=1)
    alone, many = (World(50, (20, 20), seed=1).estimate(0.3, workers=workers) for workers in (1, 10))
    truth = sum(file.size for file in world.inputs) / SPEED
    assert alone.seconds.value == pytest.approx(truth)
    assert many.seconds.value == pytest.approx(truth / 10)
    assert World(1, (500, 500), seed=1).estimate(0.1, workers=8).seconds.value == pytest.approx(0.5)


def test_the_sample_stays_within_its_time() -> None:
    for files, blocks in ((1000, (1, 3)), (3, (10_000, 10_000)), (40, (1000, 1000))):
        world = World(files, blocks, seed=3)
        world.estimate(0.5)
        assert 0.3 < world.now < 0.6


def test_two_files_are_looked_at_even_without_time() -> None:
    found = World(30, (5, 9), seed=4).estimate(0.0)
    assert found.sampled_files == 2
    assert found.tokens.low < found.tokens.value < found.tokens.high


def test_one_look_at_an_endless_file_promises_little() -> None:
    found = World(1, (5000, 5000), seed=5).estimate(0.0)
    assert found.tokens.low < found.tokens.value / 100
    assert found.tokens.high > 2 * found.tokens.value


def test_the_choice_depends_on_the_seed_alone() -> None:
    first, again, other = (World(90, (5, 9), seed=6).estimate(0.1, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("count", [1, 2, 17, 1000])
def test_files_are_chosen_evenly(count: int) -> None:
    order = list(iter_order(count, seed=0))
    assert sorted(order) == list(range(count))
    if count == 1000:
        chosen = sorted(order[:20])
        assert max(b - a for a, b in itertools.pairwise(chosen)) < 100


def test_nothing_to_go_by_is_no_estimate() -> None:
    world = World(2, (1, 2), seed=0)
    hub = InputFile(Path("hub"), "hub", 7, 0, on_disk=False)
    assert estimate_corpus([], world.sample) is None
    assert estimate_corpus([InputFile(Path("a"), "a", 0, 0)], world.sample) is None
    assert estimate_corpus([*world.inputs, hub], world.sample) is None


class Reader:
    """Reports each position before the records of it, as the readers of files do."""

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        for block in range(3):
            report_position((block + 1) * 10)
            yield Record(f"keep {block}", None, "")
            yield Record("other", None, "")
            yield Dropped("broken", "")
            yield Deletion(7, "")


def test_reading_counts_at_each_position_what_was_consumed_there() -> None:
    def decide(record: Record) -> Record | Dropped:
        return record if record.text.startswith("keep") else Dropped("other", "")

    points = list(
        sample_file(InputFile(Path("f"), "f", 30, 0), Reader(), decide, lambda texts: 5 * len(texts))
    )
    assert [point for point in points if point.bytes] == [(10, 5, 1, 3), (20, 10, 2, 6), (30, 15, 3, 9)]


def test_files_of_one_document_bound_the_documents() -> None:
    free, bound = (World(30, (5, 9), seed=4).estimate(0.0, most_documents=most) for most in (None, 30))
    assert free.documents_read.high > 30
    assert bound.documents_read.high == 30
    assert bound.tokens == free.tokens

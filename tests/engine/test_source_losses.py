from __future__ import annotations

import numpy as np
import pytest

from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.source_losses import SourceLosses

# Rows 0-2 pubmed, 3-4 pmc, 5 pubmed again, 6 of a shard of the third source; one shard is empty.
MIXTURE = Mixture.of([("pubmed", 3), ("pmc", 2), ("none", 0), ("pubmed", 1), ("replay", 1)], {"pubmed": 2})


def build_facts(ids: list[int], losses: list[float], targets: list[float]) -> StepFacts:
    return StepFacts(
        step=1,
        grad_norm=1.0,
        row_losses=np.array(losses),
        row_targets=np.array(targets),
        rank_seconds=np.zeros((1, 2)),
        row_ids=np.array(ids, dtype=np.int64),
        row_checks=np.zeros(len(ids), dtype=np.int64),
        was_accepted=True,
        seconds=1.0,
    )


def test_a_source_has_the_mean_over_the_targets_of_its_rows() -> None:
    noted = SourceLosses(MIXTURE).note(build_facts([5, 3, 0, 4], [6.0, 1.0, 3.0, 5.0], [2, 1, 1, 2]))
    assert noted == pytest.approx({"train/loss/pubmed": 9 / 3, "train/loss/pmc": 6 / 3})


def test_padding_and_sources_without_a_row_in_the_step_say_nothing() -> None:
    noted = SourceLosses(MIXTURE).note(build_facts([6, -1], [2.0, 0.0], [4, 0]))
    assert noted == {"train/loss/replay": 0.5}
    assert SourceLosses(MIXTURE).note(build_facts([-1, -1], [0.0, 0.0], [0, 0])) == {}


def test_a_row_repeated_within_a_step_counts_each_time() -> None:
    noted = SourceLosses(MIXTURE).note(build_facts([1, 1, 2], [1.0, 1.0, 4.0], [1, 1, 1]))
    assert noted == {"train/loss/pubmed": 2.0}

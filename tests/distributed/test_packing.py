"""Examples dealt over ranks: the numbers of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_two_ranks_learn_what_one_learns_from_the_same_examples(
    run_ranks: Callable[..., None], tmp_path: Path
) -> None:
    for world_size in (1, 2):
        run_ranks("packing_worker.py", str(tmp_path), world_size=world_size)
    one, two = (json.loads((tmp_path / f"{world_size}.json").read_text()) for world_size in (1, 2))
    assert one["empty"] == 0
    assert two["empty"] > 0, "no rank had an empty micro-batch, so the test does not show that they are right"
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-4)
    assert two["validation"] == pytest.approx(one["validation"], abs=1e-5)
    assert min(one["losses"][1:]) < one["losses"][0]

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from biomedllama_cli.engine.rows import IGNORED_LABEL
from biomedllama_cli.engine.step import StepFrame, _describe_rows, _share


@pytest.mark.parametrize("sharers", [1, 2, 3, 6, 7, 12])
def test_ranks_that_share_rows_count_their_targets_ids_and_checksums_once(
    sharers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirds and sevenths would sum to a little less than the whole."""

    def add_one_by_one(tensor: torch.Tensor) -> None:
        own = tensor.clone()
        for _ in range(sharers - 1):
            tensor += own

    monkeypatch.setattr(torch.distributed, "all_reduce", add_one_by_one)
    job: Any = SimpleNamespace(num_processes=sharers, process_index=0)
    for targets in (3, 49, 1023, 1999):
        labels = torch.full((1, 2048), IGNORED_LABEL)
        labels[0, :targets] = 5
        batch = {"labels": labels, "row_ids": torch.tensor([7]), "row_checks": torch.tensor([2**32 - 1])}
        rows = _describe_rows([batch], torch.ones(1, 1, dtype=torch.float64))
        shared = _share(job, StepFrame(1.0, 1, 0, 1), rows, (torch.tensor(0.5), 0.0), (0.1,))
        assert shared.row_targets.tolist() == [targets]
        assert shared.target_tokens == targets
        assert (shared.row_ids.tolist(), shared.row_checks.tolist()) == ([7], [2**32 - 1])
        assert shared.row_losses.tolist() == [sharers]

from __future__ import annotations

import pytest
from torch import nn
from torch.optim import SGD
from transformers import get_cosine_schedule_with_warmup

from biomedllama_cli.engine.schedule import learning_rate_at


@pytest.mark.parametrize(("warmup", "total"), [(0, 50), (3, 100), (30, 1000)])
def test_it_is_the_published_cosine_one_update_earlier(warmup: int, total: int) -> None:
    """transformers' k-th update uses its schedule at k - 1 and wastes the first on a rate of 0."""
    optimizer = SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=1e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, total, num_cycles=0.39758)
    for step in range(1, total + 1):
        optimizer.step()
        schedule.step()
        ours = learning_rate_at(
            step, total_steps=total, warmup_steps=warmup, peak_learning_rate=1e-5, final_fraction=0.1
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-4)


def test_a_run_that_only_warms_up_ends_at_the_peak() -> None:
    rates = [
        learning_rate_at(s, total_steps=4, warmup_steps=4, peak_learning_rate=1.0, final_fraction=0.1)
        for s in (1, 2, 3, 4)
    ]
    assert rates == [0.25, 0.5, 0.75, 1.0]

"""The likeliest tokens that reach a probability, and samplers whose rows come and go."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from biomedllama_cli.errors import ModelError
from biomedllama_cli.evaluation import sampling
from biomedllama_cli.evaluation.sampling import ChainSampler, check_scores, keep_likeliest


def keep_by_hand(log_probs: list[float], top_p: float) -> list[bool]:
    """Go from the likeliest token to the least likely, equal ones by their number."""
    kept, mass = [False] * len(log_probs), 0.0
    for token in sorted(range(len(log_probs)), key=lambda token: (-log_probs[token], token)):
        if mass >= top_p:
            break
        kept[token] = True
        mass += float(torch.tensor(log_probs[token]).exp())
    return kept


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0], ids=["equal", "flat", "usual", "peaked"])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
def test_the_smallest_set_that_reaches_top_p_is_kept(spread: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(int(spread * 10))
    scores_BV = torch.randn(3, 3000, generator=generator) * spread
    scores_BV[1] = scores_BV[1].round()  # many equal ones
    log_probs_BV = scores_BV.double().log_softmax(-1)
    kept = (~keep_likeliest(log_probs_BV, top_p).isinf()).tolist()
    for row, expected in zip(kept, log_probs_BV.tolist(), strict=True):
        by_hand = keep_by_hand(expected, top_p)
        # Masses of thousands of equal tokens are rounded in the order in which they are added.
        assert abs(sum(row) - sum(by_hand)) <= (1 if spread == 0 else 0)
        if spread:
            assert row == by_hand


def test_looking_at_the_likeliest_first_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores_BV = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)) * 4
    quick = keep_likeliest(scores_BV.log_softmax(-1), 0.9)
    monkeypatch.setattr(sampling, "_HEAD", 1)
    assert torch.equal(keep_likeliest(scores_BV.log_softmax(-1), 0.9), quick)


def test_a_row_draws_the_same_noise_whoever_comes_and_goes() -> None:
    scores_BV = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    alone = ChainSampler([7], 1.0, 1.0)
    expected = [alone(torch.empty(0), scores_BV) for _ in range(3)]
    sampler, joining = ChainSampler([3, 5], 1.0, 1.0), ChainSampler([7], 1.0, 1.0)
    sampler(torch.empty(0), scores_BV.repeat(2, 1))
    found = [joining(torch.empty(0), scores_BV)]
    sampler.join(joining)
    found.append(sampler(torch.empty(0), scores_BV.repeat(3, 1))[2:])
    sampler.keep([2, 0])
    found.append(sampler(torch.empty(0), scores_BV.repeat(2, 1))[:1])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_scores_that_are_no_numbers_stay_none() -> None:
    assert bool(keep_likeliest(torch.full((2, 9), float("nan")), 0.9).isnan().all())


@pytest.mark.parametrize("row", [[1.0, nan], [1.0, inf], [-inf, -inf]], ids=["nan", "inf", "none left"])
def test_scores_that_nothing_can_be_chosen_from_are_told(row: list[float]) -> None:
    good = [-inf, 3.0]
    check_scores(torch.tensor([good, good]))
    with pytest.raises(ModelError, match="no numbers") as error:
        check_scores(torch.tensor([good, row]))
    assert "--dtype" in error.value.hint

"""Intervals cover what they should."""

import math

import pytest
import torch

from weightspace.evaluation.metrics import intervals, predictive


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 60, 5, generator=random) * 2, torch.randint(0, 5, (60,), generator=random)


def test_bootstrap_intervals_cover_what_they_should(case) -> None:
    logits, y = case
    joint = predictive.ensemble_logits(logits)
    found = intervals.ensemble_intervals(joint, y)
    accuracy = 1 - predictive.errors(joint, y).double().mean().item()
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(y))
    assert found.accuracy == pytest.approx((accuracy - half, accuracy + half), abs=0.03)
    own = torch.nn.functional.nll_loss(joint[0], y, reduction="none")
    half = 1.96 * own.std().item() / math.sqrt(len(y))
    assert found.nll == pytest.approx((own.mean().item() - half, own.mean().item() + half), abs=0.08)
    assert found.brier[0] < predictive.brier(joint, y).item() < found.brier[1]


def test_two_ensembles_of_one_kind_are_not_told_apart() -> None:
    random = torch.Generator().manual_seed(0)
    p = torch.rand(40, 300, generator=random, dtype=torch.float64) * 0.5 + 0.4
    low, high = intervals.of_two_ensembles(p[:20], p[20:])
    assert low < 0 < high
    low, high = intervals.of_two_ensembles((p[:20] + 0.1).clamp(max=1), p[20:])
    assert high < 0
    assert intervals.of_two_ensembles(p[:20], p[20:]) == intervals.of_two_ensembles(p[:20], p[20:])

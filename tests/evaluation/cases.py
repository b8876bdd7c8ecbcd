"""Helpers that several tests of the metrics share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch

from weightspace.evaluation.metrics import novelty
from weightspace.evaluation.predictions import PredictionSum


@contextmanager
def few_points(**others: tuple[float, ...]) -> Iterator[None]:
    """Evaluations with few points on the baselines' curves and few networks at each, which take most of their time."""
    few = {"NOISE": (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0), "RELATIVE_NOISE": (0.4,), "SHARES": (0.3,), "BANDWIDTHS": (0.4,)}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple("weightspace.evaluation.baselines", **(few | others)))
        stack.enter_context(mock.patch.multiple("weightspace.evaluation.measured_baselines", _FEWEST=4, _CURVE=4))
        yield


def mutual_information(logits: torch.Tensor) -> torch.Tensor:
    total = PredictionSum()
    for block in logits.split(2):
        total.add(block)
    return total.result().mutual_information


def binned(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """ECE and MACE of 15 bins of equal width, by hand."""
    confidence, right = p.max(1), p.argmax(1) == y
    gaps: list[tuple[float, float]] = []
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gaps.append((inside.mean(), abs(right[inside].mean() - confidence[inside].mean())))
    return sum(w * g for w, g in gaps), sum(g for _, g in gaps) / len(gaps)


def explained(x: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
    x, bases = x.double(), bases.double()
    return novelty.from_few((bases @ x[..., None])[..., 0], bases @ bases.mT, x.square().sum(1))

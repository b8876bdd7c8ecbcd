"""Intervals of an ensemble's metrics, by resampling the test samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace import seeds
from weightspace.evaluation.calibration import BINS

_DRAWS = 400
_SAMPLES = 2_000  # drawn at once


def intervals(log_p: Float[Tensor, "1 s c"], y: Int[Tensor, " s"], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of accuracy, NLL, Brier and ECE over test samples like these.

    They say how far the figures would move on another test split of the same size, for these networks.
    ECE of a small sample is biased upwards, and so is its interval.
    """
    log_p = log_p.double().log_softmax(-1)[0]
    p = log_p.exp()
    confidence, predicted = p.max(-1)
    right = (predicted == y).double()
    bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    gaps = torch.zeros(len(y), BINS, dtype=torch.float64).scatter_(1, bins[:, None], (right - confidence)[:, None])
    own = log_p.gather(1, y[:, None])[:, 0]
    one_hot = torch.nn.functional.one_hot(y, log_p.shape[1])
    columns = torch.cat([torch.stack([right, -own, (p - one_hot).square().sum(1)], 1), gaps], 1)  # (s, 3 + bins)
    random = seeds.generator(seed, "bootstrap")
    means = torch.empty(_DRAWS, columns.shape[1], dtype=torch.float64)
    step = max(1, _DRAWS * _SAMPLES // len(y))
    for start in range(0, _DRAWS, step):
        draws = min(step, _DRAWS - start)
        chosen = torch.randint(len(y), (draws, len(y)), generator=random)
        counts = torch.zeros(draws, len(y), dtype=torch.float64).scatter_add_(
            1, chosen, torch.ones_like(chosen, dtype=torch.float64)
        )
        means[start : start + draws] = counts @ columns / len(y)
    values = {"accuracy": means[:, 0], "nll": means[:, 1], "brier": means[:, 2], "ece": means[:, 3:].abs().sum(1)}
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {name: v.quantile(ends).tolist() for name, v in values.items()}
    return {name: (low, high) for name, (low, high) in found.items()}


def of_difference(a: Float[Tensor, " n"], b: Float[Tensor, " m"], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of mean(a) - mean(b), two independent groups of networks."""
    random = seeds.generator(seed, "difference")
    draws = [v[torch.randint(len(v), (2_000, len(v)), generator=random)].mean(1) for v in (a.double(), b.double())]
    low, high = (draws[0] - draws[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high

"""Intervals of ensembles' metrics, by resampling test samples and networks."""

import math

import torch
from jaxtyping import Float, Int
from scipy.stats import mannwhitneyu
from scipy.stats import t as student
from torch import Tensor

from weightspace.evaluation.metrics.calibration import BINS
from weightspace.report.results import GroupResult
from weightspace.runtime import seeds

_DRAWS = 400
_DRAWN = 2_000_000  # numbers drawn at once


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
    step = max(1, _DRAWN // len(y))
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


def of_two_ensembles(a: Float[Tensor, "n s"], b: Float[Tensor, "m s"], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the difference of two ensembles' NLL, over networks and test samples like these.

    Args:
        a, b: probability that each network gives to the right class of each sample.
    """
    random = seeds.generator(seed, "two ensembles")
    draws: list[float] = []
    for _ in range(_DRAWS):
        samples = torch.randint(a.shape[1], (a.shape[1],), generator=random)
        losses = [
            p[torch.randint(len(p), (len(p),), generator=random)].mean(0).clamp(min=1e-45).log()[samples].mean()
            for p in (a, b)
        ]
        draws.append((losses[1] - losses[0]).item())
    low, high = (
        torch.tensor(draws, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    )
    return low, high


def _rank_test(a: Float[Tensor, " n"], b: Float[Tensor, " m"], alternative: str) -> float:
    return float(mannwhitneyu(a.numpy(), b.numpy(), alternative=alternative).pvalue)


def _difference(a: GroupResult, b: GroupResult) -> tuple[float, float]:
    one, two = ((r.mean("accuracy"), r.std("accuracy"), r.count) for r in (a, b))
    return _welch(*one, *two)


def _welch(mean_a: float, std_a: float, n: int, mean_b: float, std_b: float, m: int) -> tuple[float, float]:
    """95 % interval of a difference of means; a group of one network, such as the mean network, has no spread."""
    a, b = std_a**2 / n, std_b**2 / m
    gap = mean_a - mean_b
    if a + b == 0:
        return gap, gap
    freedom = (a + b) ** 2 / (a**2 / max(n - 1, 1) + b**2 / max(m - 1, 1))
    half = float(student.ppf(0.975, freedom)) * math.sqrt(a + b)
    return gap - half, gap + half


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}"

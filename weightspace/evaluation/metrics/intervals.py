"""Intervals and tests: of an ensemble's metrics by resampling, of differences of means, of ranks."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.evaluation.metrics.calibration import BINS
from weightspace.report.metrics import EnsembleIntervals
from weightspace.report.results import GroupResult
from weightspace.runtime import seeds

_DRAWS = 400
_DRAWN = 2_000_000  # numbers drawn at once


def ensemble_intervals(log_p: Float[Tensor, "1 s c"], y: Int[Tensor, " s"], *, seed: int = 0) -> EnsembleIntervals:
    """95 % percentile intervals of accuracy, NLL, Brier and ECE over test samples like these.

    They say how far the figures would move on another test split of the same size, for these networks. ECE of a small
    sample is biased upwards, and so is its interval.

    Args:
        log_p: Log-probabilities of the ensemble.
        y: The right classes.
        seed: Seed of the resampling.
    """
    log_p = log_p.double().log_softmax(-1)[0]
    p = log_p.exp()
    confidence, predicted = p.max(-1)
    right = (predicted == y).double()
    bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    gaps = torch.zeros(len(y), BINS, dtype=torch.float64).scatter_(1, bins[:, None], (right - confidence)[:, None])
    likelihood = log_p.gather(1, y[:, None])[:, 0]
    one_hot = torch.nn.functional.one_hot(y, log_p.shape[1])
    columns = torch.cat([torch.stack([right, -likelihood, (p - one_hot).square().sum(1)], 1), gaps], 1)  # (s, 3 + bins)
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
    ece = means[:, 3:].abs().sum(1)
    return EnsembleIntervals(*map(_percentiles, (means[:, 0], means[:, 1], means[:, 2], ece)))


def log_likelihood(p: Float[Tensor, "*targets"]) -> Float[Tensor, "*targets"]:
    """What an ensemble of classifiers gains from each target: the logarithm of the right class's mean probability."""
    return p.clamp(min=1e-45).log()


def of_two_ensembles(
    a: Float[Tensor, "n s ..."],
    b: Float[Tensor, "m s ..."],
    *,
    seed: int = 0,
    gain: Callable[[Tensor], Float[Tensor, " s"]] = log_likelihood,
) -> tuple[float, float]:
    """95 % percentile interval of the loss of `a` minus that of `b`, over networks and test samples like these.

    Args:
        a: Probability that each network of one ensemble gives to the right class of each sample, or what else
            networks contribute to an ensemble, which is their mean.
        b: The same for the other ensemble.
        seed: Seed of the resampling.
        gain: What an ensemble gains from each sample, a function of the mean; by default the log-likelihood, so that
            the loss is the NLL.
    """
    random = seeds.generator(seed, "two ensembles")
    draws: list[float] = []
    for _ in range(_DRAWS):
        samples = torch.randint(a.shape[1], (a.shape[1],), generator=random)
        gains = [gain(p[torch.randint(len(p), (len(p),), generator=random)].mean(0))[samples].mean() for p in (a, b)]
        draws.append((gains[1] - gains[0]).item())
    return _percentiles(torch.tensor(draws, dtype=torch.float64))


def rank_test(a: Float[Tensor, " n"], b: Float[Tensor, " m"], alternative: str) -> float:
    """The p value of a Mann-Whitney test.

    Args:
        a: Values of one group.
        b: Values of the other.
        alternative: "less" if `a` is smaller than `b` where the test is significant, or "greater".
    """
    from scipy import stats

    return float(stats.mannwhitneyu(a.numpy(), b.numpy(), alternative=alternative).pvalue)


def mean_difference(a: GroupResult, b: GroupResult, metric: str) -> tuple[float, float]:
    """95 % interval of the mean of a metric of one group minus that of another, over networks (Welch)."""
    one, two = ((group.mean(metric), group.std(metric), group.count) for group in (a, b))
    return welch_interval(*one, *two)


def welch_interval(mean_a: float, std_a: float, n_a: int, mean_b: float, std_b: float, n_b: int) -> tuple[float, float]:
    """95 % interval of a difference of two means, by Welch's t test.

    The same as the `confidence_interval` of `scipy.stats.ttest_ind(a, b, equal_var=False)`, which needs the values
    themselves and at least two on each side; a group of one network, such as the mean network, has no spread here.

    Args:
        mean_a: Mean of the first group.
        std_a: Standard deviation of the first group.
        n_a: Networks in the first group.
        mean_b: Mean of the second group.
        std_b: Standard deviation of the second group.
        n_b: Networks in the second group.
    """
    from scipy import stats

    a, b = std_a**2 / n_a, std_b**2 / n_b
    difference = mean_a - mean_b
    if a + b == 0:
        return difference, difference
    freedom = (a + b) ** 2 / (a**2 / max(n_a - 1, 1) + b**2 / max(n_b - 1, 1))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(a + b)
    return difference - half, difference + half


def p_text(value: float) -> str:
    """A p value for a sentence, such as "= 0.03" or "< 0.0001"."""
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}"


def _percentiles(values: Float[Tensor, " d"]) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high

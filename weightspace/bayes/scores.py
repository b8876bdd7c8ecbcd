"""Scores of Bayesian weights, from their means mu and standard deviations sigma; the weights with the highest are kept.

With m = |mu| and r = m / sigma: the signal-to-noise ratio, -log alpha of sparse variational dropout (Molchanov et al.
2017, arXiv 1701.05369), the certainty of the sign Phi(r) and the signal-to-noise ratio of |w| are all increasing
functions of r. They give one and the same mask, so only the first is here.

A score is any callable of the shape of `PosteriorScore`. One that is a dataclass and is registered with
`@posterior_scores.register("my-score")` can also be saved with a study.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling
from weightspace.storage.typed import Registry


@runtime_checkable
class PosteriorScore(Protocol):
    """Ranks the live weights of each network."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        """Scores of all positions; only those of live weights are used.

        Args:
            mu: Posterior means.
            sigma: Posterior standard deviations; zero where pruned.
            live: True where a weight can be pruned.
            pruned: Fraction of the live weights that will be removed, for scores that depend on where the cut is.
        """
        ...


posterior_scores: Registry[PosteriorScore] = Registry("score of posteriors")


@posterior_scores.register("magnitude")
@dataclass(frozen=True)
class MeanMagnitude:
    """|mu|: the magnitude of the mean; the standard deviation plays no part."""

    spelling: ClassVar[Spelling] = Spelling("Magnitude")

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return mu.abs()


@posterior_scores.register("signal-to-noise")
@dataclass(frozen=True)
class SignalToNoise:
    """|mu| / sigma (Blundell et al. 2015, arXiv 1505.05424, section 5.1)."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return _ratio(mu, sigma)


@posterior_scores.register("root-second-moment")
@dataclass(frozen=True)
class RootSecondMoment:
    """sqrt(mu^2 + sigma^2): uncertainty counts *for* a weight (Kuhn et al. 2026, arXiv 2602.18825)."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return torch.hypot(mu, sigma)


@posterior_scores.register("bound")
@dataclass(frozen=True)
class Bound:
    """|mu| - lambda sigma: keeps weights that are surely large; a negative `strength` rewards uncertainty.

    lambda = strength * q, where q is the quantile of |mu| / sigma at the cut. So strength 0 gives the mask of
    `MeanMagnitude`, and strength 1 exactly that of `SignalToNoise`, at every level and for every scale of sigma, where
    the pattern ranks the whole network together (there is one lambda for a network).

    Args:
        strength: Strength of the penalty on sigma.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "strength")

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        ratio = _ratio(mu, sigma)
        rows = [self.strength * _at_cut(r[on], pruned) for r, on in zip(ratio, live, strict=True)]
        return mu.abs() - torch.stack(rows)[:, None] * sigma


@posterior_scores.register("band")
@dataclass(frozen=True)
class Band:
    """Magnitude first, standard deviation second: sigma decides inside a band of |mu| around the cut.

    Floats have no ties, so a strict order by |mu|, then sigma, is the order by |mu|. Here all weights below the
    quantile `pruned - half_width` of |mu| are removed and all above `pruned + half_width` stay. Of those between, the
    weights with the largest sigma are removed first.

    Args:
        half_width: Half the width of the band, in quantiles of |mu| over the live weights; 0 gives `MeanMagnitude`.
    """

    half_width: float = 0.05

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "half_width", at_least=0, below=1)

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        scores = torch.zeros_like(mu)
        for row, size, spread, on in zip(scores, mu.abs(), sigma, live, strict=True):
            at = on.nonzero()[:, 0]
            order = at[size[at].argsort(stable=True)]
            n = len(order)
            low = max(0, math.ceil((pruned - self.half_width) * n - 1e-9))
            high = min(n, math.floor((pruned + self.half_width) * n + 1e-9))
            if high > low:
                inside = order[low:high]
                order = torch.cat(
                    [order[:low], inside[spread[inside].argsort(descending=True, stable=True)], order[high:]]
                )
            row[order] = torch.arange(1, n + 1, dtype=row.dtype)
        return scores


@posterior_scores.register("kl-gain")
@dataclass(frozen=True)
class KLGain:
    """Logarithm of the Bayes factor against w = 0 under the prior N(0, s^2): r^2 / 2 + ln(sigma / s).

    It is the limit of Bayesian model reduction (cf. arXiv 2210.09134); s shifts all scores alike.

    Args:
        prior_std: Standard deviation s of the prior.
    """

    prior_std: float = 1.0

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "prior_std", above=0)

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return _ratio(mu, sigma).square() / 2 + (sigma.clamp(min=_TINY) / self.prior_std).log()


@posterior_scores.register("inclusion")
@dataclass(frozen=True)
class Inclusion:
    """Probability that |w| exceeds a threshold under the posterior, as log odds.

    Args:
        threshold: Threshold, in units of the standard deviation of the live means of the network.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "threshold", above=0)

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        cut = self.threshold * torch.stack([m[on].std() for m, on in zip(mu, live, strict=True)])[:, None]
        scale = sigma.clamp(min=_TINY)
        # In log space and of both outcomes: probabilities round to one or to zero, and all weights would tie.
        normal, size = torch.special.log_ndtr, mu.abs()
        inside, beyond = normal((cut - size) / scale), normal((-cut - size) / scale)
        without = inside + (-(beyond - inside).exp()).log1p()
        return torch.logaddexp(normal((size - cut) / scale), beyond) - without


_TINY = 1e-30


def _ratio(mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return mu.abs() / sigma.clamp(min=_TINY)


def _at_cut(values: Float[Tensor, " k"], pruned: float) -> Float[Tensor, ""]:
    """The smallest value that is kept when this fraction is removed."""
    removed = min(len(values) - 1, round(pruned * len(values)))
    return values.kthvalue(removed + 1).values

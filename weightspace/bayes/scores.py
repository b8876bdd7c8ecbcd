"""Scores of Bayesian weights, from means and standard deviations; the highest are kept.

m = |mu|, r = m / sigma. Signal to noise, -log alpha of sparse variational dropout, sign certainty Phi(r) and the SNR
of |w| are increasing functions of r and give one and the same mask: only the first is here.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError


@runtime_checkable
class Score(Protocol):
    """Ranks the live weights of each network."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        """Scores; only those of live weights are read.

        Args:
            pruned: fraction of the live weights that will be removed, for scores that depend on where the cut is.
        """
        ...


@dataclass(frozen=True)
class Magnitude:
    """|mu|."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return mu.abs()


@dataclass(frozen=True)
class SignalToNoise:
    """|mu| / sigma (arXiv 1505.05424, section 5.1)."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return _ratio(mu, sigma)


@dataclass(frozen=True)
class RootSecondMoment:
    """sqrt(mu^2 + sigma^2), in which uncertainty speaks *for* a weight (arXiv 2602.18825)."""

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return torch.hypot(mu, sigma)


@dataclass(frozen=True)
class Bound:
    """|mu| - lambda sigma: the weights that are large even when unlucky; a negative `strength` rewards uncertainty.

    lambda = strength * q, where q is the quantile of |mu| / sigma at the cut: strength 0 is the mask of `Magnitude`,
    strength 1 exactly that of `SignalToNoise`, in every level and for every scale of sigma; where the pattern ranks
    the whole network together (lambda is one number for it).

    Args:
        strength: of the penalty.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise InputError(f"the strength must be finite, got {self.strength}")

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        ratio = _ratio(mu, sigma)
        rows = [self.strength * _at_cut(r[on], pruned) for r, on in zip(ratio, live, strict=True)]
        return mu.abs() - torch.stack(rows)[:, None] * sigma


@dataclass(frozen=True)
class Band:
    """Magnitude first, standard deviation second: sigma decides inside a band of |mu| around the cut.

    Floats have no ties, so that a strict order by |mu|, then sigma, is the order by |mu|. Here all weights below the
    quantile `pruned - half_width` of |mu| go, all above `pruned + half_width` stay, and of those between the ones with
    the largest sigma go first.

    Args:
        half_width: in quantiles of |mu| over the live weights; 0 is `Magnitude`.
    """

    half_width: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.half_width < 1:
            raise InputError(
                f"the half-width of the band is a share of the live weights in [0, 1), got {self.half_width}"
            )

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


@dataclass(frozen=True)
class KLGain:
    """log of the Bayes factor against w = 0 under the prior N(0, s^2): r^2 / 2 + ln(sigma / s).

    The limit of Bayesian model reduction (cf. arXiv 2210.09134); s shifts all scores alike.

    Args:
        prior_std: s.
    """

    prior_std: float = 1.0

    def __call__(
        self, mu: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"], live: Bool[Tensor, "n d"], pruned: float
    ) -> Float[Tensor, "n d"]:
        return _ratio(mu, sigma).square() / 2 + (sigma.clamp(min=_TINY) / self.prior_std).log()


@dataclass(frozen=True)
class Inclusion:
    """P(|w| > threshold) under the posterior, as log odds.

    Args:
        threshold: in units of the standard deviation of the live means of the network.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise InputError(f"the threshold must be positive and finite, got {self.threshold}")

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

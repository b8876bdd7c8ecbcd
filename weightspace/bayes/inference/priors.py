"""Priors of the weights as Pyro distributions, with the sites that they add to model and guide."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from weightspace.runtime import checks


@runtime_checkable
class Prior(Protocol):
    """Prior p(w) of the live weights."""

    def distribution(self, centre: Float[Tensor, "n 1 k"]) -> Distribution:
        """Prior of the weights, batch shape (n, 1), event shape (k); called in the model, where it may draw sites.

        Args:
            centre: Weights that the posterior starts from.
        """
        ...

    def parameters(self, live: Float[Tensor, "n k"]) -> dict[str, nn.Parameter]:
        """Parameters that the guide needs for these sites, each with the shape of the live weights.

        Args:
            live: Live weights at the start.
        """
        ...

    def guide(self, parameters: dict[str, nn.Parameter]) -> None:
        """Draw these sites; called inside the guide.

        Args:
            parameters: What `parameters` returned.
        """
        ...


class _WithoutSites:
    def parameters(self, live: Float[Tensor, "n k"]) -> dict[str, nn.Parameter]:
        return {}

    def guide(self, parameters: dict[str, nn.Parameter]) -> None:
        pass


@dataclass(frozen=True)
class Normal(_WithoutSites):
    """N(0, std^2) for every weight; its KL from a normal guide is analytic.

    Args:
        std: Standard deviation.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "std", above=0)

    def distribution(self, centre: Float[Tensor, "n 1 k"]) -> Distribution:
        return dist.Normal(centre.new_zeros(()).expand_as(centre), self.std).to_event(1)


@dataclass(frozen=True)
class Centred(_WithoutSites):
    """N(w_0, std^2) around the weights that the posterior starts from (MOPED, arXiv 1906.05323); analytic KL.

    Args:
        std: Standard deviation.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "std", above=0)

    def distribution(self, centre: Float[Tensor, "n 1 k"]) -> Distribution:
        return dist.Normal(centre, self.std).to_event(1)


@dataclass(frozen=True)
class ScaleMixture(_WithoutSites):
    """Mixture of a wide and a narrow normal (Blundell et al. 2015, arXiv 1505.05424, eq. 7); its KL is sampled.

    Args:
        share: Share of the wide part, in (0, 1).
        wide: Standard deviation of the wide part.
        narrow: Standard deviation of the narrow part.
    """

    share: float = 0.5
    wide: float = 1.0
    narrow: float = math.exp(-6)

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "wide", "narrow", above=0)
        checks.settle(self, checks.number, "share", above=0, below=1)

    def distribution(self, centre: Float[Tensor, "n 1 k"]) -> Distribution:
        stds = centre.new_tensor([self.wide, self.narrow]).expand(*centre.shape, 2)
        parts = dist.Categorical(centre.new_tensor([self.share, 1 - self.share]).expand(*centre.shape, 2))
        return dist.MixtureSameFamily(parts, dist.Normal(torch.zeros_like(stds), stds)).to_event(1)


@dataclass(frozen=True)
class Horseshoe:
    """N(0, s^2) with a half-Cauchy scale s for each weight (Carvalho et al. 2009); the guide of s is log-normal.

    Args:
        scale: Scale of the half-Cauchy distribution.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "scale", above=0)

    def distribution(self, centre: Float[Tensor, "n 1 k"]) -> Distribution:
        scales = dist.HalfCauchy(torch.full_like(centre, self.scale)).to_event(1)
        return dist.Normal(torch.zeros_like(centre), pyro.sample("local_scale", scales)).to_event(1)

    def parameters(self, live: Float[Tensor, "n k"]) -> dict[str, nn.Parameter]:
        start = torch.full_like(live, math.log(self.scale))
        return {"local_location": nn.Parameter(start), "local_rho": nn.Parameter(torch.full_like(live, -1.0))}

    def guide(self, parameters: dict[str, nn.Parameter]) -> None:
        location, rho = (parameters[name][:, None] for name in ("local_location", "local_rho"))
        pyro.sample("local_scale", dist.LogNormal(location, rho.exp()).to_event(1))

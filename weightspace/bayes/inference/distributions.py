"""Distributions of the guides, whose KL is known in closed form."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.kl import register_kl


class MeanField(dist.Normal):
    """A normal distribution given by the logarithm of its standard deviation, which its KL needs again."""

    def __init__(self, loc: Tensor, rho: Tensor) -> None:
        self.rho = rho
        super().__init__(loc, rho.exp(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> "MeanField":
        """The distribution with another batch shape."""
        return self if batch_shape == self.batch_shape else MeanField(self.loc.expand(batch_shape), self.rho)


class Gate(dist.RelaxedBernoulli):
    """A relaxed Bernoulli gate in (0, 1) (Maddison et al. 2017, arXiv 1611.00712, section 3.3.2).

    Its KL is that of the Bernoulli gates that it relaxes, as they are what is kept in the end.
    """

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        super().__init__(temperature, logits=logits, validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Gate":
        """The distribution with another batch shape."""
        return self if batch_shape == self.batch_shape else Gate(self.temperature, self.logits.expand(batch_shape))

    def of_uniform(self, uniform: Tensor) -> Tensor:
        """Gates as a function of uniform noise in (0, 1), differentiable in the logits."""
        uniform = uniform.clamp(min=torch.finfo(uniform.dtype).tiny, max=1 - torch.finfo(uniform.dtype).eps)
        return ((uniform.log() - (-uniform).log1p() + self.logits) / self.temperature).sigmoid()


@register_kl(Gate, Gate)
def _kl_gates(q: Gate, p: Gate) -> Tensor:
    probability, softplus = q.logits.sigmoid(), torch.nn.functional.softplus
    return probability * (q.logits - p.logits) - softplus(q.logits) + softplus(p.logits)

"""Pyro's mean-field ELBO without densities that nobody reads.

Stock `TraceMeanField_ELBO` evaluates the log-density of every site in model and guide, then takes the analytic KL where
there is one. For a site with as many values as a network has weights that costs more than the network.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from weightspace.bayes.inference.distributions import MeanField
from weightspace.errors import InputError


class MeanFieldELBO(TraceMeanField_ELBO):
    """`TraceMeanField_ELBO` that evaluates densities only where a KL is not analytic: the same value, faster.

    Pyro's checks of plates and shapes are not made; try a new model with Pyro's own class once.
    """

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss with its gradient; not finite where the model diverges, which the caller checks."""
        traces = self._get_traces(model, guide, args, kwargs)
        losses = [self._differentiable_loss_particle(*pair)[1] for pair in traces]
        return torch.stack(losses).mean()

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[float, Tensor]:
        model_trace.compute_log_prob(lambda _name, site: bool(site["is_observed"]))
        elbo = torch.zeros(())
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample":
                elbo = elbo + (
                    site["log_prob_sum"] if site["is_observed"] else _minus_kl(name, model_trace, guide_trace)
                )
        return -elbo.item(), -elbo


class _NormalKL(torch.autograd.Function):
    """Sum of the KL of normals in two passes over memory; the prior is not trained.

    Written out, autograd makes a tensor of a network's size for every operation, which takes longer than the network.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, rho: Tensor, std: Tensor, prior_loc: Tensor, prior_std: Tensor) -> Tensor:
        one = _constant(prior_std)
        off = loc if _constant(prior_loc) == 0 else loc - prior_loc
        ctx.save_for_backward(off, std, prior_std if one is None else torch.tensor(one, dtype=loc.dtype))
        if one is None:
            logs = prior_std.log().sum()
            square = ((off.square() + std.square()) / prior_std.square()).sum()
        else:
            logs = loc.numel() * math.log(one)
            square = (torch.linalg.vector_norm(off).square() + torch.linalg.vector_norm(std).square()) / one**2
        return 0.5 * (square - loc.numel()) + logs - rho.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        off, std, prior_std = ctx.saved_tensors
        factor = grad / prior_std.square()
        return off * factor, std.square().mul_(factor).sub_(grad), None, None, None


def _constant(values: Tensor) -> float | None:
    """The value of a tensor that holds one number, expanded."""
    return values.flatten()[0].item() if not any(values.stride()) else None


def _base(distribution: Any) -> Any:
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution


def _minus_kl(name: str, model: Any, guide: Any) -> Tensor:
    """-KL of a site, or an estimate of it."""
    if name not in guide.nodes:
        raise InputError(f"the guide has no site {name!r}, which the model draws")
    site: Any = guide.nodes[name]
    if not getattr(site["fn"], "has_rsample", False):
        raise InputError(f"site {name!r} of the guide is not reparameterised, so the mean-field ELBO does not apply")
    q, p = _base(site["fn"]), _base(model.nodes[name]["fn"])
    plain = isinstance(q, MeanField) and type(p) is dist.Normal and site["mask"] is None and p.loc.shape == q.loc.shape
    if plain and not (p.loc.requires_grad or p.scale.requires_grad):  # a prior with sites of its own has a gradient
        return -site["scale"] * _NormalKL.apply(q.loc, q.rho, q.scale, p.loc, p.scale)
    try:
        kl = kl_divergence(site["fn"], model.nodes[name]["fn"])
    except NotImplementedError:
        for trace in (model, guide):
            trace.compute_log_prob(lambda one, _site: one == name)
        return model.nodes[name]["log_prob_sum"] - guide.nodes[name]["log_prob_sum"]
    return -scale_and_mask(kl, scale=site["scale"], mask=site["mask"]).sum()

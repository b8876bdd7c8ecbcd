"""How alike networks of a collection are, pair by pair: cosines of their weights and overlaps of their masks."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace import seeds
from weightspace.collection import Collection
from weightspace.pattern import Pattern, Unstructured, density_of

_SAME_DENSITY, _FEW = 0.01, 4  # relative; and fewer tickets than these say nothing about pairs
_TICKETS, _USUAL = 256, 0.95  # tickets whose pairs are compared, and the quantile that samples may reach
_SMALL = 1e-12  # what is below is rounding


def usual(tickets: Collection, pattern: Pattern, seed: int) -> tuple[float, float]:
    """Cosine and mask overlap that 95 % of the pairs of tickets stay below, under a pattern.

    From tickets of the density nearest to the pattern's (where too few share one, from the nearest few), pruned by it. If
    they have fewer weights than it keeps, their own overlap is carried over as its share of the way from chance (the
    density) to one.
    """
    densities = tickets.densities
    wanted = density_of(pattern)
    nearest = densities.median() if wanted is None else densities[(densities.log() - math.log(wanted)).abs().argmin()]
    apart = (densities / nearest - 1).abs()
    near = (apart < _SAME_DENSITY).nonzero()[:, 0]
    if len(near) < _FEW:
        near = apart.argsort(stable=True)[:_FEW]
    order = torch.randperm(len(near), generator=seeds.generator(seed, "refinement pairs"))
    some = tickets[near[order[:_TICKETS]]]
    free = ~tickets.layout.prunable
    if wanted is None or wanted > 1.01 * nearest.item():
        cosine, overlap = alike(some.weights, some.masks, free)
        own, chance = overlap.quantile(_USUAL).item(), nearest.item()
        if wanted is not None:
            own = wanted + (1 - wanted) * max(0.0, own - chance) / max(_SMALL, 1 - chance)
        return cosine.quantile(_USUAL).item(), own
    fewer = isinstance(pattern, Unstructured) and wanted > 0.99 * nearest.item()  # theirs already, but for rounding
    masks = some.masks if fewer else pattern.mask(some.weights.abs(), tickets.layout, within=some.masks)
    cosine, overlap = alike(some.weights * masks, masks, free)
    return cosine.quantile(_USUAL).item(), overlap.quantile(_USUAL).item()


def alike(
    weights: Float[Tensor, "n d"], masks: Tensor, free: Bool[Tensor, " d"]
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Cosine of each pair of networks, and overlap of their masks (shared non-zeros over non-zeros).

    Args:
        masks: (n, d), or soft values between 0 and 1 whose gradient moves masks.
        free: positions that are not prunable, which do not count.
    """
    first, second = torch.triu_indices(len(weights), len(weights), offset=1)
    inner, shared = _products(weights, free), _products(masks.to(weights.dtype), free)
    norm = inner.diagonal().sqrt()
    cosine = inner / (norm[:, None] * norm)
    return cosine[first, second], shared[first, second] / shared.detach().diagonal().mean()


def _products(rows: Float[Tensor, "n d"], free: Bool[Tensor, " d"]) -> Float[Tensor, "n n"]:
    """Inner products over the prunable positions: all, less the few others (selecting the many would copy them)."""
    others = rows[:, free]
    return rows @ rows.T - others @ others.T

"""How alike networks of a collection are, pair by pair: cosines of their weights and overlaps of their masks."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.generator.conditions import density_for_generators
from weightspace.masks.patterns import Pattern
from weightspace.masks.schedule import count_of
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import seeds

_SAME_DENSITY, _FEW = 0.01, 4  # relative; and fewer tickets than these say nothing about pairs
_TICKETS, _USUAL = 256, 0.95  # tickets whose pairs are compared, and the quantile that samples may reach
_SMALL = 1e-12  # what is below is rounding


def typical_similarity(tickets: Collection, pattern: Pattern, seed: int) -> tuple[float, float]:
    """Cosine and mask overlap that 95 % of the pairs of tickets stay below, under a pattern.

    From tickets of the density nearest to the pattern's (where too few share one, from the nearest few), pruned by it.
    If they have fewer weights than it keeps, their own overlap is carried over as its share of the way from chance (the
    density) to one.
    """
    densities = tickets.densities
    wanted = density_for_generators(pattern)
    nearest = densities.median() if wanted is None else densities[(densities.log() - math.log(wanted)).abs().argmin()]
    apart = (densities / nearest - 1).abs()
    near = (apart < _SAME_DENSITY).nonzero()[:, 0]
    if len(near) < _FEW:
        near = apart.argsort(stable=True)[:_FEW]
    order = torch.randperm(len(near), generator=seeds.generator(seed, "refinement pairs"))
    some = tickets[near[order[:_TICKETS]]]
    layout = tickets.layout
    if wanted is None or wanted > 1.01 * nearest.item():
        cosine, overlap = _of(some.weights, some.masks, layout)
        own, chance = overlap.quantile(_USUAL).item(), nearest.item()
        if wanted is not None:
            own = wanted + (1 - wanted) * max(0.0, own - chance) / max(_SMALL, 1 - chance)
        return cosine.quantile(_USUAL).item(), own
    fewer = count_of(pattern, layout) is not None and wanted > 0.99 * nearest.item()  # theirs already, but for rounding
    masks = some.masks if fewer else pattern.mask(some.weights.abs(), layout, within=some.masks)
    cosine, overlap = _of(some.weights * masks, masks, layout)
    return cosine.quantile(_USUAL).item(), overlap.quantile(_USUAL).item()


def _of(weights: Float[Tensor, "n d"], masks: Bool[Tensor, "n d"], layout: Layout) -> tuple[Tensor, Tensor]:
    return pairwise_similarity(products(weights, layout), products(masks.to(weights.dtype), layout))


def products(rows: Float[Tensor, "n d"], layout: Layout) -> Float[Tensor, "n n"]:
    """Inner products over the prunable positions: all, less the few others (selecting the many would copy them)."""
    found = rows @ rows.T
    for at in layout.free:
        found -= rows[:, at] @ rows[:, at].T
    return found


def pairwise_similarity(
    inner: Float[Tensor, "n n"], shared: Float[Tensor, "n n"]
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Cosine of each pair of networks, and overlap of their masks (shared non-zeros over non-zeros).

    Args:
        inner: Inner products of their weights, (n, n).
        shared: Inner products of their masks, (n, n).
    """
    first, second = torch.triu_indices(len(inner), len(inner), offset=1, device=inner.device)
    norm = inner.diagonal().sqrt()
    cosine = inner / (norm[:, None] * norm)
    return cosine[first, second], shared[first, second] / shared.detach().diagonal().mean()


def similarity_penalty(
    sparse: Float[Tensor, "n d"], masks: Float[Tensor, "n d"], limits: tuple[float, float], layout: Layout
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Gradients, for the weights and for the masks as if these were soft, of how far pairs are above the limits.

    Pair by pair: a mean over pairs would be content with a few clusters far from each other. The penalty is the
    mean of relu(cosine - limit) and that of relu(overlap - limit). It is a function of n x n products, through
    which two matrix products carry it back; automatic differentiation would do so through a dozen passes over all
    weights.
    """
    inner, shared = (products(rows, layout).requires_grad_() for rows in (sparse, masks))
    cosine, overlap = pairwise_similarity(inner, shared)
    total = F.relu(cosine - limits[0]).mean() + F.relu(overlap - limits[1]).mean()
    moved: list[Tensor] = []
    for rows, found in zip((sparse, masks), torch.autograd.grad(total, (inner, shared)), strict=True):
        by_rows = (found + found.T) @ rows
        for at in layout.free:
            by_rows[:, at] = 0
        moved.append(by_rows)
    return moved[0], moved[1]

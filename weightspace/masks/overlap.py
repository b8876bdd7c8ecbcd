"""How much masks have in common, and how much they would by chance."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, check_pattern
from weightspace.masks.schedule import part_of
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks


def overlap_matrix(masks: Bool[Tensor, "n p"], others: Bool[Tensor, "m p"]) -> Float[Tensor, "n m"]:
    """Shared non-zeros over non-zeros of every mask with every other (their mean where two differ in size).

    Random masks of density d overlap by d.

    Args:
        masks: Masks of n networks, at the prunable positions.
        others: Masks of m networks, at the same positions.
    """
    for value, name in ((masks, "masks"), (others, "others")):
        checks.tensor(value, name, shape=("networks", "weights"), dtype=torch.bool)
    if masks.shape[1] != others.shape[1]:
        raise checks.refuse("others", f"masks of {masks.shape[1]} weights, as the first are", others)
    return overlap_of_numbers(masks.float(), others.float())


def overlap_of_numbers(a: Float[Tensor, "n p"], b: Float[Tensor, "m p"]) -> Float[Tensor, "n m"]:
    """As `overlap_matrix`, of masks as zeros and ones.

    Args:
        a: Masks of n networks.
        b: Masks of m networks.
    """
    return (2 * (a @ b.T) / (a.sum(1, keepdim=True) + b.sum(1))).double()


def mask_overlap(
    first: Collection, second: Collection, *, pattern: Pattern | None = None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Kept weights that two networks share, over those of the first; and what chance alone would give.

    Pairs networks in order. Chance: masks with as many weights of each layer at random places share a_l b_l / N_l of
    them. Level by level this says how much of a mask a second run finds again (`IMP.find_levels` of networks with
    one start and other data orders, say).

    Args:
        first: Networks whose kept weights are counted.
        second: As many networks to compare them with.
        pattern: Pattern of the masks; of a selection (`Only`, `Except`) the selected tensors alone are counted. None
            counts all prunable weights.

    Returns:
        Overlap of each pair, and its expectation by chance.

    Raises:
        LayoutMismatch: The layouts differ.
        InputError: The numbers of networks differ.
    """
    check_networks(first, "first")
    check_networks(second, "second")
    first.layout.require(second.layout, "the second collection")
    if len(first) != len(second):
        raise InputError(f"networks are compared in pairs, got {len(first)} and {len(second)}")
    layout = first.layout if pattern is None else part_of(check_pattern(pattern), first.layout)
    kept = first.masks[:, layout.prunable].sum(1).double()
    shared = (first.masks & second.masks)[:, layout.prunable].sum(1).double()
    chance = torch.zeros(len(first), dtype=torch.float64)
    for entry in layout.weights:
        at = layout.slices[entry.name]
        chance += first.masks[:, at].sum(1).double() * second.masks[:, at].sum(1) / entry.size
    return shared / kept, chance / kept


def chance_mask_overlap(kept: Float[Tensor, "n layers"], sizes: Float[Tensor, " layers"]) -> float:
    """Mean overlap of independent masks.

    Args:
        kept: Number of weights that each network keeps in each layer.
        sizes: Number of weights of each layer.
    """
    expected = (kept / sizes) @ kept.T
    total = kept.sum(1)
    return off_diagonal(2 * expected / (total[:, None] + total))


def off_diagonal(matrix: Float[Tensor, "n n"]) -> float:
    """Mean of the entries off the diagonal; NaN for a single network."""
    n = len(matrix)
    if n < 2:
        return math.nan
    return ((matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1))).item()


@dataclass(frozen=True)
class Overlap:
    """Agreement of masks, as the mean over pairs of networks, beside chance.

    Args:
        shared: Shared non-zeros over non-zeros (their mean where two masks differ in size).
        iou: Shared non-zeros over the union.
        chance_shared: Expectation of `shared` for independent masks with the same densities per layer.
        chance_iou: Expectation of `iou` for independent masks with the same densities per layer.
    """

    shared: float
    iou: float
    chance_shared: float
    chance_iou: float


def overlap_within(networks: Collection) -> Overlap:
    """Agreement of the masks of many networks, beside that of independent masks with the same densities per layer.

    Args:
        networks: Two or more sparse networks.

    Raises:
        InputError: The networks are dense, or there are fewer than two.
    """
    check_networks(networks)
    if networks.dense or len(networks) < 2:
        raise InputError("overlap is defined for two or more sparse networks")
    masks = networks.masks
    shared = torch.zeros(len(masks), len(masks), dtype=torch.float64)
    expected = torch.zeros_like(shared)
    for entry in networks.layout.weights:
        own = masks[:, networks.layout.slices[entry.name]].float()
        shared += (own @ own.T).double()
        density = own.double().mean(1)
        expected += entry.size * density[:, None] * density
    counts = masks[:, networks.layout.prunable].sum(1).double()
    total = counts[:, None] + counts
    upper = torch.ones_like(shared).triu(1).bool()

    def mean(values: Tensor) -> float:
        return values[upper].mean().item()

    return Overlap(
        mean(2 * shared / total),
        mean(shared / (total - shared)),
        mean(2 * expected / total),
        mean(expected / (total - expected)),
    )

"""How much masks have in common, and how much they would by chance."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.collection import Collection


def mask_overlap(first: Collection, second: Collection) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Kept weights that two networks share, over those of the first; and what chance alone would give.

    Pairs networks in order. Chance: masks with as many weights of each layer at random places share a_l b_l / N_l of them.
    Along the levels of a ladder this says how much of a mask a second run finds again (:meth:`IMP.find_levels` of networks with
    one start and other data orders, say).

    Raises:
        LayoutMismatch, InputError: other layouts, or unequal numbers.
    """
    first.layout.require(second.layout, "the second collection")
    if len(first) != len(second):
        raise InputError(f"networks are compared in pairs, got {len(first)} and {len(second)}")
    layout = first.layout
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
        kept: weights that each network keeps in each layer.
        sizes: of the layers.
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
        shared: shared non-zeros over non-zeros (their mean where two masks differ in size).
        iou: shared non-zeros over the union.
        chance_shared, chance_iou: expected for independent masks with the same densities per layer.
    """

    shared: float
    iou: float
    chance_shared: float
    chance_iou: float

"""Networks against the training networks, in blocks: nearest distance, errors and masks in common."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.collection import Collection
from weightspace.evaluation import novelty
from weightspace.functional import blocks

_ERRORS = 512  # networks whose errors are compared at once


@dataclass(frozen=True)
class Neighbours:
    """Each network and the training networks around it.

    Args:
        distance: to the nearest training network.
        second: to the second nearest.
        index: of the nearest.
        few: share of the deviation from the training mean that 16 training networks explain.
    """

    distance: Float[Tensor, " n"]
    second: Float[Tensor, " n"]
    index: Int[Tensor, " n"]
    few: Float[Tensor, " n"]


def neighbours(
    networks: Collection, training: Collection, centre: Float[Tensor, " d"], *, itself: bool, memory: int
) -> Neighbours:
    """Find the training networks around each network.

    Args:
        training: both collections are in canonical form.
        centre: (D,) float64, the mean of the training networks.
        itself: the networks are the training networks: none is its own neighbour.
        memory: bytes for the blocks that are worked on.
    """
    size = max(1, memory // (32 * networks.layout.size * (novelty.FEW + 2)))
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for rows in blocks(len(networks), size):
        own = networks[rows].weights.double() - centre
        square = own.square().sum(1, keepdim=True)
        to_all: list[Tensor] = []
        angle: list[Tensor] = []
        for columns in blocks(len(training), size * novelty.FEW):
            others = training[columns].weights.double() - centre
            squares = others.square().sum(1)
            product = own @ others.T
            # Expanded, not subtracted: rounding makes a copy's distance about 1e-8 of the networks' length.
            to_all.append((square + squares - 2 * product).clamp(min=0).sqrt())
            angle.append(product / squares.sqrt().clamp(min=1e-300))
        distance, cosine = torch.cat(to_all, 1), torch.cat(angle, 1).abs()
        if itself:
            at = torch.arange(rows.start, rows.stop)
            distance[torch.arange(len(at)), at] = torch.inf
            cosine[torch.arange(len(at)), at] = -torch.inf
        k = min(novelty.FEW, len(training) - itself)
        chosen = cosine.topk(k, 1).indices
        bases = training[chosen.flatten()].weights.double().unflatten(0, chosen.shape) - centre
        two = distance.topk(2, 1, largest=False)
        parts.append((two.values[:, 0], two.values[:, 1], two.indices[:, 0], novelty.from_few(own, bases)))
    return Neighbours(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def largest_error_overlap(
    wrong: Bool[Tensor, "n s"], training: Bool[Tensor, "m s"], *, itself: bool
) -> Float[Tensor, " n"]:
    """The largest `error_iou` of each network with a training network, itself excepted."""
    best = torch.full((len(wrong),), -torch.inf, dtype=torch.float64)
    for rows in blocks(len(wrong), _ERRORS):
        for columns in blocks(len(training), _ERRORS):
            overlap = novelty.error_iou(wrong[rows], training[columns])
            if itself and rows == columns:
                overlap.fill_diagonal_(-torch.inf)
            best[rows] = torch.maximum(best[rows], overlap.max(1).values)
    return best


def largest_mask_overlap(
    networks: Collection, training: Collection, *, itself: bool, memory: int
) -> Float[Tensor, " n"]:
    """The largest `mask_overlap` of each network with a training network, itself excepted."""
    prunable = networks.layout.prunable
    size = max(1, memory // (16 * networks.layout.size))
    best = torch.full((len(networks),), -torch.inf, dtype=torch.float64)
    for columns in blocks(len(training), size):
        others = training[columns].masks[:, prunable]
        for rows in blocks(len(networks), size):
            overlap = novelty.mask_overlap(networks[rows].masks[:, prunable], others)
            if itself and rows == columns:
                overlap.fill_diagonal_(-torch.inf)
            best[rows] = torch.maximum(best[rows], overlap.max(1).values)
    return best

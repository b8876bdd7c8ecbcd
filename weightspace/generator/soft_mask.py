"""Masks that refinement trains through: how they become sparse, and how steeply they follow their scores."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.patterns import Pattern, Unstructured
from weightspace.masks.schedule import count_of, one_threshold
from weightspace.networks.layout import Layout

_SOFTNESS = 0.5  # width of the soft threshold that moves masks, in mean heights of kept scores above it
_SMALL = 1e-12  # scales below are rounding


def ramped_mask(
    scores: Float[Tensor, "n d"], pattern: Pattern, within: Bool[Tensor, "n d"], layout: Layout, left: float
) -> tuple[Bool[Tensor, "n d"], float]:
    """Masks on the way to a pattern, and the share of the weights outside the pattern that they still keep.

    They keep the pattern's weights and, beside them, those with the highest scores.

    Args:
        scores: Scores of the positions, (n, D).
        pattern: Pattern at the end of the way.
        within: Positions that may be kept, (n, D).
        layout: Layout of the networks.
        left: Share of the way that is left, from 1 to 0.
    """
    total = layout.num_prunable
    kept = count_of(pattern, layout) if one_threshold(pattern) else None
    if kept is None:
        narrow = pattern.mask(scores, layout, within=within)
        kept = int((narrow & layout.prunable.to(narrow.device)).sum(1).amax())
        scores = scores.masked_fill(narrow, math.inf)
    reach = int(within.sum(1).amin()) - (layout.size - total)
    beside = max(0, round((reach - kept) * left))
    wide = Unstructured((kept + beside) / total)
    return wide.mask(scores, layout, within=within), beside / max(1, total - kept)


def slope(
    scores: Float[Tensor, "n d"], mask: Bool[Tensor, "n d"], pattern: Pattern, layout: Layout
) -> Float[Tensor, "n #d"]:
    """Derivative of a soft mask for each score, (n, D) or (n, 1).

    Where one threshold decides, weights near it have the largest; where each group or layer has its own, all have
    the same.

    The threshold is taken as fixed, though it moves with the scores, as the number of weights that are kept is what is
    fixed. The derivative that respects this parts masks far better, but then the norm of the weights grows without
    bound and samples get worse (digits, validation data).

    Args:
        scores: Scores of the positions, (n, D).
        mask: Masks that the pattern chose by the scores, (n, D).
        pattern: Pattern of the masks.
        layout: Layout of the networks.
    """
    if not one_threshold(pattern):
        return 1 / scores.std(1, keepdim=True).clamp(min=_SMALL)
    heights, total = scores.where(mask, torch.inf), torch.linalg.vecdot(scores, mask.to(scores.dtype))
    for at in layout.free:
        heights[:, at] = torch.inf
        total -= scores[:, at].sum(1)
    edge = heights.amin(1)
    count = int(mask[0].sum()) - (layout.size - layout.num_prunable)
    edge, width = edge[:, None], (_SOFTNESS * (total / count - edge)).clamp(min=_SMALL)[:, None]
    soft = torch.sigmoid((scores - edge).div_(width))
    return soft.addcmul_(soft, soft, value=-1).div_(width)

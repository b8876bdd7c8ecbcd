"""How steeply a mask follows its scores: the slope that refinement sends gradients through."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.patterns import Pattern
from weightspace.masks.schedule import one_threshold
from weightspace.networks.layout import Layout

_SOFTNESS = 0.5  # width of the soft threshold that moves masks, in mean heights of kept scores above it


_SMALL = 1e-12  # scales below are rounding


def slope(
    scores: Float[Tensor, "n d"], mask: Bool[Tensor, "n d"], pattern: Pattern, layout: Layout
) -> Float[Tensor, "n #d"]:
    """Derivative of a soft mask for each score, (n, D) or (n, 1).

    Where one threshold decides, weights near it have the largest; where each group or layer has its own, all have
    the same.

    The threshold is taken as fixed, though it moves with the scores, as the number of weights that are kept is what is fixed. The
    derivative that respects this parts masks far better, but then the norm of the weights grows without bound and
    samples get worse (digits, validation data).
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

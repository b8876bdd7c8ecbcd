"""Ridge regressions of many rows that each keep other columns."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.sparse.gradients import by_gradients
from weightspace.sparse.moments import Moments

_SYSTEMS = 2**21  # numbers in the systems that are solved at once
_ROUNDING = 1e-10  # of the mean square of inputs: variances below are rounding
_DIRECT = 768  # kept columns up to which each row's system is factorised


def solved(
    moments: Moments, values: Float[Tensor, "o c"], mask: Bool[Tensor, "o c"], ridge: float
) -> Float[Tensor, "o c"]:
    """Kept values whose products come nearest to the dense layer's outputs, zero elsewhere.

    Args:
        moments: Of what the layer reads and what it should return.
        values: The values as they are, which the ridge pulls to.
        mask: What is kept.
        ridge: The pull, in mean squares of the layer's inputs.
    """
    pull = max(ridge * moments.inputs.diagonal().mean().item(), _ROUNDING * moments.size) or 1.0
    wrong = moments.cross - values @ moments.inputs
    result = values.clone()
    whole = mask.all(1)
    counts = mask.sum(1).masked_fill(whole, 0)
    many = counts > _DIRECT
    if many.any():
        result[many] += by_gradients(moments.inputs, pull, wrong[many] * mask[many], mask[many])
    counts = counts.masked_fill(many, 0)
    if not (whole.any() or counts.any()):
        return result
    system = moments.inputs.clone()
    system.diagonal().add_(pull)
    if whole.any():  # rows that keep everything share one system
        result[whole] += torch.cholesky_solve(wrong[whole].T, torch.linalg.cholesky(system)).T
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    start = 0
    while start < len(order):
        most = int(counts[order[start]])
        rows = order[start : start + max(1, _SYSTEMS // most**2)]
        start += len(rows)
        # The kept columns of each row first; rows that keep fewer are filled up with others, which change nothing.
        at = mask[rows].byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        inside = mask[rows].gather(1, at)
        systems = system[at[:, :, None], at[:, None, :]]
        if not inside.all():
            systems *= inside[:, :, None] & inside[:, None, :]
            systems.diagonal(dim1=1, dim2=2).masked_fill_(~inside, pull)
        right = wrong[rows].gather(1, at) * inside
        change = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(systems))[..., 0]
        result[rows] = values[rows].scatter_add(1, at, change * inside)
    return result

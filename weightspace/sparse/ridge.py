"""Ridge regressions of many rows that each keep other columns."""

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.sparse.moments import Moments

_SYSTEMS = 2**21  # numbers in the systems that are solved at once
_ROUNDING = 1e-10  # of the mean square of inputs: variances below are rounding
_DIRECT = 768  # kept columns up to which each row's system is factorised
_PRECISE = 1e-3  # of a row's right side, where conjugate gradients end; what is above the least error is its square
_STEPS = 2000


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
    system = moments.inputs.clone()
    system.diagonal().add_(pull)
    wrong = moments.cross - values @ moments.inputs
    result = values.clone()
    whole = mask.all(1)
    if whole.any():  # rows that keep everything share one system
        result[whole] += torch.cholesky_solve(wrong[whole].T, torch.linalg.cholesky(system)).T
    counts = mask.sum(1).masked_fill(whole, 0)
    many = counts > _DIRECT
    if many.any():
        result[many] += _by_gradients(system, wrong[many] * mask[many], mask[many])
    counts = counts.masked_fill(many, 0)
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


def _by_gradients(
    system: Float[Tensor, "c c"], right: Float[Tensor, "o c"], mask: Bool[Tensor, "o c"]
) -> Float[Tensor, "o c"]:
    """The same for wide rows, all at once, by conjugate gradients: a product a step, where factors take k^3 a row.

    The error falls with every step, so that single precision and an early end do no harm.
    """
    scale = system.diagonal().rsqrt()
    scaled = (scale[:, None] * system * scale).float()
    change, rest = torch.zeros_like(right), (right * scale).float()
    direction = rest.clone()
    squares = rest.square().sum(1)
    enough = _PRECISE**2 * squares
    for _ in range(_STEPS):
        if bool((squares <= enough).all()):
            break
        product = (direction @ scaled) * mask
        going = squares > enough
        length = torch.where(going, squares / (direction * product).sum(1), 0.0)
        change += direction * length[:, None]
        rest -= product * length[:, None]
        before, squares = squares, rest.square().sum(1)
        direction = rest + direction * torch.where(going, squares / before, 0.0)[:, None]
    if left := int((squares > enough).sum()):
        warnings.warn(
            f"{left} rows of a layer are not solved to the end after {_STEPS} steps: they fit better than before, but "
            "not as well as they could; a larger ridge or more examples help",
            stacklevel=2,
        )
    return change * scale

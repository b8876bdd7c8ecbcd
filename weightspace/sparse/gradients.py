"""Conjugate gradients for many rows at once: one symmetric system, of which each row keeps other columns."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.networks.forward import blocks
from weightspace.runtime import seeds

_PRECISE = 1e-3  # of a row's right side, where rows end; what is above the least error is its square
_STEPS = 2000
_ROWS = 512  # solved together
_LEADING = 128  # directions of the system that are solved directly
_EXTRA, _PASSES = 16, 3  # of the search for them
_FLAT = 1e-5  # of the largest eigenvalue: smaller ones are not told apart in single precision


def by_gradients(
    moments: Float[Tensor, "c c"], pull: float, right: Float[Tensor, "o c"], mask: Bool[Tensor, "o c"]
) -> Float[Tensor, "o c"]:
    """Solutions of `system[S][:, S] x = right[S]`, zero elsewhere, for the columns S that each row keeps.

    The system is the moments with the pull on their diagonal.

    A step is one product of all rows with the system, where factors of each row's own system take k^3 / 3 products for
    k kept columns. Few steps do, as the directions in which the system is largest are solved directly: with its leading
    eigenvectors U, each row has an inverse of U_S U_S^T + mu at hand (a Nystroem preconditioner, arXiv 2110.02820, of
    masked rows). The error falls with every step, so that single precision and an early end do no harm.

    Args:
        moments: Second moments of what a layer reads.
        pull: What the ridge adds.
        right: Right sides, zero where a row keeps nothing.
        mask: What each row keeps.
    """
    scale = (moments.diagonal() + pull).rsqrt()
    scaled = moments.to(torch.float32, copy=True).mul_(scale.float()[:, None]).mul_(scale.float())
    scaled.fill_diagonal_(1.0)
    values, vectors = _leading(scaled)
    result, left = torch.empty_like(right), 0
    for rows in blocks(len(right), _ROWS):
        near = _preconditioner(values, vectors, mask[rows])
        part, unsolved = _descended(scaled, (right[rows] * scale).float(), mask[rows], near)
        result[rows] = part * scale
        left += unsolved
    if left:
        warnings.warn(
            f"{left} rows of a layer are not solved to the end after {_STEPS} steps: they fit better than before, but "
            "not as well as they could; a larger ridge or more examples help",
            stacklevel=2,
        )
    return result


def _descended(
    system: Float[Tensor, "c c"],
    right: Float[Tensor, "o c"],
    mask: Bool[Tensor, "o c"],
    solved_directly: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "o c"], int]:
    """Rows of the solution in double precision, and how many of them are not solved to the end."""
    change, rest = torch.zeros_like(right, dtype=torch.float64), right.clone()
    enough = _PRECISE**2 * rest.square().sum(1)
    nearer = solved_directly(rest)
    direction, slope = nearer, (rest * nearer).sum(1)
    for _ in range(_STEPS):
        going = rest.square().sum(1) > enough
        if not bool(going.any()):
            break
        product = (direction @ system) * mask
        length = torch.where(going, slope / (direction * product).sum(1), 0.0)
        change += direction * length[:, None]
        rest -= product * length[:, None]
        nearer = solved_directly(rest)
        before, slope = slope, (rest * nearer).sum(1)
        direction = nearer + direction * torch.where(going, slope / before, 0.0)[:, None]
    return change, int((rest.square().sum(1) > enough).sum())


def _preconditioner(
    values: Float[Tensor, " k"], vectors: Float[Tensor, "c k"], mask: Bool[Tensor, "o c"]
) -> Callable[[Tensor], Tensor]:
    """Solves each row's system as if all but the leading directions were alike."""
    rest = torch.maximum(values[-1], _FLAT * values[0])
    leading = vectors * (values - rest).clamp(min=0).sqrt()  # the system is about leading leading^T + rest
    within = torch.stack([part.T @ part for part in (leading[kept] for kept in mask)])
    within.diagonal(dim1=1, dim2=2).add_(rest)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(within))

    def solve(right: Float[Tensor, "o c"]) -> Float[Tensor, "o c"]:
        parts = torch.bmm(inverse, (right @ leading)[:, :, None])[:, :, 0]
        return (right - (parts @ leading.T) * mask) / rest

    return solve


def _leading(system: Float[Tensor, "c c"]) -> tuple[Float[Tensor, " k"], Float[Tensor, "c k"]]:
    """The largest eigenvalues and their vectors, nearly, by iteration from random directions."""
    count = min(_LEADING, len(system) - 1)
    wanted = min(count + _EXTRA, len(system))
    random = seeds.generator(0, "directions of conjugate gradients")
    basis = torch.randn(len(system), wanted, generator=random).to(system)
    for _ in range(_PASSES):
        basis = torch.linalg.qr(system @ basis).Q
    values, vectors = torch.linalg.eigh(basis.T @ system @ basis)
    return values.flip(0)[:count], (basis @ vectors).flip(1)[:, :count]

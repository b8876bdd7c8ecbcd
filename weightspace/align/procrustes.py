"""Linear algebra of two factors whose product is all that counts: balanced form, principal axes, polar factors.

Everything is batched over leading dimensions. Units are rows: a factor is (..., units, values).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TIED = 1e-8  # of the largest singular value: values that differ by less have no axes of their own
_EQUAL = 1e-6  # of the largest: entries that differ by less are equally large


class Mixing(NamedTuple):
    """How the units of a group are mixed.

    Args:
        primal: Matrix (..., units, units) that multiplies them on most axes.
        dual: Matrix that multiplies them on the group's dual axes: the inverse transpose of the primal one, or, where
            the factors have a higher rank than their product, its generalised inverse.
    """

    primal: Float[Tensor, "*batch units units"]
    dual: Float[Tensor, "*batch units units"]

    def then(self, other: "Mixing") -> "Mixing":
        """This mixing, and another of its result."""
        return Mixing(other.primal @ self.primal, other.dual @ self.dual)


class Balanced(NamedTuple):
    """A mixing into balanced form, and what is left of the factors' rank.

    Args:
        mixing: The mixing.
        sizes: Singular values (..., units) of the product, from large to small, zeros where there are fewer.
        lost: Whether the product has a lower rank than one of the factors (...).
    """

    mixing: Mixing
    sizes: Float[Tensor, "*batch units"]
    lost: Tensor


def balancing(
    a: Float[Tensor, "*batch units p"], b: Float[Tensor, "*batch units q"], rounding: float | None = None
) -> Balanced:
    """The mixing under which two factors get the same diagonal Gram matrix, from large to small; b^T a stays.

    With b^T a = U S V^T the factors become S^(1/2) V^T and S^(1/2) U^T. Only triangular factors of a and b are
    multiplied, never a and b themselves. Where the product has a lower rank than a factor, what does not reach the
    product becomes zero.

    Args:
        a: The factor that is multiplied by the mixing.
        b: The factor that is multiplied by its inverse transpose.
        rounding: Relative rounding error of the factors' entries, below which singular values are zero; by default that
            of their dtype.
    """
    ra, rb = triangle(a), triangle(b)
    u, sizes, vt = torch.linalg.svd(rb @ ra.mT)
    eps = (torch.finfo(a.dtype).eps if rounding is None else rounding) * max(a.shape[-2:] + b.shape[-2:]) ** 0.5
    norms = [torch.linalg.matrix_norm(r, 2) for r in (ra, rb)]
    kept = sizes > 4 * eps * (norms[0] * norms[1])[..., None]
    root = torch.where(kept, sizes, 1.0).rsqrt() * kept
    ranks = [(torch.linalg.svdvals(r) > 4 * eps * n[..., None]).sum(-1) for r, n in zip((ra, rb), norms, strict=True)]
    lost = torch.maximum(*ranks) > kept.sum(-1)
    mixing = Mixing(root[..., None] * (u.mT @ rb), root[..., None] * (vt @ ra))
    return Balanced(mixing, sizes * kept, lost)


def principal(a: Float[Tensor, "*batch units p"]) -> tuple[Mixing, Float[Tensor, "*batch units"]]:
    """The rotation under which a factor gets a diagonal Gram matrix, and the roots of its diagonal, large to small."""
    u, sizes, _ = torch.linalg.svd(triangle(a).mT)
    return Mixing(u.mT, u.mT), sizes


def triangle(a: Float[Tensor, "*batch units p"]) -> Float[Tensor, "*batch units units"]:
    """The triangular R of a = R^T Q^T, filled up with zeros where a is narrow."""
    r = torch.linalg.qr(a.mT, mode="r").R
    missing = a.shape[-2] - r.shape[-2]
    return torch.cat([r, r.new_zeros(*r.shape[:-2], missing, r.shape[-1])], -2) if missing else r


def settled_axes(
    rows: Float[Tensor, "*batch units p"], sizes: Float[Tensor, "*batch units"]
) -> Float[Tensor, "*batch units units"]:
    """The rotation that fixes what singular values leave open: signs, and axes of equal values.

    A row's largest entry becomes positive (of equally large ones, the first). Rows of equal singular values become a
    trapezoid in their pivot columns. Any rotation within equal values leads to the same result.

    Args:
        rows: The factors side by side, in balanced form or principal axes.
        sizes: Their singular values, from large to small; zeros are left alone.
    """
    units = rows.shape[-2]
    flat, values = rows.reshape(-1, *rows.shape[-2:]), sizes.reshape(-1, units)
    result = torch.diag_embed(_signs(flat))
    apart = values[:, :-1] - values[:, 1:] > _TIED * values[:, :1]
    tied = (~apart & (values[:, 1:] > 0)).any(1).nonzero()[:, 0].tolist()
    for i in tied:
        ends = [*(apart[i].nonzero()[:, 0] + 1).tolist(), units]
        start = 0
        for end in ends:
            alike = slice(start, end)
            if end - start > 1 and values[i, start] > 0:
                result[i, alike, alike] = _echelon(flat[i, alike])
            start = end
    return result.reshape(*sizes.shape, units)


def _signs(rows: Float[Tensor, "batch units p"]) -> Float[Tensor, "batch units"]:
    value = rows.gather(-1, _first_largest(rows.abs())[..., None])[..., 0]
    return torch.where(value < 0, -1.0, 1.0).to(rows.dtype)


def _first_largest(sizes: Float[Tensor, "*batch p"]) -> Int[Tensor, "*batch"]:
    """The first entry that is as large as the largest, but for rounding."""
    return (sizes >= (1 - _EQUAL) * sizes.amax(-1, keepdim=True)).int().argmax(-1)


def _echelon(rows: Float[Tensor, "units p"]) -> Float[Tensor, "units units"]:
    """The rotation of rows into a trapezoid with a positive diagonal in the columns of largest remainder."""
    rest, axes = rows, []
    for _ in range(len(rows)):
        column = rest[:, int(_first_largest(rest.square().sum(0)))]
        axis = column / column.norm().clamp(min=1e-300)
        axes.append(axis)
        rest = rest - torch.outer(axis, axis @ rest)
    return torch.stack(axes)


def polar(gain: Float[Tensor, "*batch units units"]) -> tuple[Float[Tensor, "*batch units units"], Tensor]:
    """The rotation R with the largest <R, gain>, and this value, the gain's nuclear norm.

    Where the gain leaves R open, as it has less than full rank, R is as near to the identity as it can be.

    Args:
        gain: Matrices of inner products between the reference's units and the network's.
    """
    u, sizes, vt = torch.linalg.svd(gain)
    rotation = u @ vt
    most = sizes[..., :1]
    open_ = (sizes <= 1e-12 * most) | (most == 0)
    if bool(open_.any()):
        rotation = rotation.clone()
        for at in open_.any(-1).nonzero().tolist():
            here = tuple(at)
            free, fixed = open_[here], ~open_[here]
            left, right = u[here][:, free], vt[here][free]
            inner_u, _, inner_vt = torch.linalg.svd(left.mT @ right.mT)
            rotation[here] = u[here][:, fixed] @ vt[here][fixed] + left @ inner_u @ inner_vt @ right
    return rotation, sizes.sum(-1)

"""Matrices that mix a group's units: between two linear maps any basis of the units will do.

Where only linear operations lie between what makes the units and what reads them, the units can be multiplied by an
invertible matrix G if the readers undo it: x W^T becomes x (G W)^T on the axes of the one kind, and on those of the
other (`Group.dual`) the inverse transpose of G acts. Where a norm of the units is taken, G is orthogonal.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.symmetry.group import Axis, Group
from weightspace.symmetry.sharing import sources_below

_ORTHOGONAL = 1e-8, 1e-4  # largest entries of G G^T - I, in double and in single precision
_SINGULAR = 1e-13, 1e-6  # smallest ratios of singular values


def random_matrices(groups: Sequence[Group], counts: Mapping[str, int], random: torch.Generator) -> dict[str, Tensor]:
    """Random matrices in float64 for groups that can be mixed: orthogonal, or with singular values from 0.5 to 2.

    Args:
        groups: The groups.
        counts: Number of parent units of each group, by name; of groups without a parent 1.
        random: Source of randomness.
    """
    drawn: dict[str, Tensor] = {}
    for group in groups:
        shape = (counts[group.name], group.size, group.size)
        matrix = _rotations(shape, random)
        if group.linear == "general":
            stretch = 4 ** (torch.rand(shape[:2], generator=random, dtype=torch.float64) - 0.5)
            matrix = matrix * stretch[:, None] @ _rotations(shape, random)
        drawn[group.name] = matrix if group.parent is not None else matrix[0]
    return drawn


def _rotations(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Orthogonal matrices, all equally likely, of determinant 1 or -1."""
    q, r = torch.linalg.qr(torch.randn(shape, generator=random, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def compose(first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices that do `first`, and `then` on its result.

    Args:
        first: Matrices by group; a group without one is left as it is.
        then: Matrices by group.
    """
    both = {name: then[name] @ matrix if name in then else matrix for name, matrix in first.items()}
    return both | {name: matrix for name, matrix in then.items() if name not in first}


def inverse(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices that undo these.

    Args:
        matrices: Matrices by group.
    """
    return {name: torch.linalg.inv(matrix) for name, matrix in matrices.items()}


def reorder(
    by_name: Mapping[str, Group], matrices: Mapping[str, Tensor], permutations: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The matrices that do to permuted units what these do to the units as they were.

    Args:
        by_name: All groups by name.
        matrices: Matrices by group, without dimensions in front.
        permutations: A permutation for each group.
    """
    moved: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        parent, order = by_name[name].parent, permutations[name]
        if parent is None:
            moved[name] = matrix[order][:, order]
        else:
            above = matrix[sources_below(parent, frozenset(), permutations, by_name, len)]
            rows = above.gather(1, order[:, :, None].expand_as(above))
            moved[name] = rows.gather(2, order[:, None, :].expand_as(above))
    return moved


def mixed(
    state: Mapping[str, Tensor],
    group: Group,
    matrix: Tensor,
    places: Mapping[Axis, Tensor],
    parents: int,
    lead: int,
) -> dict[str, Tensor]:
    """Some tensors, the units of one group multiplied by a matrix on all its axes.

    Args:
        state: Tensors by name; axes of others are passed over.
        group: The group.
        matrix: The matrix (..., units, units), in a parent (..., parent units, units, units), with `lead` dimensions in
            front or none.
        places: Positions (units, slots) of the units on each primal and dual axis; units of all parents in turn, but on
            axes inside blocks of another.
        parents: Number of parent units; 1 without a parent.
        lead: Number of dimensions in front of the tensors' own.

    Raises:
        InputError: The group cannot be mixed, or the matrix is none that may mix it.
    """
    used = [axis for axis in (*group.primal, *group.dual) if axis.tensor in state]
    check(group, matrix, parents, lead)
    if not used:
        return dict(state)
    whole = matrix if group.parent is not None else matrix.unsqueeze(-3)
    undone = torch.linalg.inv(whole).mT if group.dual else whole
    changed = dict(state)
    for axis in used:
        tensor = changed[axis.tensor]
        if not tensor.is_floating_point():
            raise InputError(
                f"{axis.tensor!r} holds {tensor.dtype}, which cannot be mixed: masks and counts have no other basis. "
                "Mix weights, and find masks anew"
            )
        acting = undone if axis in group.dual else whole
        changed[axis.tensor] = _on_axis(tensor, acting, axis, places[axis], parents, lead)
    return changed


def check(group: Group, matrix: Tensor, parents: int, lead: int) -> None:
    """Refuse a matrix that may not mix a group's units.

    Args:
        group: The group.
        matrix: The matrix, as in `mixed`.
        parents: Number of parent units.
        lead: Number of dimensions that may be in front.

    Raises:
        InputError: The group cannot be mixed; the matrix has another shape, is singular or, for an orthogonal group,
            not orthogonal.
    """
    name = group.name
    if group.linear is None:
        raise InputError(
            f"the units of group {name!r} cannot be mixed, only reordered: what lies between them is not linear. "
            "`symmetry.linear` lists the groups that can be"
        )
    shape = (group.size, group.size) if group.parent is None else (parents, group.size, group.size)
    extra = matrix.ndim - len(shape)
    if extra not in (0, lead) or tuple(matrix.shape[extra:]) != shape or not matrix.is_floating_point():
        raise InputError(
            f"the matrix of group {name!r} has shape {tuple(matrix.shape)} and type {matrix.dtype}; expected floating "
            f"point numbers of shape {shape}, with a dimension for each of the vectors' in front or none"
        )
    single = matrix.dtype != torch.float64
    if group.linear == "orthogonal":
        off = (matrix @ matrix.mT - torch.eye(group.size, dtype=matrix.dtype, device=matrix.device)).abs().amax()
        if not off < _ORTHOGONAL[single]:
            raise InputError(
                f"the matrix of group {name!r} is not orthogonal (G G^T differs from the identity by {off:.1e}), but a "
                "norm of these units is taken. Take the orthogonal factor of its polar decomposition, U V^T of its SVD"
            )
        return
    finite = bool(matrix.isfinite().all())
    values = torch.linalg.svdvals(matrix if finite else matrix.new_zeros(1, 1))
    if not (values[..., -1] > values[..., 0] * _SINGULAR[single]).all():
        raise InputError(
            f"the matrix of group {name!r} is singular or not finite (smallest singular value "
            f"{values[..., -1].min():.1e}), so that nothing undoes it. Give an invertible one"
        )


def _on_axis(tensor: Tensor, matrix: Tensor, axis: Axis, place: Tensor, parents: int, lead: int) -> Tensor:
    """One tensor with its units mixed along one axis, in the more precise of the two types."""
    dtype = torch.promote_types(tensor.dtype, matrix.dtype)
    along, matrix, place = tensor.to(dtype), matrix.to(tensor.device, dtype), place.to(tensor.device)
    size, k = tensor.shape[axis.axis + lead], axis.axis + lead
    if axis.within is None:
        along = along.movedim(k, -1)
    else:
        other = axis.within + lead
        blocks = along.unflatten(other, (parents, -1))
        along = blocks.movedim((other, k + (k > other)), (-2, -1))
    # (nets..., others..., parents, units, slots)
    units = along[..., place.flatten()].unflatten(-1, (-1, matrix.shape[-1], place.shape[1]))
    if axis.within is not None:
        units = units.squeeze(-3)
    front = matrix.shape[:-3]
    acting = matrix.reshape(*front, *[1] * (units.ndim - 3 - len(front)), *matrix.shape[-3:])
    result = (acting @ units).flatten(-2 if axis.within is not None else -3)
    changed = along.clone()
    changed[..., place.flatten()] = result
    if axis.within is None:
        return changed.movedim(-1, k).to(tensor.dtype)
    other = axis.within + lead
    back = changed.movedim((-2, -1), (other, k + (k > other)))
    assert changed.shape[-1] == size
    return back.flatten(other, other + 1).to(tensor.dtype)

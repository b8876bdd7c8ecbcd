"""Units that can be mixed: as rows of what belongs to them, and multiplied by matrices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.procrustes import Mixing
from weightspace.symmetry import Axis, Group, Symmetry

Mixings = Mapping[str, Mixing]
"""How the units of linear groups are mixed, by name; matrices (networks, parent units, units, units)."""


def mixable(symmetry: Symmetry) -> tuple[Group, ...]:
    """The linear groups that matching can mix: all but general ones on two axes of one tensor."""
    return tuple(g for g in symmetry.linear if g.linear == "orthogonal" or not _twice(g))


def _twice(group: Group) -> bool:
    return len({(a.tensor, a.axis) for a in group.axes}) > len({a.tensor for a in group.axes})


def without_other_factors(symmetry: Symmetry) -> Symmetry:
    """The symmetry in which units that are mixed are neither flipped nor rescaled besides; the others not mixed."""
    names = {group.name for group in mixable(symmetry)}
    groups = (
        replace(g, odd=False, homogeneous=False) if g.name in names else replace(g, linear=None, dual=())
        for g in symmetry.groups
    )
    return replace(symmetry, groups=tuple(groups))


def parents_of(symmetry: Symmetry, group: Group) -> int:
    """Number of parent units of a group; 1 without a parent."""
    return 1 if group.parent is None else symmetry.count(group.parent)


def rows_of(
    tensor: Float[Tensor, "nets *shape"], symmetry: Symmetry, group: Group, axis: Axis
) -> Float[Tensor, "nets parents units values"]:
    """What belongs to each unit on one axis of a tensor, as a row, for each unit of the parent.

    Args:
        tensor: The tensor, with the networks (or features) in front.
        symmetry: The symmetry that the group belongs to.
        group: The group.
        axis: One of its axes.
    """
    parents, place = parents_of(symmetry, group), symmetry.places[group.name, axis].to(tensor.device).flatten()
    if axis.within is None:
        rows = tensor.movedim(axis.axis + 1, 1).index_select(1, place)
        return rows.reshape(len(tensor), parents, group.size, -1)
    parts = tensor.chunk(parents, axis.within + 1)
    return torch.stack(
        [p.movedim(axis.axis + 1, 1).index_select(1, place).reshape(len(tensor), group.size, -1) for p in parts], 1
    )


def side(
    state: Mapping[str, Tensor], symmetry: Symmetry, group: Group, axes: Sequence[Axis]
) -> Float[Tensor, "nets parents units values"]:
    """What belongs to each unit on several axes, side by side."""
    one = next(iter(state.values()))
    parts = [rows_of(state[axis.tensor], symmetry, group, axis) for axis in axes if axis.tensor in state]
    return torch.cat(parts or [one.new_zeros(len(one), parents_of(symmetry, group), group.size, 1)], -1)


def mixed(state: Mapping[str, Float[Tensor, "nets *shape"]], symmetry: Symmetry, mixings: Mixings) -> dict[str, Tensor]:
    """Some tensors, the units of linear groups mixed.

    Args:
        state: Tensors by name, with the networks (or features) in front; others are passed over.
        symmetry: The symmetry that the groups belong to.
        mixings: Matrices with the networks in front, or 1.
    """
    changed = dict(state)
    for name, mixing in mixings.items():
        group = symmetry.by_name[name]
        for axis in (*group.primal, *group.dual):
            if axis.tensor in changed:
                matrix = mixing.dual if axis in group.dual else mixing.primal
                changed[axis.tensor] = _on_axis(changed[axis.tensor], symmetry, group, axis, matrix)
    return changed


def _on_axis(tensor: Tensor, symmetry: Symmetry, group: Group, axis: Axis, matrix: Tensor) -> Tensor:
    rows = rows_of(tensor, symmetry, group, axis)
    rows = matrix.to(tensor.device, tensor.dtype) @ rows
    place = symmetry.places[group.name, axis].to(tensor.device).flatten()
    if axis.within is None:
        return _put(tensor, axis.axis + 1, place, rows.flatten(1, 2))
    parts = tensor.chunk(rows.shape[1], axis.within + 1)
    return torch.cat([_put(p, axis.axis + 1, place, rows[:, j]) for j, p in enumerate(parts)], axis.within + 1)


def _put(tensor: Tensor, dim: int, place: Tensor, rows: Tensor) -> Tensor:
    """A tensor with these rows (networks, units, values) at some places of a dimension."""
    front = tensor.movedim(dim, 1).clone()
    front[:, place] = rows.reshape(len(tensor), len(place), *front.shape[2:])
    return front.movedim(1, dim)


def mixed_vectors(vectors: Float[Tensor, "nets d"], symmetry: Symmetry, mixings: Mixings) -> Float[Tensor, "nets d"]:
    """Vectors of the layout with the units of linear groups mixed, computed in float64.

    Args:
        vectors: Vectors, one for each network.
        symmetry: The symmetry that the groups belong to.
        mixings: Matrices, one for each network or 1.
    """
    if not mixings:
        return vectors
    state = mixed(symmetry.layout.tensors(vectors.double()), symmetry, mixings)
    return torch.cat([state[e.name].flatten(1) for e in symmetry.layout.parameters], -1).to(vectors.dtype)


def mixed_buffers(buffers: Mapping[str, Tensor], symmetry: Symmetry, mixings: Mixings) -> dict[str, Tensor]:
    """Buffers of networks, such as constant directions in a stream, with the units of linear groups mixed.

    Args:
        buffers: Buffers by name, with the networks in front.
        symmetry: The symmetry that the groups belong to.
        mixings: Matrices, one for each network or 1.
    """
    on = {axis.tensor for name in mixings for axis in symmetry.by_name[name].axes}
    state = mixed({name: b.double() for name, b in buffers.items() if name in on}, symmetry, mixings)
    return dict(buffers) | {name: b.to(buffers[name].dtype) for name, b in state.items()}


def identities(symmetry: Symmetry, groups: Iterable[Group], nets: int = 1) -> dict[str, Mixing]:
    """Mixings that change nothing, in float64."""
    eyes = {
        g.name: torch.eye(g.size, dtype=torch.float64).expand(nets, parents_of(symmetry, g), -1, -1) for g in groups
    }
    return {name: Mixing(eye, eye) for name, eye in eyes.items()}


def of_rotations(symmetry: Symmetry, matrices: Mapping[str, Tensor]) -> dict[str, Mixing]:
    """One network's orthogonal matrices, (units, units) or (parent units, units, units), as mixings."""
    whole = {
        name: (matrix if symmetry.by_name[name].parent is not None else matrix[None])[None]
        for name, matrix in matrices.items()
    }
    return {name: Mixing(matrix, matrix) for name, matrix in whole.items()}

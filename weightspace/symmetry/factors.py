"""Factors along the axes of units: positive scales of homogeneous units, signs of odd ones."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from weightspace.symmetry.group import Axis


def multiplied(
    state: Mapping[str, Tensor],
    factor: Tensor,
    axes: Sequence[Axis],
    places: Mapping[Axis, Tensor],
    lead: int,
) -> dict[str, Tensor]:
    """Some tensors, each unit's entries on these axes multiplied by its factor.

    Args:
        state: Tensors by name; axes of others are passed over.
        factor: A factor for each unit (..., units), with `lead` dimensions in front or none.
        axes: The axes.
        places: Positions (units, slots) of the units on each axis.
        lead: Number of dimensions in front of the tensors' own.
    """
    changed = dict(state)
    for axis in axes:
        if axis.tensor not in changed:
            continue
        tensor, place = changed[axis.tensor], places[axis].to(factor.device)
        along = factor.new_ones(*factor.shape[:-1], tensor.shape[lead + axis.axis])
        along[..., place.flatten()] = factor.repeat_interleave(place.shape[1], -1)
        shape = [*along.shape[:-1], *([1] * (tensor.ndim - along.ndim + 1))]
        shape[lead + axis.axis] = along.shape[-1]
        changed[axis.tensor] = tensor * along.reshape(shape)
    return changed

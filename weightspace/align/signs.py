"""Signs of odd units: which of a network's vectors and features change with them, and the best ones for known gains."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.networks.record import Extra
from weightspace.symmetry import Axis, Group, Symmetry
from weightspace.symmetry.factors import multiplied


def follows(name: str) -> bool:
    """Whether a vector of a network changes sign with its weights: deviations and marks of weights do not."""
    return name not in (Extra.STD, Extra.GATE_LOGITS, Extra.TRAINED)


def follows_in(name: str, values: Tensor) -> bool:
    """Whether an extra with these values changes sign with the weights; one of yours only if some value is negative."""
    known = name in (Extra.REWIND, Extra.PARENT)
    return follows(name) and values.is_floating_point() and (known or bool((values < 0).any()))


def without_signs(symmetry: Symmetry) -> Symmetry:
    """The symmetry with no odd groups."""
    return replace(symmetry, groups=tuple(replace(group, odd=False) for group in symmetry.groups))


def flips(group: Group, axis: Axis) -> bool:
    """Whether the units of a group change sign on this axis."""
    return group.odd and (axis in group.incoming or axis in group.outgoing)


def signed_assignment(
    gain: Float[Tensor, "units units"], signed: Float[Tensor, "units units"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The permutation and the signs with the largest sum of gains; a sign without influence is 1.

    Args:
        gain: Gains that do not depend on the signs.
        signed: Gains that change sign with the unit that is moved.

    Returns:
        The permutation, the signs of the units in their new places, and the gains of the best signs.
    """
    best_signs = gain + signed.abs()
    best = assign(best_signs)
    return best, 1.0 - 2.0 * (signed.gather(1, best[:, None])[:, 0] < 0).to(gain.dtype), best_signs


def flip_axis(
    tensor: Float[Tensor, "features *shape"], axis: Axis, place: Tensor, sign: Tensor, signed: Sequence[bool]
) -> Float[Tensor, "features *shape"]:
    """One tensor's features under signs of the units on one of its axes.

    Args:
        tensor: The features.
        axis: The axis.
        place: Positions (units, slots) of the units on it.
        sign: Signs (units,).
        signed: For each feature whether it changes sign with the weights.
    """
    flipped = multiplied({axis.tensor: tensor}, sign, [axis], {axis: place}, 1)[axis.tensor]
    return _where(signed, flipped, tensor)


def _where(signed: Sequence[bool], flipped: Tensor, tensor: Tensor) -> Tensor:
    if all(signed):
        return flipped
    which = torch.tensor(signed, device=tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
    return torch.where(which, flipped, tensor)


def flip_features(
    symmetry: Symmetry,
    tensors: Mapping[str, Float[Tensor, "features *shape"]],
    signs: Mapping[str, Tensor],
    signed: Sequence[bool],
) -> dict[str, Tensor]:
    """Features under signs; those that the weights' signs do not touch stay.

    Args:
        symmetry: The symmetry that the groups belong to.
        tensors: Features by tensor.
        signs: Signs (units,) of odd groups.
        signed: For each feature whether it changes sign with the weights.
    """
    if not signs or not any(signed):
        return dict(tensors)
    flipped = symmetry.flip_tensors(tensors, signs, 1)
    return {name: _where(signed, flipped[name], tensor) for name, tensor in tensors.items()}


def compose_signs(signs: dict[str, Tensor], permutations: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> None:
    """Multiply signs of units, each under its own number, by signs of their present places.

    Args:
        signs: Signs (units,) by group; changed in place.
        permutations: Which unit is in which place, by group.
        then: Signs of the places, by group.
    """
    for name, sign in then.items():
        own = torch.empty_like(sign)
        own[permutations[name]] = sign
        signs[name] = signs[name] * own if name in signs else own

"""Canonical form: of all networks that differ only by how linear groups of units are mixed, one.

Between two linear maps the units can be multiplied by any invertible matrix, if what reads them undoes it. With all
that makes the units as one factor A and all that reads them as another, B, only B^T A counts. Its singular value
decomposition gives both factors the same diagonal Gram matrix; it is found from triangular factors of A and B, without
forming the product. It is also the choice with the smallest norm of the weights.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.bases import (
    Mixings,
    identities,
    mixable,
    mixed,
    mixed_buffers,
    mixed_vectors,
    side,
    without_other_factors,
)
from weightspace.align.procrustes import Mixing, balancing, principal, settled_axes
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.record import Extra
from weightspace.symmetry import Axis, Group, Symmetry

_BLOCK = 64  # networks at once
_PASSES = 200  # two are usual; more where linear groups meet
_STILL = 1e-9  # change of a mixing


def canonical(networks: Collection, symmetry: Symmetry) -> Collection:
    """The same functions, with units that can be mixed in the one basis that does not depend on their training.

    Units of "general" groups get equal and diagonal Gram matrices of what makes and what reads them, those of
    "orthogonal" groups a diagonal one, from large to small, with fixed signs. Other groups are left as they are: their
    units keep their order. Adapters (LoRA) have no other groups, so that equal updates become equal weights.

    Rewound weights and parents are mixed like the weights.

    Args:
        networks: Dense networks, or sparse ones whose masks are the same for all units that are mixed, as those of
            partial adapters are.
        symmetry: Symmetry of their layout, such as `weightspace.symmetry.trace` derives.

    Raises:
        LayoutMismatch: The symmetry belongs to another layout.
        InputError: The networks are sparse or have extras that cannot be mixed, or no group can be mixed.
    """
    symmetry.layout.require_tensors(networks.layout, "the collection")
    if not symmetry.linear:
        raise InputError(
            f"no units of {networks.architecture.name} can be mixed (symmetry.linear is empty), so that there is no "
            "basis to choose: align the networks with WeightMatching()"
        )
    require_mixable(networks, symmetry)
    symmetry = to_mix(symmetry)
    parts: list[Collection] = []
    lost = Lost()
    for rows in blocks(len(networks), _BLOCK):
        part = networks[rows]
        form = canonical_mixings(part.weights, symmetry)
        lost.add(form.lost)
        extras = {name: mixed_vectors(extra, symmetry, form.mixings) for name, extra in part.extras.items()}
        weights = mixed_vectors(part.weights, symmetry, form.mixings)
        buffers = mixed_buffers(part.buffers, symmetry, form.mixings)
        parts.append(part.replace(weights=weights, extras=extras, buffers=buffers))
    lost.warn(len(networks))
    return parts[0] if len(parts) == 1 else Collection.concatenate(parts)


def require_mixable(networks: Collection, symmetry: Symmetry, further: Sequence[str] = ()) -> None:
    """Raise InputError if networks hold what cannot be mixed.

    Args:
        networks: The networks.
        symmetry: Symmetry of their layout.
        further: Extras that are mixed like weights, beside rewound weights and parents.
    """
    if not (networks.dense or _masked_alike(networks, symmetry)):
        raise InputError(
            "masks cannot be mixed, and these networks are sparse: align them by permutations (rotate=False), or "
            "compare them as dense networks, networks.replace(masks=None), in which pruned weights are zeros"
        )
    extras = [name for name in networks.extras if name not in (Extra.REWIND, Extra.PARENT, *further)]
    if extras:
        raise InputError(
            f"the networks have an extra {extras[0]!r}, which cannot be mixed as weights can (a standard deviation has "
            "no other basis): leave it out with networks.replace(extras={}), or align by permutations (rotate=False)"
        )


def _masked_alike(networks: Collection, symmetry: Symmetry) -> bool:
    """Do the masks treat all units of each group that is mixed alike, so that mixing leaves them as they are?"""
    axes = [axis for group in mixable(symmetry) for axis in group.axes]
    for rows in blocks(len(networks), _BLOCK):
        masks = symmetry.layout.tensors(networks[rows].masks.to(networks.layout.dtype))
        for axis in (axis for axis in axes if axis.tensor in masks):
            mask, plain = masks[axis.tensor], axis.index is None and axis.within is None
            mask = mask.movedim(axis.axis + 1, -1) if plain else mask.flatten(1)
            if not bool((mask == mask[..., :1]).all()):
                return False
    return bool(axes)


def to_mix(symmetry: Symmetry) -> Symmetry:
    """The symmetry in which units that are mixed are not flipped and rescaled besides; says which are not mixed."""
    left = [group.name for group in symmetry.linear if group not in mixable(symmetry)]
    if left:
        warnings.warn(
            f"the units of {', '.join(map(repr, left))} are not mixed: they are made and read by one tensor, whose "
            "balanced form is not known in closed form",
            stacklevel=3,
        )
    return without_other_factors(symmetry)


@dataclass(frozen=True)
class Form:
    """How networks are brought into canonical form.

    Args:
        mixings: Matrices (networks, parent units, units, units) by group.
        lost: By group, which networks have a product of lower rank than its factors.
    """

    mixings: Mixings
    lost: Mapping[str, Tensor]


class Lost:
    """Counts networks whose factors have directions that do not reach the product."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, lost: Mapping[str, Tensor]) -> None:
        """Count some networks.

        Args:
            lost: By group, which of them lost a direction.
        """
        for name, which in lost.items():
            self.counts[name] = self.counts.get(name, 0) + int(which.sum())

    def warn(self, total: int) -> None:
        """Say which groups lost a direction, and in how many networks.

        Args:
            total: Number of networks.
        """
        found = [f"{name!r} of {count}" for name, count in self.counts.items() if count]
        if found:
            warnings.warn(
                f"the units of {', '.join(found)} of {total} networks have directions that are made and not read, or "
                "read and not made (as in an adapter whose second factor is still zero). These became zero: the "
                "functions are the same, but training would go on from zeros on both sides",
                stacklevel=3,
            )


def canonical_mixings(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> Form:
    """The matrices that bring networks into canonical form, computed in float64.

    Args:
        weights: Weights of the networks.
        symmetry: Symmetry of their layout; its linear groups are mixed.
    """
    state = symmetry.layout.tensors(weights.double())
    groups = sorted(symmetry.linear, key=lambda g: g.linear == "orthogonal")  # balance first: it changes lengths
    total, lost = identities(symmetry, groups, len(weights)), {}
    rounding = torch.finfo(weights.dtype).eps
    coupled = _meet(symmetry)
    for _ in range(_PASSES if coupled else 1):
        change = 0.0
        for group in groups:
            step, sizes, short = _step(state, symmetry, group, rounding)
            lost[group.name] = lost.get(group.name, False) | short.any(-1)
            state = mixed(state, symmetry, {group.name: step})
            total[group.name] = total[group.name].then(step)
            still = torch.diag_embed((sizes > 0).double())
            change = max(change, float(((step.primal - still) * (sizes > 0)[..., None]).abs().max()))
        if change < _STILL:
            break
    return Form(total, lost)


def _step(
    state: Mapping[str, Tensor], symmetry: Symmetry, group: Group, rounding: float
) -> tuple[Mixing, Tensor, Tensor]:
    """One group's mixing, the others as they are, its units' sizes, and where it has directions without influence."""
    a = side(state, symmetry, group, group.primal)
    if group.linear == "orthogonal":
        mixing, sizes = principal(a)
        lost = torch.zeros(a.shape[:2], dtype=torch.bool)
    else:
        mixing, sizes, lost = balancing(a, side(state, symmetry, group, group.dual), rounding)
    settling = _settling(symmetry, group)
    parts = [
        matrix @ side(state, symmetry, group, [axis for axis in settling if axis in axes])
        for matrix, axes in ((mixing.primal, group.primal), (mixing.dual, group.dual))
    ]
    axes = settled_axes(torch.cat(parts, -1), sizes)
    return mixing.then(Mixing(axes, axes)), sizes, lost


def _settling(symmetry: Symmetry, group: Group) -> Sequence[Axis]:
    """The axes that signs are read from: in tensors that no other linear group mixes, if there are any."""
    others = {(a.tensor, a.axis) for g in symmetry.linear if g is not group for a in g.axes}
    axes = (*group.primal, *group.dual)
    alone = [axis for axis in axes if not any(t == axis.tensor and n != axis.axis for t, n in others)]
    return alone or axes


def _meet(symmetry: Symmetry) -> bool:
    """Whether two linear groups mix different axes of one tensor."""
    axes: dict[str, set[tuple[int, bool]]] = {}
    for group in symmetry.linear:
        for axis in group.axes:
            axes.setdefault(axis.tensor, set()).add((axis.axis, axis.within is not None))
    return any(len({number for number, _ in found}) > 1 for found in axes.values())

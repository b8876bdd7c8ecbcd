"""The form in which networks are compared: scales balanced and, where they are rotated, linear groups canonical."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.balance import balance_scales
from weightspace.align.bases import Mixings, mixed_vectors, of_rotations
from weightspace.align.canonical import canonical_mixings
from weightspace.align.costs import Cost, WeightCost
from weightspace.align.population import PopulationScheme
from weightspace.align.procrustes import Mixing
from weightspace.align.signs import follows
from weightspace.align.universe import Universe
from weightspace.errors import InputError
from weightspace.symmetry import Symmetry

_PASSES = 50  # of balancing and mixing in turn, where they meet
_STILL = 1e-7


@dataclass(frozen=True)
class UnitForm:
    """Factors that bring networks into the form in which they are compared.

    Args:
        scales: Positive factors (networks, units) of homogeneous groups.
        mixings: Matrices (networks, parent units, units, units) of linear groups.
        lost: For each linear group, which networks have directions without influence.
    """

    scales: dict[str, Tensor]
    mixings: Mixings
    lost: Mapping[str, Tensor]

    def of(self, i: int) -> tuple[dict[str, Tensor], Mixings]:
        """The scales of one network, and its mixings."""
        mixings = {name: Mixing(m.primal[i : i + 1], m.dual[i : i + 1]) for name, m in self.mixings.items()}
        return {name: scale[i] for name, scale in self.scales.items()}, mixings

    def rotated(self, symmetry: Symmetry, rotations: Sequence[Mapping[str, Tensor]]) -> Mixings:
        """The mixings of all networks with these rotations after them.

        Args:
            symmetry: Symmetry of the networks.
            rotations: For each network the rotations of its linear groups.
        """
        own = [of_rotations(symmetry, one) for one in rotations]
        return {
            name: mixing.then(Mixing(*(torch.cat([one[name][k] for one in own]) for k in range(2))))
            for name, mixing in self.mixings.items()
        }


def rotated_form(weights: Float[Tensor, "nets d"], symmetry: Symmetry, *, balance: bool) -> UnitForm:
    """The scales and the mixings with the smallest norm of all weights, and the basis of canonical form.

    Args:
        weights: Weights of the networks.
        symmetry: Symmetry of their layout, its linear groups neither odd nor homogeneous.
        balance: Whether homogeneous units are rescaled.
    """
    form = canonical_mixings(weights, symmetry)
    total, lost = dict(form.mixings), form.lost
    if not balance:
        return UnitForm({}, total, lost)
    scales = balance_scales(mixed_vectors(weights.double(), symmetry, total), symmetry)
    meet = {a.tensor for g in symmetry.linear for a in g.axes} & {
        a.tensor for g in symmetry.groups if g.homogeneous for a in g.axes
    }
    for _ in range(_PASSES if meet else 0):
        current = mixed_vectors(symmetry.scale(weights.double(), scales), symmetry, total)
        step = canonical_mixings(current, symmetry)
        further = balance_scales(mixed_vectors(current, symmetry, step.mixings), symmetry)
        total = {name: mixing.then(step.mixings[name]) for name, mixing in total.items()}
        scales = {name: scale * further[name] for name, scale in scales.items()}
        if max((float(scale.log().abs().max()) for scale in further.values()), default=0.0) < _STILL:
            break
    return UnitForm({name: scale.to(weights.dtype) for name, scale in scales.items()}, total, lost)


def require_rotating(cost: Cost, population: PopulationScheme) -> None:
    """Raise InputError for costs and population schemes that know of no rotations.

    Args:
        cost: What is compared.
        population: How the reference is found.
    """
    if not isinstance(cost, WeightCost) or not all(map(follows, cost.fields)):
        raise InputError(
            f"rotate=True compares vectors that can be mixed, such as weights, by WeightCost(); {cost!r} has others (a "
            "standard deviation has no other basis). Leave one of the two out"
        )
    if isinstance(population, Universe):
        raise InputError(
            "Universe maps networks by permutations and signs, not by rotations: use GrowingMean, Star or MergeMany "
            "with rotate=True"
        )

"""What is compared when networks are matched: pairs of features whose inner product is maximised.

A cost turns networks into feature vectors of weight space. The gain of a permutation is the sum over features of the
inner products of the reference's feature with the permuted network's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.signs import follows
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling
from weightspace.storage.typed import Registry

WEIGHTS = "weights"  # the field that every network has; all other fields are extras of the collection


@runtime_checkable
class Cost(Protocol):
    """A way to compare networks.

    Your own is a dataclass with these members. To save what was aligned with it, register it:
    `@COSTS.register("my-cost")` above `@dataclass(frozen=True)`, with `weightspace.align.COSTS`.

    A further member is needed where units can change sign (behind tanh, say): `signed`, a tuple that says of each
    feature whether it changes sign with the weights, as means do and standard deviations do not. Without it signs stay
    as they are, and a warning says so.
    """

    @property
    def fields(self) -> tuple[str, ...]:
        """Vectors that are needed of each network: "weights" or names of extras. The reference holds their means."""
        ...

    @property
    def rescaled(self) -> tuple[str, ...]:
        """Extras that follow the weights when units are rescaled."""
        ...

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        """The reference's features.

        Args:
            fields: The vectors named by `fields`, (D,) each.
        """
        ...

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        """The features of a network that is matched to the reference.

        Args:
            fields: The vectors named by `fields`, (D,) each.
        """
        ...


COSTS: Registry[Cost] = Registry("cost of alignment")
"""Costs that can be saved, by their names on disk."""


@COSTS.register("Weights")
@dataclass(frozen=True)
class WeightCost:
    """Compare weights by their squared distance, as Git Re-Basin does (Ainsworth et al. 2023, arXiv 2209.04836).

    Args:
        fields: Vectors to compare; by default the weights as they are, pruned ones as zeros. For tickets, an extra that
            holds their dense parents, ("parent",), or both, ("weights", "parent"). Parents align better up to about
            90 % sparsity, sparse weights beyond.
        rescaled: Extras that are rescaled along with the weights when units are balanced.

    Raises:
        InputError: There is nothing to compare.
    """

    spelling: ClassVar[Spelling] = Spelling("Weights")

    fields: tuple[str, ...] = (WEIGHTS,)
    rescaled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.settle(self, checks.several, "fields", "rescaled", check=checks.text)
        if not self.fields:
            raise InputError('fields must be at least one vector to compare, such as ("weights",)')

    @property
    def signed(self) -> tuple[bool, ...]:
        """For each field whether it changes sign with the weights."""
        return tuple(follows(name) for name in self.fields)

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])


@dataclass(frozen=True)
class _PosteriorCost:
    """Diagonal normal posteriors: the weights are means, an extra holds standard deviations, 0 where pruned."""

    scale: str = "std"

    def __post_init__(self) -> None:
        checks.settle(self, checks.text, "scale", example="std")

    @property
    def fields(self) -> tuple[str, ...]:
        return (WEIGHTS, self.scale)

    @property
    def rescaled(self) -> tuple[str, ...]:
        return (self.scale,)

    @property
    def signed(self) -> tuple[bool, ...]:
        """Means change sign with their units, deviations and squares do not."""
        return (True, False)

    def require_deviations(self, fields: Mapping[str, Tensor]) -> None:
        """Raise InputError if a standard deviation is negative."""
        if (fields[self.scale] < 0).any():
            raise InputError(
                f"the extra {self.scale!r} holds negative values: standard deviations are positive, or 0 if pruned"
            )


@COSTS.register("Wasserstein")
@dataclass(frozen=True)
class WassersteinCost(_PosteriorCost):
    """Compare diagonal normal posteriors by the 2-Wasserstein distance.

    W_2^2 = |mu_A - mu_B|^2 + |sigma_A - sigma_B|^2, so that the gain is <mu_A, mu_B> + <sigma_A, sigma_B>.

    Args:
        scale: The extra that holds the posteriors' standard deviations; the weights are their means.
    """

    spelling: ClassVar[Spelling] = Spelling("Wasserstein")

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return self.of_network(fields)

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        self.require_deviations(fields)
        return torch.stack([fields[name] for name in self.fields])


@COSTS.register("Precision")
@dataclass(frozen=True)
class PrecisionCost(_PosteriorCost):
    """Compare means, each weighted by the reference's precision: -sum_i (mu_A - mu_B)_i^2 / sigma_A_i^2.

    Args:
        scale: The extra that holds the posteriors' standard deviations; the weights are their means.
        floor: The smallest standard deviation of a kept weight, in units of their root mean square. Pruned weights,
            whose deviation is zero, weigh as if they had this one.

    Raises:
        InputError: The floor is not positive.
    """

    spelling: ClassVar[Spelling] = Spelling("Precision")

    floor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.settle(self, checks.number, "floor", above=0)

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        self.require_deviations(fields)
        sigma = fields[self.scale]
        kept = sigma[sigma > 0]
        if not len(kept):
            raise InputError(f"the extra {self.scale!r} of the reference has no positive standard deviation")
        least = self.floor * kept.square().mean().sqrt()
        precision = sigma.clamp(min=float(least)).pow(-2)
        precision = precision / precision.mean()
        return torch.stack([2 * precision * fields[WEIGHTS], -precision])

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        self.require_deviations(fields)
        return torch.stack([fields[WEIGHTS], fields[WEIGHTS].square()])


def signed_features(cost: Cost) -> tuple[bool, ...] | None:
    """For each feature of a cost whether it changes sign with the weights; None if the cost does not say."""
    return getattr(cost, "signed", None)


def require_fields(cost: Cost, networks: Collection) -> None:
    """Raise InputError unless the networks have all fields of a cost."""
    missing = [name for name in (*cost.fields, *cost.rescaled) if name != WEIGHTS and name not in networks.extras]
    if missing:
        raise InputError(
            f"the networks have no extra {missing[0]!r} (they have {sorted(networks.extras) or 'none'}): add it with "
            "collection.replace(extras={...}), one vector of the layout's size a network"
        )

"""What is compared when networks are matched: pairs of features whose inner product is maximised.

A cost turns networks into feature vectors of weight space; the gain of a permutation is the sum over
features of the inner products of the reference's feature with the permuted network's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.collection import Collection


@runtime_checkable
class Cost(Protocol):
    """A way to compare networks.

    `fields` are the vectors it needs of each network, "weights" or names of extras; the reference holds
    their means. `rescaled` are the extras that follow the weights when units are rescaled.
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def rescaled(self) -> tuple[str, ...]: ...

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        """The reference's features."""
        ...

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        """A network's features."""
        ...


@dataclass(frozen=True)
class Weights:
    """Compare weights, as in Git Re-Basin: the least squared distance of weights.

    Args:
        fields: what to compare, by default the weights as they are, pruned ones as zeros. For tickets
            an extra that holds their dense parents, ("parent",), or both, ("weights", "parent"):
            parents align better up to about 90 % sparsity, sparse weights beyond.
        rescaled: extras that are rescaled along with the weights when units are balanced.
    """

    fields: tuple[str, ...] = ("weights",)
    rescaled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.fields, str) or not self.fields:
            raise InputError('compare at least one vector, such as fields=("weights",)')

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])


@dataclass(frozen=True)
class _Posterior:
    """Diagonal normal posteriors: the weights are means, an extra holds standard deviations.

    Args:
        scale: the extra's name; pruned weights have mean and standard deviation zero.
    """

    scale: str = "std"

    @property
    def fields(self) -> tuple[str, ...]:
        return ("weights", self.scale)

    @property
    def rescaled(self) -> tuple[str, ...]:
        return (self.scale,)


@dataclass(frozen=True)
class Wasserstein(_Posterior):
    """Compare diagonal normal posteriors by the 2-Wasserstein distance.

    W_2^2 = |mu_A - mu_B|^2 + |sigma_A - sigma_B|^2, so that the gain is <mu_A, mu_B> + <sigma_A, sigma_B>.

    Args:
        scale: the extra that holds the posteriors' standard deviations; the weights are their means.
    """

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields[name] for name in self.fields])


@dataclass(frozen=True)
class Precision(_Posterior):
    """Compare means, each weighted by the reference's precision: -sum_i (mu_A - mu_B)_i^2 / sigma_A_i^2.

    Args:
        scale: the extra that holds the standard deviations.
        floor: the smallest standard deviation of a kept weight, in units of their root mean square;
            pruned weights (sigma zero) weigh as if they had the floor's.
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise InputError(f"the floor of standard deviations must be positive, got {self.floor}")

    def of_reference(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        sigma = fields[self.scale]
        kept = sigma[sigma > 0]
        if not len(kept):
            raise InputError(f"the extra {self.scale!r} of the reference has no positive standard deviation")
        least = self.floor * kept.square().mean().sqrt()
        precision = sigma.clamp(min=float(least)).pow(-2)
        precision = precision / precision.mean()
        return torch.stack([2 * precision * fields["weights"], -precision])

    def of_network(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "features d"]:
        return torch.stack([fields["weights"], fields["weights"].square()])


def require_fields(cost: Cost, networks: Collection) -> None:
    """Raise InputError unless the networks have all fields of a cost."""
    missing = [name for name in (*cost.fields, *cost.rescaled) if name != "weights" and name not in networks.extras]
    if missing:
        raise InputError(
            f"the networks have no extra {missing[0]!r} (they have {sorted(networks.extras) or 'none'}): add it with "
            "collection.replace(extras={...}), one vector of the layout's size a network"
        )
    scale = getattr(cost, "scale", None)
    if scale is not None and (networks[[0]].extras[scale] < 0).any():
        raise InputError(f"the extra {scale!r} holds negative values: standard deviations are positive, or 0 if pruned")


_COSTS = (Weights, Wasserstein, Precision)


def cost_to_json(cost: Cost) -> dict[str, Any]:
    """A cost as data; one of the user's own cannot be stored."""
    if not isinstance(cost, _COSTS):
        raise InputError(f"a {type(cost).__name__} cannot be stored: align with one of the library's costs")
    return {"kind": type(cost).__name__, **asdict(cost)}


def cost_from_json(data: Mapping[str, Any]) -> Cost:
    """The inverse of `cost_to_json`."""
    own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "kind"}
    return next(cost for cost in _COSTS if cost.__name__ == data["kind"])(**own)

"""How a sample's mask is decided: what is coded beside the weights, and what is ranked to choose the mask.

A rule turns tickets into the vectors that are compressed, and decoded vectors into values and scores; the asked
pattern then keeps the positions with the highest scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.generator.posterior_masks import FittedPosteriorMask
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.layout import Layout
from weightspace.storage.spelling import Spelling

DENSE = "gates code which weights a ticket keeps, and these networks are dense: use MagnitudeMask()"
_ROWS = 16  # networks read at once


@runtime_checkable
class FittedMaskRule(Protocol):
    """A rule that knows the tickets."""

    def vectors(self, tickets: Collection) -> Collection | Float[Tensor, "n m"]:
        """What is compressed, a row for each ticket."""
        ...

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Values of the weights, and scores that rank them; both may be views of the vectors."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    def to_json(self) -> dict[str, Any]: ...


@runtime_checkable
class MaskRule(Protocol):
    """A rule for masks."""

    def fit(self, tickets: Collection) -> FittedMaskRule: ...


@dataclass(frozen=True)
class MagnitudeMask:
    """Decode the weights, then keep the largest: the mask is read off the values."""

    spelling: ClassVar[Spelling] = Spelling("Magnitude")

    def fit(self, tickets: Collection) -> "MagnitudeMask":
        return self

    def vectors(self, tickets: Collection) -> Collection:
        return tickets

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        return vectors, vectors.abs()

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"rule": "magnitude"}


@dataclass(frozen=True)
class SharedMask:
    """One mask for all samples: the weights that most tickets keep, the larger ones first among equals."""

    spelling: ClassVar[Spelling] = Spelling("SharedSupport")

    def fit(self, tickets: Collection) -> "FittedSharedMask":
        often = _mean(tickets, lambda part: part.masks)
        size = _mean(tickets, lambda part: part.weights.abs())
        # Frequencies differ by at least 1 / n, so that size decides between equal ones alone.
        return FittedSharedMask(often + 0.5 / len(tickets) * size / size.max().clamp(min=torch.finfo(size.dtype).tiny))


@dataclass(frozen=True)
class FittedSharedMask:
    """:class:`SharedMask` of a collection.

    Args:
        scores: (D,).
    """

    scores: Float[Tensor, " d"]

    def vectors(self, tickets: Collection) -> Collection:
        return tickets

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        return vectors, self.scores.expand(vectors.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"support.scores": self.scores}

    def to_json(self) -> dict[str, Any]:
        return {"rule": "shared"}


@dataclass(frozen=True)
class GateMask:
    """Code gates beside the weights: +1 where a ticket keeps a weight, -1 where not; decoded gates rank the weights.

    Analog bits (arXiv 2208.04202) with the pattern's projection in place of a threshold, so that counts are exact.

    Args:
        share: of the total variance that the gates have, in (0, 1).
    """

    share: float = 0.5

    spelling: ClassVar[Spelling] = Spelling("Gates")

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the gates' share of the variance must lie in (0, 1), got {self.share}")

    def fit(self, tickets: Collection) -> "FittedGateMask":
        if tickets.dense:
            raise InputError(DENSE)
        weights = tickets.weights.var(0).sum().item()
        often = _mean(tickets, lambda part: part.masks)[tickets.layout.prunable]
        n = len(tickets)
        gates = 4 * (often * (1 - often)).sum().item() * n / max(1, n - 1)
        if not gates > 0:
            raise InputError("all tickets have the same mask: gates have nothing to code, use SharedMask()")
        scale = (self.share / (1 - self.share) * weights / gates) ** 0.5
        return FittedGateMask(tickets.layout, scale)


@dataclass(frozen=True)
class FittedGateMask:
    """:class:`GateMask` of a collection.

    Args:
        scale: of a gate in the vectors.
    """

    layout: Layout
    scale: float

    def vectors(self, tickets: Collection) -> Float[Tensor, "n m"]:
        gates = (2.0 * tickets.masks[:, self.layout.prunable] - 1.0) * self.scale
        return torch.cat([tickets.weights, gates.to(tickets.weights.dtype)], dim=1)

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        values, gates = vectors[:, : self.layout.size], vectors[:, self.layout.size :] / self.scale
        # Positions that are not prunable are always kept; their scores are never read.
        scores = torch.zeros_like(values).index_copy(1, self.layout.prunable.nonzero()[:, 0], gates)
        return values, scores

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"rule": "gates", "scale": self.scale}


def _mean(tickets: Collection, what: Callable[[Collection], Tensor]) -> Float[Tensor, " d"]:
    """Mean over networks, a few of them in memory at a time."""
    total = torch.zeros(tickets.layout.size, dtype=torch.float64)
    for rows in blocks(len(tickets), _ROWS):
        total += what(tickets[rows]).sum(0, dtype=torch.float64)
    return (total / len(tickets)).float()


def load_mask_rule(saved: dict[str, Any], tensors: dict[str, Tensor], layout: Layout) -> FittedMaskRule:
    """The rule of a saved generator.

    Raises:
        StorageError: it is of a kind that this version does not know.
    """
    match saved:
        case {"rule": "magnitude"}:
            return MagnitudeMask()
        case {"rule": "shared"}:
            return FittedSharedMask(tensors["support.scores"])
        case {"rule": "gates", "scale": scale}:
            return FittedGateMask(layout, scale)
        case {"rule": "posteriors", "gate": gate, "spread": spread}:
            return FittedPosteriorMask(layout, gate, spread, tensors["posteriors.random"])
    raise StorageError(f"unknown mask rule {saved!r}: was the generator written by a newer version?")

"""Patterns that decide first how many weights each layer keeps, then which: ERK, balanced, rates of one's own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import (
    PATTERNS,
    Pattern,
    check_density,
    check_layout,
    densities_to,
    keep_counts,
    total_count,
)
from weightspace.networks.layout import Entry, Layout
from weightspace.runtime import checks


@dataclass(frozen=True)
class _Shares(ABC):
    """A total that is divided over the layers before weights are ranked in each.

    Args:
        density: Fraction of all prunable weights kept, in (0, 1].

    Raises:
        InputError: The density lies outside (0, 1].
    """

    # Generators leave the density open under these patterns, as version 0.1 did: its runs go on to the same bytes.
    density_for_generators: ClassVar[bool] = False

    density: float

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")

    @abstractmethod
    def _raw(self, entry: Entry) -> float:
        """Density of a layer, up to a common factor."""

    def counts(self, layout: Layout) -> list[int]:
        """Weights kept in each weight tensor, in the layout's order."""
        weights = check_layout(layout).weights
        return _shared(weights, self.count(layout), [self._raw(entry) for entry in weights])

    def count(self, layout: Layout) -> int:
        """The exact number of weights kept in every network.

        Raises:
            InputError: The density keeps none.
        """
        return total_count(self.density, layout)

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:
        """The same pattern at falling densities; see `Stepwise.steps`."""
        return [replace(self, density=density) for density in densities_to(self.density, rate, start)]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
        return keep_counts(scores, layout, self.counts(layout), within)


@PATTERNS.register("ERK")
@dataclass(frozen=True)
class ERK(_Shares):
    """Erdos-Renyi kernel: a layer's density is proportional to (sum of its dimensions) / (their product).

    Evci et al. 2020 (arXiv 1911.11134). Where this exceeds one the layer is dense and the others share the rest, so
    that the total is exact.

    Args:
        density: Fraction of all prunable weights kept, in (0, 1].

    Raises:
        InputError: The density lies outside (0, 1].
    """

    def _raw(self, entry: Entry) -> float:
        return sum(entry.shape) / entry.size


@PATTERNS.register("Balanced")
@dataclass(frozen=True)
class Balanced(_Shares):
    """The same number of weights in every layer; what a small layer cannot take goes to the others.

    Args:
        density: Fraction of all prunable weights kept, in (0, 1].

    Raises:
        InputError: The density lies outside (0, 1].
    """

    def _raw(self, entry: Entry) -> float:
        return 1 / entry.size


@PATTERNS.register("LayerRates")
@dataclass(frozen=True)
class LayerRates:
    """Density (1 - rate)^level in every layer, with rates of their own for some (Frankle & Carbin 2019, section 2).

    LeNet in the paper: `LayerRates(level)`, 20 % of each layer and 10 % of the output layer at every level.

    Args:
        level: Number of times that the layers have been pruned.
        rate: Fraction of a layer's remaining weights removed at each level.
        output: Rate of the last weight tensor.
        others: Rates of further weight tensors, by name.

    Raises:
        InputError: The level is negative, or a rate lies outside [0, 1).
    """

    level: int
    rate: float = 0.2
    output: float = 0.1
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "level")
        checks.settle(self, checks.number, "rate", "output", at_least=0, below=1)
        checks.mapping(self.others, "others", "of names of tensors to rates")
        for name, rate in self.others.items():
            checks.number(rate, f"others[{name!r}]", at_least=0, below=1)

    def counts(self, layout: Layout) -> list[int]:
        """Weights kept in each weight tensor, in the layout's order."""
        weights = check_layout(layout).weights
        unknown = self.others.keys() - {e.name for e in weights}
        if unknown:
            raise InputError(f"no weight is called {min(unknown)!r}: there are {', '.join(e.name for e in weights)}")
        rates = {e.name: self.rate for e in weights} | {weights[-1].name: self.output} | dict(self.others)
        return [max(1, round((1 - rates[e.name]) ** self.level * e.size)) for e in weights]

    def count(self, layout: Layout) -> int:
        """The exact number of weights kept in every network."""
        return sum(self.counts(layout))

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:  # noqa: ARG002
        """Level by level, at this pattern's own rates; see `Stepwise.steps`."""
        return [replace(self, level=level) for level in range(1, self.level + 1)] or [self]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
        return keep_counts(scores, layout, self.counts(layout), within)


def _shared(weights: Sequence[Entry], total: int, raw: Sequence[float]) -> list[int]:
    """Counts that sum to `total`, proportional to raw density times size, none above its size."""
    sizes = torch.tensor([e.size for e in weights], dtype=torch.float64)
    share = torch.tensor(raw, dtype=torch.float64) * sizes
    full = torch.zeros(len(sizes), dtype=torch.bool)
    while True:
        left = total - sizes[full].sum()
        wanted = torch.where(full, sizes, share * left / share[~full].sum().clamp(min=1e-300))
        over = ~full & (wanted > sizes)
        if not over.any():
            break
        full |= over
    # By the highest quotients of fixed shares: largest remainders can give a layer more as the total falls.
    counts = torch.where(full, sizes, (wanted - len(sizes)).floor().clamp(min=0)).long()
    while int(counts.sum()) < total:
        quotient = torch.where(counts < sizes, share / (counts + 0.5), torch.tensor(-1.0, dtype=torch.float64))
        counts[quotient.argmax()] += 1
    return counts.tolist()

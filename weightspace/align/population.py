"""Which network, or mean of networks, a whole population is aligned to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from weightspace.align.costs import Cost
from weightspace.errors import InputError
from weightspace.runtime import checks, seeds
from weightspace.runtime.progress import progress
from weightspace.symmetry import Symmetry

_GAIN = 1e-5  # MergeMany stops after a pass that gained less than this share

Fields = dict[str, Tensor]
"""Vectors of weight space by name, (D,) each: "weights", and the extras that a cost compares."""


@runtime_checkable
class PopulationScheme(Protocol):
    """A way to find the reference of a population."""

    def reference(self, networks: "MatchableNetworks") -> Fields:
        """The fields of the network that all others are matched to."""
        ...


@runtime_checkable
class MatchableNetworks(Protocol):
    """Networks that can be matched to any reference, as a population scheme sees them."""

    @property
    def symmetry(self) -> Symmetry:
        """The permutation symmetry of the networks."""
        ...

    @property
    def cost(self) -> Cost:
        """What is compared."""
        ...

    @property
    def device(self) -> str:
        """Where to compute; vectors of networks are on the CPU."""
        ...

    def __len__(self) -> int: ...

    def fields(self, i: int) -> Fields:
        """Network i in its own order of units, balanced."""
        ...

    def matched(self, rows: Sequence[int], reference: Fields) -> Iterator[Fields]:
        """Networks permuted to match a reference.

        Args:
            rows: Numbers of the networks.
            reference: Fields of the network to match.
        """
        ...


def require_member(reference: int, count: int) -> None:
    """Raise InputError unless a reference network is one of so many."""
    if not 0 <= reference < count:
        raise InputError(f"the reference network {reference} is not among the {count} networks")


@dataclass(frozen=True)
class GrowingMean:
    """Align each network to the mean of those before it; the mean of all is the reference.

    The default: cycle-consistent, one pass, and unlike a star it aligns all pairs, not only those with the reference.
    Networks are taken in blocks of an eighth of those already aligned, so that many can be matched at once.
    """

    def reference(self, networks: MatchableNetworks) -> Fields:
        total = {name: t.double() for name, t in networks.fields(0).items()}
        done = 1
        with progress(range(len(networks)), "aligning to the growing mean") as bar:
            bar.update(1)
            while done < len(networks):
                block = range(done, min(len(networks), done + max(1, done // 8)))
                mean = {name: t / done for name, t in total.items()}
                for fields in networks.matched(block, mean):
                    for name in total:
                        total[name] += fields[name]
                    bar.update(1)
                done = block.stop
        return {name: t / done for name, t in total.items()}


@dataclass(frozen=True)
class Star:
    """Align every network to one of them, as most published code does.

    Pairs without the reference remain far apart: their barrier is several times that with it.

    Args:
        network: Number of the network that is the reference.
    """

    network: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "network")

    def reference(self, networks: MatchableNetworks) -> Fields:
        require_member(self.network, len(networks))
        return {name: t.double() for name, t in networks.fields(self.network).items()}


@dataclass(frozen=True)
class MergeMany:
    """Match each network to the mean of all others, in turn, until nothing improves.

    The MergeMany of Git Re-Basin (Ainsworth et al. 2023, arXiv 2209.04836). The reference is the mean of all. It holds
    all networks in memory.

    Args:
        sweeps: Largest number of passes over all networks.
        seed: Seed of the order of networks in each pass.
    """

    sweeps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "sweeps", at_least=1)
        checks.settle(self, checks.seed, "seed")

    def reference(self, networks: MatchableNetworks) -> Fields:
        count = len(networks)
        current = [networks.fields(i) for i in range(count)]
        total = {name: torch.stack([c[name].double() for c in current]).sum(0) for name in current[0]}
        best = _norm(total)
        random = seeds.generator(self.seed, "merge many")
        for _ in progress(range(self.sweeps), "MergeMany, passes"):
            for i in torch.randperm(count, generator=random).tolist():
                if count == 1:
                    break
                rest = {name: (total[name] - current[i][name]) / (count - 1) for name in total}
                (moved,) = networks.matched([i], rest)
                if _product(rest, moved, networks.cost) <= _product(rest, current[i], networks.cost):
                    continue  # matched from scratch, it can end lower than where it was
                for name in total:
                    total[name] += moved[name].double() - current[i][name].double()
                current[i] = moved
            value = _norm(total)
            if value <= best * (1 + _GAIN):
                break
            best = value
        return {name: t / count for name, t in total.items()}


def _product(reference: Fields, network: Fields, cost: Cost) -> float:
    """What matching maximises."""
    return float((cost.of_reference(reference) * cost.of_network({n: t.double() for n, t in network.items()})).sum())


def _norm(fields: Fields) -> float:
    """Squared norm of the sum: the sum of all pairs' inner products, but for constants."""
    return sum(float(t.square().sum()) for t in fields.values())

"""Cycle-consistent alignment of many networks at once (C2M3, Crisostomi et al. 2024, arXiv 2405.17897)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.population import Fields, MatchableNetworks
from weightspace.errors import InputError
from weightspace.runtime.progress import progress
from weightspace.symmetry import Axis, Symmetry


@dataclass(frozen=True)
class Universe:
    """Map all networks into one universe together, by Frank-Wolfe on doubly stochastic matrices.

    Maximises the inner products of all pairs, through the sum of all mapped networks, so that a step costs as much as
    matching each network once. Needs a matrix for each network and group in memory: for tens of networks. Independent
    of the order of networks. Source: C2M3 (Crisostomi et al. 2024, arXiv 2405.17897).

    Args:
        steps: Largest number of Frank-Wolfe steps.
        tolerance: Share of the objective that a step has to gain; the first that gains less is the last.
    """

    steps: int = 100
    tolerance: float = 1e-5

    def reference(self, networks: MatchableNetworks) -> Fields:
        symmetry = networks.symmetry
        if any(g.parent is not None for g in symmetry.groups):
            raise InputError(
                "Universe aligns plain groups of units; these networks have groups inside groups (heads or grouped "
                "convolutions): use GrowingMean or MergeMany"
            )
        fields = [networks.fields(i) for i in range(len(networks))]
        device = networks.device
        tensors = [dict(symmetry.layout.tensors(networks.cost.of_network(f).to(device).double())) for f in fields]
        soft = [
            {g.name: torch.eye(g.size, dtype=torch.float64, device=device) for g in symmetry.groups} for _ in fields
        ]
        products = _PairwiseProducts(symmetry, tensors)
        value = products.value(soft)
        for _ in progress(range(self.steps), "cycle-consistent alignment, steps"):
            ahead = products.vertices(soft)
            at = [0.0, 0.25, 0.5, 0.75, 1.0]
            # Along the line the objective is a polynomial of degree 4 where tensors have two groups.
            values = [products.value(_mixed(soft, ahead, t)) for t in at]
            fit = np.polyfit(at, values, 4)
            grid = np.linspace(0, 1, 201)
            t = float(grid[np.polyval(fit, grid).argmax()])
            soft = _mixed(soft, ahead, t)
            before, value = value, products.value(soft)
            if t == 0 or value - before <= self.tolerance * abs(value):
                break
        hard = [{name: assign(p.contiguous()) for name, p in one.items()} for one in soft]
        total: Fields = {}
        for vectors, order in zip(fields, hard, strict=True):
            for name, vector in vectors.items():
                moved = symmetry.permute(vector.double(), order)
                total[name] = total[name] + moved if name in total else moved
        return {name: t / len(fields) for name, t in total.items()}


def _mixed(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]], t: float) -> list[dict[str, Tensor]]:
    return [{name: (1 - t) * one[name] + t * two[name] for name in one} for one, two in zip(a, b, strict=True)]


class _PairwiseProducts:
    """The inner products of all pairs of networks under soft permutations, and their gradient."""

    def __init__(self, symmetry: Symmetry, tensors: list[dict[str, Tensor]]) -> None:
        self.symmetry, self.tensors = symmetry, tensors
        self.uses: dict[str, list[tuple[str, Axis]]] = defaultdict(list)
        for group in symmetry.groups:
            for axis in group.axes:
                if axis.tensor in tensors[0]:
                    self.uses[axis.tensor].append((group.name, axis))

    def mapped(
        self, name: str, tensor: Tensor, soft: dict[str, Tensor], skip: tuple[str, Axis] | None = None
    ) -> Tensor:
        """A tensor under soft permutations of all groups, on all axes but one."""
        for group, axis in self.uses[name]:
            if (group, axis) != skip:
                place = self.symmetry.places[group, axis]
                rows = tensor.movedim(axis.axis + 1, 0)
                units = rows[place.flatten()].reshape(len(place), -1)
                moved = rows.clone()
                moved[place.flatten()] = (soft[group] @ units).reshape(place.numel(), *rows.shape[1:])
                tensor = moved.movedim(0, axis.axis + 1)
        return tensor

    def value(self, soft: list[dict[str, Tensor]]) -> float:
        """Sum over pairs of networks of their mapped inner products."""
        total = 0.0
        for name in self.uses:
            mapped = [self.mapped(name, t[name], s) for t, s in zip(self.tensors, soft, strict=True)]
            whole = torch.stack(mapped).sum(0)
            total += 0.5 * (whole.square().sum() - sum(m.square().sum() for m in mapped)).item()
        return total

    def vertices(self, soft: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """For every network the permutations that point along its gradient."""
        return [
            {
                name: torch.eye(len(gain), dtype=torch.float64)[assign(gain)].to(gain.device)
                for name, gain in one.items()
            }
            for one in self.gains(soft)
        ]

    def gains(self, soft: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The gradient of `value` for every network and group."""
        sums = {
            name: torch.stack([self.mapped(name, t[name], s) for t, s in zip(self.tensors, soft, strict=True)]).sum(0)
            for name in self.uses
        }
        gradients: list[dict[str, Tensor]] = []
        for tensors, permutations in zip(self.tensors, soft, strict=True):
            gains = {name: torch.zeros_like(soft) for name, soft in permutations.items()}
            for name, uses in self.uses.items():
                others = sums[name] - self.mapped(name, tensors[name], permutations)
                for group, axis in uses:
                    place = self.symmetry.places[group, axis]
                    network = self.mapped(name, tensors[name], permutations, skip=(group, axis))
                    a, b = (
                        t.movedim(axis.axis + 1, 0)[place.flatten()].reshape(len(place), -1) for t in (others, network)
                    )
                    gains[group] += a @ b.T
            gradients.append(gains)
        return gradients

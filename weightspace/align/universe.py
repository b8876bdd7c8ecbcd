"""Cycle-consistent alignment of many networks at once (C2M3, Crisostomi et al. 2024, arXiv 2405.17897)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.costs import signed_features
from weightspace.align.population import Fields, MatchableNetworks
from weightspace.align.signs import compose_signs, flips, follows, signed_assignment
from weightspace.errors import InputError
from weightspace.runtime import checks
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

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "steps", at_least=1)
        checks.settle(self, checks.number, "tolerance", at_least=0)

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
        eyes = {g.name: torch.eye(g.size, dtype=torch.float64, device=device) for g in symmetry.groups}
        eyes |= {_with_signs(g.name): eyes[g.name] for g in symmetry.odd}
        soft = [dict(eyes) for _ in fields]
        products = _PairwiseProducts(symmetry, tensors, signed_features(networks.cost))
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
        total: Fields = {}
        for vectors, one in zip(fields, soft, strict=True):
            order, signs = _nearest(symmetry, one)
            for name, vector in vectors.items():
                flipped = symmetry.flip(vector.double(), signs) if follows(name) else vector.double()
                moved = symmetry.permute(flipped, order)
                total[name] = total[name] + moved if name in total else moved
        return {name: t / len(fields) for name, t in total.items()}


def _with_signs(name: str) -> str:
    """The key of an odd group's matrix of permutation and signs, beside that of its permutation."""
    return f"{name}\0signs"


def _nearest(symmetry: Symmetry, soft: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The permutations, and the signs of units before them, nearest to soft ones."""
    orders, signs = {}, {}
    for group in symmetry.groups:
        if group.odd:
            matrices = soft[group.name].cpu(), soft[_with_signs(group.name)].cpu()
            orders[group.name], sign, _ = signed_assignment(*matrices)
            compose_signs(signs, orders, {group.name: sign})
        else:
            orders[group.name] = assign(soft[group.name].contiguous())
    return orders, signs


def _mixed(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]], t: float) -> list[dict[str, Tensor]]:
    return [{name: (1 - t) * one[name] + t * two[name] for name in one} for one, two in zip(a, b, strict=True)]


class _PairwiseProducts:
    """The inner products of all pairs of networks under soft permutations, and their gradient."""

    def __init__(
        self, symmetry: Symmetry, tensors: list[dict[str, Tensor]], signed: tuple[bool, ...] | None = None
    ) -> None:
        self.symmetry, self.tensors = symmetry, tensors
        count = len(next(iter(tensors[0].values())))
        self.signed = torch.tensor((True,) * count if signed is None else signed)
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
                before, tensor = tensor, moved.movedim(0, axis.axis + 1)
                if flips(self.symmetry.by_name[group], axis):
                    moved = rows.clone()
                    flipped = soft[_with_signs(group)] @ units
                    moved[place.flatten()] = flipped.reshape(place.numel(), *rows.shape[1:])
                    which = self.signed.to(tensor.device).reshape(-1, *[1] * (before.ndim - 1))
                    tensor = torch.where(which, moved.movedim(0, axis.axis + 1), tensor)
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
        return [self._vertex(one) for one in self.gains(soft)]

    def _vertex(self, gains: dict[str, Tensor]) -> dict[str, Tensor]:
        vertex: dict[str, Tensor] = {}
        for group in self.symmetry.groups:
            gain, eye = gains[group.name], torch.eye(group.size, dtype=torch.float64)
            if group.odd:
                best, sign, _ = signed_assignment(gain.cpu(), gains[_with_signs(group.name)].cpu())
                vertex[_with_signs(group.name)] = (sign[:, None] * eye[best]).to(gain.device)
            else:
                best = assign(gain)
            vertex[group.name] = eye[best].to(gain.device)
        return vertex

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
                    parts = [(group, ...)]
                    if flips(self.symmetry.by_name[group], axis):
                        parts = [(_with_signs(group), self.signed), (group, ~self.signed)]
                    for key, which in parts:
                        a, b = (
                            t[which].movedim(axis.axis + 1, 0)[place.flatten()].reshape(len(place), -1)
                            for t in (others, network)
                        )
                        gains[key] += a @ b.T
            gradients.append(gains)
        return gradients

"""Scale balancing: a canonical choice among the rescalings of positively homogeneous units."""

import math
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.symmetry import Axis, Group, Symmetry

_PASSES = 1000  # ten are usual; nearly dead units of very sparse networks take longer
_LARGEST = math.log(1e3)  # of the scales of one pass
_BLOCK = 2**20  # weights of networks that are balanced at once

# NumPy, as balancing is many operations on small arrays, and most of PyTorch's time would go into calling them.
Along = dict[str, dict[int, np.ndarray]]  # axes of tensors


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights by s_j makes
    both norms their geometric mean. Sparse networks have dead units, which no input reaches or which reach no output.
    Live units are balanced without them. Then dead ones, from those next to live ones on, get the geometric mean norm
    of their group's live units (or balance, if they connect two others). Units in pieces that are connected to no live
    one have s = 1. Computed in float64, returned in the dtype of the weights.

    Args:
        weights: Weights of the networks.
        symmetry: Symmetry of their layout.

    Returns:
        For each homogeneous group the scales (networks, units).
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    places = {key: place.numpy() for key, place in symmetry.places.items()}
    # Many small networks at once, as most of the time goes into calls. No result depends on the others in its block.
    blocks = weights.split(max(1, _BLOCK // weights.shape[1]))
    scales = [_Balance(block, symmetry, groups, places).scales() for block in blocks]
    return {g.name: torch.from_numpy(np.concatenate([one[g.name] for one in scales])).to(weights.dtype) for g in groups}


class _Balance:
    """Balancing of a block of networks, on their squared weights summed over all but the axes of homogeneous units.

    These are matrices units x units, whatever the layers are, and stay as they are: the scales so far are factors along
    their axes, and units that do not count yet are hidden from others by zeros. All arrays have the networks in front.
    """

    def __init__(
        self, weights: Tensor, symmetry: Symmetry, groups: list[Group], places: dict[tuple[str, Axis], np.ndarray]
    ) -> None:
        self.groups, self.places, self.nets = groups, places, len(weights)
        dims: dict[str, set[int]] = defaultdict(set)
        for group in groups:
            for axis in (*group.incoming, *group.outgoing):
                dims[axis.tensor].add(axis.axis)
        state = symmetry.layout.tensors(weights.double())
        self.squares: dict[str, np.ndarray] = {}
        self.factors: Along = {}
        for name, kept in dims.items():
            squared = state[name].square().numpy()
            self.squares[name] = squared.sum(tuple(d + 1 for d in range(squared.ndim - 1) if d not in kept))
            self.factors[name] = {d: np.ones((self.nets, squared.shape[d + 1])) for d in sorted(kept)}
        self.shown = self._ones()
        self.logs = {group.name: np.zeros((self.nets, group.size)) for group in groups}

    def scales(self) -> dict[str, np.ndarray]:
        reached, heard = self._live("incoming", "outgoing"), self._live("outgoing", "incoming")
        live = {name: reached[name] & heard[name] for name in reached}
        for group in self.groups:
            self._show(group, live[group.name])
        self._balance(live)
        if not all(units.all() for units in live.values()):
            self._attach(live)
        return {name: np.exp(log) for name, log in self.logs.items()}

    def _live(self, side: str, other: str) -> dict[str, np.ndarray]:
        """Units that have weights on one side, from or to units of which the same is true."""
        live = {name: np.ones(log.shape, bool) for name, log in self.logs.items()}
        count, before = sum(units.sum() for units in live.values()), None
        while count != before:
            for group in self.groups:
                live[group.name] = self._norms(group, getattr(group, side)) > 0
                self._show(group, live[group.name], getattr(group, other))
            count, before = sum(units.sum() for units in live.values()), count
        self.shown = self._ones()
        return live

    def _balance(self, live: dict[str, np.ndarray]) -> None:
        moving = np.ones((self.nets, 1))  # networks that have not arrived
        for _ in range(_PASSES):
            change = np.zeros_like(moving)
            for group in self.groups:
                incoming, outgoing = (_log(norms, live[group.name]) for norms in self._sides(group))
                step = (0.25 * (outgoing - incoming)).clip(-_LARGEST, _LARGEST) * moving
                self._scale(group, step)
                change = np.maximum(change, np.abs(step).max(1, keepdims=True))
            moving = moving * (change >= 1e-7)
            if not moving.any():
                break

    def _attach(self, live: dict[str, np.ndarray]) -> None:
        """Scale dead units next to units that have their scale, until none is left."""
        targets = {}
        for group in self.groups:
            incoming, outgoing = (_log(norms, live[group.name]) for norms in self._sides(group))
            count = live[group.name].sum(1, keepdims=True).clip(1)
            targets[group.name] = 0.5 * (incoming + outgoing).sum(1, keepdims=True) / count
        attached = True
        while attached:
            attached = False
            for group in self.groups:
                waiting = ~live[group.name]
                sides = self._sides(group)
                below, above = (waiting & (norms > 0) for norms in sides)
                if not (below.any() or above.any()):
                    continue
                incoming, outgoing = (_log(norms, waiting) for norms in sides)
                target = targets[group.name]
                steps = 0.25 * (outgoing - incoming), 0.5 * (target - incoming), 0.5 * (outgoing - target)
                self._scale(group, np.select([below & above, below, above], steps))
                live[group.name] = live[group.name] | below | above
                self._show(group, live[group.name])
                attached = True

    def _sides(self, group: Group) -> tuple[np.ndarray, np.ndarray]:
        return self._norms(group, group.incoming), self._norms(group, group.outgoing)

    def _norms(self, group: Group, side: tuple[Axis, ...]) -> np.ndarray:
        """Squared norm of all weights between each unit and those that are shown, at the present scales."""
        total = np.zeros_like(self.logs[group.name])
        for axis in side:
            value, factors, shown = self.squares[axis.tensor], self.factors[axis.tensor], self.shown[axis.tensor]
            for at, dim in reversed([*enumerate(factors, 1)]):  # the last first: the others keep their positions
                if dim != axis.axis:
                    factor = factors[dim] * shown[dim]
                    column = factor.reshape(len(factor), *[1] * (value.ndim - 3), -1, 1)
                    value = (np.moveaxis(value, at, -1) @ column)[..., 0]
            total += (value * factors[axis.axis])[:, self.places[group.name, axis]].sum(2)
        return total

    def _scale(self, group: Group, step: np.ndarray) -> None:
        self.logs[group.name] += step
        for side, by in ((group.incoming, np.exp(2 * step)), (group.outgoing, np.exp(-2 * step))):
            for axis in side:
                self.factors[axis.tensor][axis.axis][:, self.places[group.name, axis]] *= by[..., None]

    def _show(self, group: Group, units: np.ndarray, axes: tuple[Axis, ...] | None = None) -> None:
        """Let these units of the group count for others, and no more of them."""
        for axis in (*group.incoming, *group.outgoing) if axes is None else axes:
            self.shown[axis.tensor][axis.axis][:, self.places[group.name, axis]] = units[..., None]

    def _ones(self) -> Along:
        return {name: {d: np.ones_like(f) for d, f in each.items()} for name, each in self.factors.items()}


def _log(norms: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Logarithms for these units, 0 for others and where there is no weight."""
    return np.log(norms, out=np.zeros_like(norms), where=which & (norms > 0))

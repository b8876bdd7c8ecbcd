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

# NumPy, as balancing is many operations on small arrays, and most of PyTorch's time would go into calling them. For the
# same reason the shapes of inner functions are not checked while tests run.
Along = dict[str, dict[int, np.ndarray]]  # axes of tensors


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights
    by s_j makes both norms their geometric mean. Sparse networks have dead units, which no input reaches or
    which no output hears. Live units are balanced without them; then dead ones, from those next to live ones
    on, get the geometric mean norm of their group's live units (or balance, if they hold together others).
    Units in pieces that hang on no live one have s = 1. Computed in float64, returned in the dtype of the
    weights.
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    places = {key: place.numpy() for key, place in symmetry.places.items()}
    # One network at a time, so that the last bit does not depend on which others are balanced with it.
    each = [_Balance(row, symmetry, groups, places).scales() for row in weights]
    return {g.name: torch.from_numpy(np.stack([one[g.name] for one in each])).to(weights.dtype) for g in groups}


class _Balance:
    """Balancing of one network, on its squared weights summed over all but the axes of homogeneous units.

    These are matrices units x units, whatever the layers are, and stay as they are: the scales found so far are
    factors along their axes, and units that do not count yet are hidden from others by zeros.
    """

    def __init__(
        self, weights: Tensor, symmetry: Symmetry, groups: list[Group], places: dict[tuple[str, Axis], np.ndarray]
    ) -> None:
        self.groups, self.places = groups, places
        dims: dict[str, set[int]] = defaultdict(set)
        for group in groups:
            for axis in (*group.incoming, *group.outgoing):
                dims[axis.tensor].add(axis.axis)
        state = symmetry.layout.tensors(weights.double())
        self.squares: dict[str, np.ndarray] = {}
        self.factors: Along = {}
        for name, kept in dims.items():
            squared = state[name].square().numpy()
            self.squares[name] = squared.sum(tuple(d for d in range(squared.ndim) if d not in kept))
            self.factors[name] = {d: np.ones(squared.shape[d]) for d in sorted(kept)}
        self.shown = self._ones()
        self.logs = {group.name: np.zeros(group.size) for group in groups}

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
        live = {group.name: np.ones(group.size, bool) for group in self.groups}
        count, before = sum(units.sum() for units in live.values()), None
        while count != before:
            for group in self.groups:
                live[group.name] = self._norms(group, getattr(group, side)) > 0
                self._show(group, live[group.name], getattr(group, other))
            count, before = sum(units.sum() for units in live.values()), count
        self.shown = self._ones()
        return live

    def _balance(self, live: dict[str, np.ndarray]) -> None:
        for _ in range(_PASSES):
            change = 0.0
            for group in self.groups:
                incoming, outgoing = self._log_norms(group, live[group.name])
                step = (0.25 * (outgoing - incoming)).clip(-_LARGEST, _LARGEST)
                self._scale(group, step)
                change = max(change, float(np.abs(step).max()))
            if change < 1e-7:
                break

    def _attach(self, live: dict[str, np.ndarray]) -> None:
        """Scale dead units next to units that have their scale, until none is left."""
        targets = {}
        for group in self.groups:
            units = live[group.name]
            targets[group.name] = np.mean(self._log_norms(group, units), where=units) if units.any() else 0.0
        attached = True
        while attached:
            attached = False
            for group in self.groups:
                waiting = ~live[group.name]
                has = [waiting & (self._norms(group, side) > 0) for side in (group.incoming, group.outgoing)]
                if not (has[0].any() or has[1].any()):
                    continue
                incoming, outgoing = self._log_norms(group, waiting)
                target = targets[group.name]
                self._scale(
                    group,
                    np.select(
                        [has[0] & has[1], has[0], has[1]],
                        [0.25 * (outgoing - incoming), 0.5 * (target - incoming), 0.5 * (outgoing - target)],
                    ),
                )
                live[group.name] = live[group.name] | has[0] | has[1]
                self._show(group, live[group.name])
                attached = True

    def _log_norms(self, group: Group, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of squared norms of incoming and outgoing weights, 0 for other units and where there are none."""
        both = self._norms(group, group.incoming), self._norms(group, group.outgoing)
        first, second = (np.log(norms, out=np.zeros_like(norms), where=which & (norms > 0)) for norms in both)
        return first, second

    def _norms(self, group: Group, side: tuple[Axis, ...]) -> np.ndarray:
        """Squared norm of all weights between each unit and those that are shown, at the present scales."""
        total = np.zeros(group.size)
        for axis in side:
            value, factors, shown = self.squares[axis.tensor], self.factors[axis.tensor], self.shown[axis.tensor]
            for at, dim in reversed([*enumerate(factors)]):  # the last first: the others keep their positions
                if dim != axis.axis:
                    value = np.moveaxis(value, at, -1) @ (factors[dim] * shown[dim])
            total += (value * factors[axis.axis])[self.places[group.name, axis]].sum(1)
        return total

    def _scale(self, group: Group, step: np.ndarray) -> None:
        self.logs[group.name] += step
        for side, by in ((group.incoming, np.exp(2 * step)), (group.outgoing, np.exp(-2 * step))):
            for axis in side:
                self.factors[axis.tensor][axis.axis][self.places[group.name, axis]] *= by[:, None]

    def _show(self, group: Group, units: np.ndarray, axes: tuple[Axis, ...] | None = None) -> None:
        """Let these units of the group count for others, and no more of them."""
        for axis in (*group.incoming, *group.outgoing) if axes is None else axes:
            self.shown[axis.tensor][axis.axis][self.places[group.name, axis]] = units[:, None]

    def _ones(self) -> Along:
        return {name: {d: np.ones_like(f) for d, f in each.items()} for name, each in self.factors.items()}

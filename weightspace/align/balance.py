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

# NumPy, as balancing is many operations on small arrays, and most of PyTorch's time would go into calling them.
Array = Float[np.ndarray, "..."]
Units = Float[np.ndarray, "_"]  # one number each


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights
    by s_j makes both norms their geometric mean. A unit with weights on one side only, as sparse tickets
    have, gets the geometric mean norm of its group's other units, and one without any s = 1. Computed in
    float64, returned in the dtype of the weights.
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    # One network at a time, so that the last bit does not depend on which others are balanced with it.
    each = [_balance(_Squares(row, symmetry, groups), groups) for row in weights]
    return {g.name: torch.from_numpy(np.stack([one[g.name] for one in each])).to(weights.dtype) for g in groups}


def _balance(squares: "_Squares", groups: list[Group]) -> dict[str, Units]:
    logs = {group.name: np.zeros(group.size) for group in groups}
    for _ in range(_PASSES):
        change = 0.0
        for group in groups:
            incoming, outgoing = (squares.norms(group, side, logs) for side in (group.incoming, group.outgoing))
            step = _towards_balance(incoming, outgoing).clip(-_LARGEST, _LARGEST)
            logs[group.name] += step
            change = max(change, float(np.abs(step).max()))
        if change < 1e-7:
            break
    return {name: np.exp(log) for name, log in logs.items()}


def _towards_balance(incoming: Units, outgoing: Units) -> Units:
    """Log scales by which units of given squared norms are multiplied in one pass."""
    live = (incoming > 0) & (outgoing > 0)
    with np.errstate(divide="ignore"):
        ins, outs = np.log(incoming), np.log(outgoing)
    step = np.zeros_like(ins)
    if not live.any():
        return step
    step[live] = 0.25 * (outs[live] - ins[live])
    target = 0.5 * (ins[live] + outs[live]).mean()
    leaving, entering = (incoming > 0) & ~live, (outgoing > 0) & ~live
    step[leaving] = 0.5 * (target - ins[leaving])
    step[entering] = 0.5 * (outs[entering] - target)
    return step


class _Squares:
    """A network's squared weights of each tensor, summed over all but the axes of homogeneous units.

    Balancing then works on matrices units x units, whatever the layers are.
    """

    def __init__(self, weights: Float[Tensor, "d"], symmetry: Symmetry, groups: list[Group]) -> None:
        self.places = {key: place.numpy() for key, place in symmetry.places.items()}
        self.on: dict[str, list[tuple[Group, Axis, int]]] = defaultdict(list)
        for group in groups:
            for side, sign in ((group.incoming, 2), (group.outgoing, -2)):
                for axis in side:
                    self.on[axis.tensor].append((group, axis, sign))
        state = symmetry.layout.tensors(weights.double())
        self.squares: dict[str, Array] = {}
        self.dims: dict[str, list[int]] = {}
        for name, uses in self.on.items():
            squared = state[name].square().numpy()
            dims = self.dims[name] = sorted({axis.axis for _, axis, _ in uses})
            self.squares[name] = squared.sum(tuple(d for d in range(squared.ndim) if d not in dims))

    def norms(self, group: Group, side: tuple[Axis, ...], logs: dict[str, Units]) -> Units:
        """Squared norm of everything that belongs to each unit on these axes, at the present scales."""
        total = np.zeros(group.size)
        for axis in side:
            value, dims = self.squares[axis.tensor], self.dims[axis.tensor]
            others = [(at, d) for at, d in enumerate(dims) if d != axis.axis]
            inputs = [part for at, d in others for part in (self._factors(axis.tensor, d, value.shape[at], logs), [at])]
            own = dims.index(axis.axis)
            row = np.einsum(value, [*range(value.ndim)], *inputs, [own])
            row = row * self._factors(axis.tensor, axis.axis, len(row), logs)
            total += row[self.places[group.name, axis]].sum(1)
        return total

    def _factors(self, tensor: str, dim: int, size: int, logs: dict[str, Units]) -> Units:
        """By how much the present scales multiply squared weights along one axis."""
        log = np.zeros(size)
        for group, axis, sign in self.on[tensor]:
            if axis.axis == dim:
                place = self.places[group.name, axis]
                log[place] += sign * logs[group.name][:, None]
        return np.exp(log)

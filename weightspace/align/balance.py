"""Scale balancing: a canonical choice among the rescalings of positively homogeneous units."""

import math
from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.symmetry import Axis, Group, Symmetry

_PASSES = 1000  # ten are usual; nearly dead units of very sparse networks take longer
_LARGEST = math.log(1e3)  # of the scales of one pass


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights
    by s_j makes both norms their geometric mean. A unit with weights on one side only, as sparse tickets
    have, gets the geometric mean norm of its group's other units, and one without any s = 1. Computed in
    float64, returned in the dtype of the weights.
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    # One network at a time, so that the last bit does not depend on which others are balanced with it.
    each = [_balance(row[None], symmetry, groups) for row in weights]
    return {g.name: torch.cat([one[g.name] for one in each]).to(weights.dtype) for g in groups}


def _balance(weights: Tensor, symmetry: Symmetry, groups: list[Group]) -> dict[str, Float[Tensor, "1 units"]]:
    tensors = _Squares(weights, symmetry, groups)
    logs = {group.name: torch.zeros(len(weights), group.size, dtype=torch.float64) for group in groups}
    for _ in range(_PASSES):
        change = 0.0
        for group in groups:
            incoming, outgoing = (tensors.norms(group, side, logs) for side in (group.incoming, group.outgoing))
            step = _towards_balance(incoming, outgoing).clamp(-_LARGEST, _LARGEST)
            logs[group.name] = logs[group.name] + step
            change = max(change, float(step.abs().max()))
        if change < 1e-7:
            break
    return {name: log.exp() for name, log in logs.items()}


def _towards_balance(incoming: Tensor, outgoing: Tensor) -> Float[Tensor, "nets units"]:
    """Log scales by which units of given squared norms are multiplied in one pass."""
    live = (incoming > 0) & (outgoing > 0)
    ins, outs = incoming.log(), outgoing.log()
    step = torch.where(live, 0.25 * (outs - ins), 0.0)
    count = live.sum(1, keepdim=True)
    target = torch.where(live, 0.5 * (ins + outs), 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    alone = count > 0
    step = torch.where(alone & (incoming > 0) & (outgoing == 0), 0.5 * (target - ins), step)
    return torch.where(alone & (incoming == 0) & (outgoing > 0), 0.5 * (outs - target), step)


class _Squares:
    """Squared weights of each tensor, summed over all but the axes of homogeneous units.

    Balancing then works on matrices units x units, whatever the layers are.
    """

    def __init__(self, weights: Tensor, symmetry: Symmetry, groups: list[Group]) -> None:
        self.symmetry = symmetry
        self.on: dict[str, list[tuple[Group, Axis, int]]] = defaultdict(list)
        for group in groups:
            for side, sign in ((group.incoming, 2), (group.outgoing, -2)):
                for axis in side:
                    self.on[axis.tensor].append((group, axis, sign))
        state = symmetry.layout.tensors(weights.double())
        self.squares: dict[str, Tensor] = {}
        self.dims: dict[str, list[int]] = {}
        for name, uses in self.on.items():
            dims = sorted({axis.axis for _, axis, _ in uses})
            squared = state[name].square()
            rest = [d + 1 for d in range(squared.ndim - 1) if d not in dims]
            self.squares[name] = squared.sum(rest) if rest else squared
            self.dims[name] = dims

    def norms(self, group: Group, side: tuple[Axis, ...], logs: dict[str, Tensor]) -> Float[Tensor, "nets units"]:
        """Squared norm of everything that belongs to each unit on these axes, at the present scales."""
        total = torch.zeros_like(logs[group.name])
        for axis in side:
            value, dims = self.squares[axis.tensor], self.dims[axis.tensor]
            letters = dict(zip(dims, "abcdef", strict=False))
            others = [d for d in dims if d != axis.axis]
            factors = {d: self._factors(axis.tensor, d, value.shape[dims.index(d) + 1], logs) for d in dims}
            inputs = ",".join(["n" + "".join(letters.values()), *("n" + letters[d] for d in others)])
            summed = torch.einsum(f"{inputs}->n{letters[axis.axis]}", value, *(factors[d] for d in others))
            row = summed * factors[axis.axis]
            place = self.symmetry.places[group.name, axis]
            total = total + row[:, place.flatten()].reshape(len(row), *place.shape).sum(2)
        return total

    def _factors(self, tensor: str, dim: int, size: int, logs: dict[str, Tensor]) -> Float[Tensor, "nets size"]:
        """By how much the present scales multiply squared weights along one axis."""
        nets = len(self.squares[tensor])
        log = torch.zeros(nets, size, dtype=torch.float64)
        for group, axis, sign in self.on[tensor]:
            if axis.axis == dim:
                place = self.symmetry.places[group.name, axis]
                log[:, place.flatten()] += sign * logs[group.name].repeat_interleave(place.shape[1], 1)
        return log.exp()

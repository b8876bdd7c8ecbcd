"""Scale balancing: a canonical choice among the rescalings of positively homogeneous units."""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.symmetry import Axis, Group, Symmetry

_PASSES = 1000  # ten are usual; nearly dead units of very sparse networks take longer
_RANGE = 1e3


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights
    by s_j makes both norms their geometric mean. Units without incoming or outgoing weights keep
    s = 1. Computed in float64, returned in the dtype of the weights.
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    tensors = _Squares(weights, symmetry, groups)
    logs = {group.name: torch.zeros(len(weights), group.size, dtype=torch.float64) for group in groups}
    for _ in range(_PASSES):
        change = 0.0
        for group in groups:
            incoming, outgoing = (tensors.norms(group, side, logs) for side in (group.incoming, group.outgoing))
            step = 0.25 * (outgoing.log() - incoming.log())
            step = torch.where((incoming > 0) & (outgoing > 0), step, 0.0)
            before = logs[group.name]
            limit = float(torch.tensor(_RANGE).log())
            logs[group.name] = (before + step).clamp(-limit, limit)
            change = max(change, float((logs[group.name] - before).abs().max()))
        if change < 1e-7:
            break
    return {name: log.exp().to(weights.dtype) for name, log in logs.items()}


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

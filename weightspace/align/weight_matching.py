"""Weight matching (Git Re-Basin, Ainsworth et al. 2023, arXiv 2209.04836) for whole collections."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.align.balance import balance_scales
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.progress import progress
from weightspace.symmetry import Group, Symmetry, prove, trace

_SWEEPS = 100
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class WeightMatching:
    """Align every network to a growing mean.

    Fitting takes the networks in order and matches each to the mean of those before it; the mean over
    all becomes the reference. `transform` then matches any network, seen or new, to that reference:
    by permutations that maximise the inner product with it (coordinate descent over groups, an exact
    assignment for each), after balancing scales where activations allow it. Function and sparsity
    stay as they were; masks, buffers and extras move together with the weights.

    Args:
        symmetry: the permutation symmetry, written by hand; None derives it (chains of linear layers).
        example: a batch of inputs, on which a symmetry written by hand is proven before it is used.
        balance: give each positively homogeneous unit equal incoming and outgoing norms first.
    """

    symmetry: Symmetry | None = None
    balance: bool = True
    example: Tensor | None = field(default=None, compare=False)

    def fit(self, networks: Collection) -> "FittedMatching":
        """Find the reference from a collection.

        Raises:
            InputError: no symmetry is known for these networks, or the given one is wrong for them.
            LayoutMismatch: the symmetry belongs to another layout.
        """
        if self.symmetry is None:
            symmetry = derive(networks.architecture)
        else:
            symmetry = self.symmetry
            symmetry.layout.require(networks.layout, "the collection to align")
            if self.example is None:
                raise InputError("a symmetry written by hand must be proven: give example=, a batch of inputs")
            prove(symmetry, networks.architecture, self.example)
        weights = networks.weights
        if self.balance:
            weights = symmetry.scale(weights, balance_scales(weights, symmetry))
        total = weights[0].double()
        for k in progress(range(1, len(weights)), "aligning to the growing mean"):
            network = weights[k].double()
            permutations = match(total / k, network, symmetry)
            total += symmetry.permute(network, permutations)
        reference = (total / len(weights)).to(weights.dtype)
        return FittedMatching(symmetry, self.balance, reference)


@dataclass(frozen=True)
class FittedMatching:
    """A symmetry and the reference network that others are matched to.

    Args:
        reference: (D,), the mean of the aligned networks.
    """

    symmetry: Symmetry
    balance: bool
    reference: Float[Tensor, " d"]

    def transform(self, networks: Collection) -> Collection:
        """The same functions in the reference's basin: weights, masks and extras reordered together.

        Raises:
            LayoutMismatch: the networks are of another layout.
        """
        self.symmetry.layout.require(networks.layout, "the collection to align")
        weights = networks.weights
        # Extras are reordered but not rescaled: rewound weights stay the starting point they were.
        extras = networks.extras
        if self.balance:
            weights = self.symmetry.scale(weights, balance_scales(weights, self.symmetry))
        masks = networks.masks
        target = self.reference.double()
        buffers = networks.buffers
        rows: list[Tensor] = []
        moved_buffers: list[dict[str, Tensor]] = []
        moved_masks: list[Tensor] = []
        moved_extras: dict[str, list[Tensor]] = {name: [] for name in extras}
        for i in progress(range(len(weights)), "aligning to the reference"):
            permutations = match(target, weights[i].double(), self.symmetry)
            rows.append(self.symmetry.permute(weights[i], permutations))
            moved_masks.append(self.symmetry.permute(masks[i], permutations))
            own = {name: buffer[i] for name, buffer in buffers.items()}
            moved_buffers.append(self.symmetry.permute_buffers(own, permutations))
            for name, extra in extras.items():
                moved_extras[name].append(self.symmetry.permute(extra[i], permutations))
        return networks.replace(
            weights=torch.stack(rows),
            masks=None if networks.dense else torch.stack(moved_masks),
            buffers={name: torch.stack([own[name] for own in moved_buffers]) for name in buffers},
            extras={name: torch.stack(parts) for name, parts in moved_extras.items()},
            records=[record | {"aligned": self.fingerprint()} for record in networks.records],
        )

    def fingerprint(self) -> str:
        """Identifies the basin: networks with the same one are aligned to each other."""
        return hashlib.sha256(self.reference.contiguous().numpy().data).hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """What `save` of a generator stores."""
        return {"align.reference": self.reference}

    def to_json(self) -> dict[str, Any]:
        return {"balance": self.balance, "symmetry": self.symmetry.to_json()}


def match(reference: Float[Tensor, " d"], network: Float[Tensor, " d"], symmetry: Symmetry) -> dict[str, Tensor]:
    """Permutations of one network that maximise its inner product with a reference.

    Coordinate descent: each group in turn gets its optimal permutation while the others stay fixed,
    until a whole sweep gains less than a millionth. Each step is an exact linear assignment. The first
    sweep looks only at tensors whose other units are fixed or matched already, so that the result
    does not depend on the order in which the network's units happen to come.
    """
    target = symmetry.layout.unpack(reference)
    current = dict(symmetry.layout.unpack(network))
    permutations = symmetry.identity()
    waiting = {axis.tensor: 0 for group in symmetry.groups for axis in group.axes}
    for group in symmetry.groups:
        for axis in group.axes:
            waiting[axis.tensor] += 1
    for _ in range(_SWEEPS):
        gained, value = 0.0, 0.0
        for group in symmetry.groups:
            for axis in group.axes:
                waiting[axis.tensor] -= 1
            gain = _gram(group, target, current, {name for name, count in waiting.items() if count <= 0})
            best = _assign(gain)
            gained += (gain[torch.arange(group.size), best].sum() - gain.diagonal().sum()).item()
            value += gain.diagonal().abs().sum().item()
            permutations[group.name] = permutations[group.name][best]
            for axis in group.axes:
                if axis.tensor in current:
                    current[axis.tensor] = current[axis.tensor].index_select(axis.axis, best)
        if gained <= _TOLERANCE * max(value, 1e-30):
            break
    return permutations


def _gram(
    group: Group, target: dict[str, Tensor], current: dict[str, Tensor], settled: set[str]
) -> Float[Tensor, "units units"]:
    """Entry (u, v): inner product of the reference's unit u with the network's unit v."""
    gram = torch.zeros(group.size, group.size, dtype=torch.float64)
    for axis in group.axes:
        # Statistics (buffers) move with their units but do not count.
        if axis.tensor not in target or axis.tensor not in settled:
            continue
        a, b = (t[axis.tensor].movedim(axis.axis, 0).reshape(group.size, -1) for t in (target, current))
        gram += a @ b.T
    return gram


def _assign(gain: Float[Tensor, "units units"]) -> Tensor:
    rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    if not np.array_equal(rows, np.arange(len(gain))) or not np.array_equal(np.sort(columns), rows):
        raise InputError("the assignment solver did not return a permutation: the weights may hold NaN")
    return torch.from_numpy(columns)

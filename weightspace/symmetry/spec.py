"""Symmetry: a table that says which axis of which tensor each group of hidden units acts on.

Permuting a group's units on all its axes at once leaves the function unchanged. The table acts on any
vector of the layout: weights, masks, rewind weights, posterior means and scales.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError, LayoutMismatch
from weightspace.layout import Layout


@dataclass(frozen=True)
class Axis:
    """One axis of one tensor, by state-dict name."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Group:
    """Hidden units that can be reordered together.

    Args:
        size: number of units.
        incoming: axes that produce the units (rows of a weight, its bias, norm parameters and buffers).
        outgoing: axes that read them (columns of the next weight).
        homogeneous: nothing but a linear layer's weights and bias produces the units, and their
            activation satisfies f(s x) = s f(x) for s > 0, as ReLU does, so that scaling a unit's
            incoming weights by s and its outgoing weights by 1/s changes nothing.
    """

    name: str
    size: int
    incoming: tuple[Axis, ...]
    outgoing: tuple[Axis, ...]
    homogeneous: bool = False

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.incoming + self.outgoing


@dataclass(frozen=True)
class Symmetry:
    """The groups of one layout.

    Raises:
        LayoutMismatch: an axis does not exist in the layout or has another size than its group.
        InputError: two groups claim the same axis, or a buffer of statistics is in no group.
    """

    layout: Layout
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        shapes = {entry.name: entry.shape for entry in self.layout.entries}
        owner: dict[Axis, str] = {}
        for group in self.groups:
            for axis in group.axes:
                shape = shapes.get(axis.tensor)
                if shape is None or not 0 <= axis.axis < len(shape) or shape[axis.axis] != group.size:
                    raise LayoutMismatch(
                        f"group {group.name!r} of {group.size} units does not fit axis {axis.axis} of tensor "
                        f"{axis.tensor!r} (shape {shape})"
                    )
                if axis in owner:
                    raise InputError(f"axis {axis.axis} of {axis.tensor!r} is in {owner[axis]!r} and in {group.name!r}")
                owner[axis] = group.name
        moved = {axis.tensor for axis in owner}
        for entry in self.layout.buffers:
            if entry.shape and entry.name not in moved:
                raise InputError(
                    f"buffer {entry.name!r} is on no group's axis: statistics that stay behind while their units "
                    "move corrupt the network. Add the axis to its group"
                )

    def __str__(self) -> str:
        lines = [f"{'group':<16}{'units':>6}  incoming -> outgoing"]
        for group in self.groups:
            sides = (", ".join(f"{a.tensor}[{a.axis}]" for a in side) for side in (group.incoming, group.outgoing))
            lines.append(f"{group.name:<16}{group.size:>6}  {' -> '.join(sides)}")
        return "\n".join(lines)

    def identity(self) -> dict[str, Tensor]:
        return {group.name: torch.arange(group.size) for group in self.groups}

    def random(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A random permutation of every group."""
        return {group.name: torch.randperm(group.size, generator=generator) for group in self.groups}

    def permute(self, vector: Tensor, permutations: Mapping[str, Int[Tensor, " units"]]) -> Tensor:
        """Reorder units: position u of a group afterwards holds what `permutations[group][u]` held.

        Args:
            vector: (..., D), of any dtype.
            permutations: one permutation for each group; every axis of the group follows it.
        """
        state = self._move(self.layout.unpack(vector), permutations, vector.ndim - 1)
        return torch.cat([state[e.name].flatten(vector.ndim - 1) for e in self.layout.parameters], dim=-1)

    def permute_buffers(
        self, buffers: Mapping[str, Tensor], permutations: Mapping[str, Int[Tensor, " units"]]
    ) -> dict[str, Tensor]:
        """Reorder one network's buffers (normalisation statistics) like its weights."""
        return self._move(dict(buffers), permutations, 0)

    def _move(self, state: dict[str, Tensor], permutations: Mapping[str, Tensor], lead: int) -> dict[str, Tensor]:
        for group in self.groups:
            for axis in group.axes:
                if axis.tensor in state:
                    tensor = state[axis.tensor]
                    permutation = permutations[group.name].to(tensor.device)
                    state[axis.tensor] = tensor.index_select(axis.axis + lead, permutation)
        return state

    def scale(self, vector: Float[Tensor, "*nets d"], scales: Mapping[str, Float[Tensor, "*nets units"]]) -> Tensor:
        """Multiply homogeneous units' incoming weights by s > 0 and divide their outgoing weights by s.

        Args:
            vector: (..., D).
            scales: (..., units) for each homogeneous group.
        """
        state = self.layout.unpack(vector)
        for group in self.groups:
            if group.name not in scales:
                continue
            if not group.homogeneous:
                raise InputError(f"the units of group {group.name!r} are not homogeneous and cannot be scaled")
            for axes, factor in ((group.incoming, scales[group.name]), (group.outgoing, 1 / scales[group.name])):
                for axis in axes:
                    tensor = state[axis.tensor]
                    shape = [*factor.shape[:-1], *([1] * (tensor.ndim - factor.ndim + 1))]
                    shape[factor.ndim - 1 + axis.axis] = group.size
                    state[axis.tensor] = tensor * factor.reshape(shape)
        lead = vector.ndim - 1
        return torch.cat([state[e.name].flatten(lead) for e in self.layout.parameters], dim=-1)

    def to_json(self) -> dict[str, Any]:
        return {
            "groups": [
                {
                    "name": g.name, "size": g.size, "homogeneous": g.homogeneous,
                    "incoming": [[a.tensor, a.axis] for a in g.incoming],
                    "outgoing": [[a.tensor, a.axis] for a in g.outgoing],
                }
                for g in self.groups
            ]
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any], layout: Layout) -> "Symmetry":
        def axes(pairs: Sequence[Sequence[Any]]) -> tuple[Axis, ...]:
            return tuple(Axis(tensor, axis) for tensor, axis in pairs)

        groups = (
            Group(g["name"], g["size"], axes(g["incoming"]), axes(g["outgoing"]), g["homogeneous"])
            for g in data["groups"]
        )
        return cls(layout, tuple(groups))

"""Prove a symmetry numerically, in float64, on a copy of the module with nothing symmetric left in it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace import seeds
from weightspace.errors import InputError
from weightspace.layout import Layout
from weightspace.symmetry.spec import Axis, Group, Symmetry
from weightspace.symmetry.tracer import tensors_in, training_mode

SAME = 1e-9
CHANGED = 1e-6
_DRAWS = 3


def prove(symmetry: Symmetry, module: nn.Module, inputs: Sequence[Any] | Tensor, *, controls: bool = True) -> None:
    """Check that permuting every group, and scaling the homogeneous ones, leaves the function unchanged.

    All parameters and statistics are drawn anew (fresh networks hide mistakes: biases of zero, norms of
    one). Three random draws, in evaluation mode and with normalisation in training mode, where the
    updated statistics must agree too. Then the negative control: one axis at a time is left out, which
    must change the output, or else the check is blind there.

    Args:
        inputs: an example batch, or all arguments of the module's forward.
        controls: do the negative control.

    Raises:
        InputError: the outputs differ, so that the table is wrong for this module; or the check is blind.
    """
    probe = Probe(symmetry, module, inputs)
    for draw in range(_DRAWS):
        permutations = symmetry.random(seeds.generator(draw, "symmetry proof"))
        error = probe.change(symmetry, permutations, probe.scales(symmetry, draw))
        if not error < SAME:
            raise InputError(
                f"the symmetry does not fit {type(module).__name__}: permuting (and scaling) its groups changed the "
                f"output by {error:.1e} of its scale{_culprits(probe, symmetry, permutations)}. Check each group's axes, "
                "and which groups are homogeneous"
            )
    if controls:
        blind = blind_axes(probe, symmetry)
        if blind:
            raise InputError(
                f"the proof is blind for {', '.join(blind)}: leaving the axis out does not change the output of "
                f"{type(module).__name__} on this example. Give a larger or more varied example"
            )


def blind_axes(probe: "Probe", symmetry: Symmetry) -> list[str]:
    """Axes whose omission goes unnoticed although their tensor matters."""
    permutations = symmetry.random(seeds.generator(0, "negative control"))
    blind: list[str] = []
    for k, group in enumerate(symmetry.groups):
        for axis in group.axes:
            rest = [_without(g, axis) if g is group else g for g in symmetry.groups]
            fixed = tuple(b.name for b in symmetry.layout.buffers)
            # Only this group moves, and what is inside it.
            still = symmetry.identity() | {
                g.name: permutations[g.name] for g in symmetry.groups[k:] if g is group or g.parent == group.name
            }
            less = Symmetry(symmetry.layout, tuple(rest), fixed)
            change = probe.change(less, still, {})
            if change < CHANGED and probe.matters(axis.tensor):
                blind.append(f"{axis} in group {group.name!r}")
    return blind


def _without(group: Group, axis: Axis) -> Group:
    def keep(side: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(a for a in side if a != axis)

    return replace(
        group, incoming=keep(group.incoming), outgoing=keep(group.outgoing), following=keep(group.following)
    )


def _culprits(probe: "Probe", symmetry: Symmetry, permutations: Mapping[str, Tensor]) -> str:
    """The groups that change the output on their own."""
    wrong: list[str] = []
    for group in symmetry.groups:
        alone = symmetry.identity() | {
            g.name: permutations[g.name] for g in symmetry.groups if g is group or g.parent == group.name
        }
        if not probe.change(symmetry, alone, {}) < SAME:
            wrong.append(repr(group.name))
    return f" (groups {', '.join(wrong)})" if wrong else ""


class Probe:
    """A module in float64 with random weights and statistics, and its outputs."""

    def __init__(self, symmetry: Symmetry, module: nn.Module, inputs: Sequence[Any] | Tensor) -> None:
        self.module = copy.deepcopy(module).double()
        given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        self.inputs = [
            t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in copy.deepcopy(given)
        ]
        random = seeds.generator(0, "symmetry proof weights")
        self.layout = symmetry.layout
        state = self.module.state_dict()
        self.vector = torch.cat([_drawn(e.name, state[e.name], e.role, random).flatten() for e in self.layout.parameters])
        self.buffers = {e.name: _drawn(e.name, state[e.name], e.role, random) for e in self.layout.buffers}
        self.before = self._run(self.vector, self.buffers)

    def _run(self, vector: Tensor, buffers: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs in both modes, and the buffers after the second."""
        outputs: list[Tensor] = []
        for training in (False, True):
            training_mode(self.module, training)
            self.module.load_state_dict(self.layout.unpack(vector) | dict(buffers))
            with torch.no_grad(), seeds.seeded_modules(0, "symmetry proof"):
                outputs += tensors_in(self.module(*copy.deepcopy(self.inputs)))
        after = {b.name: self.module.state_dict()[b.name].clone() for b in self.layout.buffers}
        return outputs, after

    def scales(self, symmetry: Symmetry, seed: int) -> dict[str, Tensor]:
        random = seeds.generator(seed, "symmetry proof scales")
        return {
            g.name: torch.rand(g.size, dtype=torch.float64, generator=random) + 0.5
            for g in symmetry.groups
            if g.homogeneous
        }

    def change(self, symmetry: Symmetry, permutations: Mapping[str, Tensor], scales: Mapping[str, Tensor]) -> float:
        """Largest change of an output or an updated statistic, relative to its scale."""
        moved = symmetry.permute(symmetry.scale(self.vector, scales), permutations)
        after = self._run(moved, symmetry.permute_buffers(self.buffers, permutations))
        expected = symmetry.permute_buffers(self.before[1], permutations)
        # Statistics behind rescaled rows change with them; they are compared without a rescaling.
        pairs = [*zip(self.before[0], after[0], strict=True)]
        if not scales:
            pairs += [(expected[name], after[1][name]) for name in expected]
        return max((_difference(a, b) for a, b in pairs), default=0.0)

    def matters(self, tensor: str) -> bool:
        """True if drawing this tensor anew changes the output."""
        random = seeds.generator(1, "symmetry proof weights")
        vector, buffers = self.vector.clone(), dict(self.buffers)
        if tensor in buffers:
            buffers[tensor] = _drawn(tensor, buffers[tensor], "buffer", random)
        else:
            entry = next(e for e in self.layout.parameters if e.name == tensor)
            vector[self.layout.slices[tensor]] = _drawn(tensor, vector[self.layout.slices[tensor]], entry.role, random)
        outputs = self._run(vector, buffers)[0]
        return max(_difference(a, b) for a, b in zip(self.before[0], outputs, strict=True)) > CHANGED


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or not a.is_floating_point():
        return float(not torch.equal(a, b))
    scale = a.abs().max().item()
    error = (a - b).abs().max().item()
    return error / scale if scale > 0 else error


def _drawn(name: str, tensor: Tensor, role: str, random: torch.Generator) -> Tensor:
    """Values without any symmetry, of a size that keeps signals alive."""
    if not tensor.is_floating_point():
        return tensor.clone()
    noise = torch.randn(tensor.shape, dtype=torch.float64, generator=random)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(tensor.shape, dtype=torch.float64, generator=random)
    if role == "norm" and name.endswith("weight"):
        return 1 + 0.3 * noise
    if tensor.ndim < 2 or role == "buffer":
        return 0.3 * noise
    return noise / (tensor[0].numel() ** 0.5)

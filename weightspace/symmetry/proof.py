"""Prove a symmetry numerically, in float64, on a copy of the module with nothing symmetric left in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.sparse_module import release
from weightspace.runtime import seeds, trees
from weightspace.runtime.copies import copied
from weightspace.runtime.double import doubled
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree
from weightspace.symmetry.passes import exact_outputs, training_mode
from weightspace.symmetry.spec import Axis, Group, Symmetry

SAME = 1e-9
CHANGED = 1e-6
_DRAWS = 3


def prove(symmetry: Symmetry, module: nn.Module, inputs: Tree, *, controls: bool = True) -> None:
    """Check that reordering, scaling, flipping and mixing units, each where the table says so, changes no output.

    All parameters and statistics are drawn anew (fresh networks hide mistakes: biases of zero, norms of one). Three
    random draws, in evaluation mode and with normalisation in training mode, where the updated statistics must agree
    too. Then the negative control: each axis of each tensor is moved alone, which must change the output. Where it does
    not, the check is blind (unless no change of the tensor changes the output, as with the bias of attention's keys).

    Args:
        symmetry: The table to prove.
        module: The module; a copy of it runs in float64.
        inputs: A batch of inputs, or all arguments of the module's forward.
        controls: Whether the negative control is done.

    Raises:
        InputError: The outputs differ, so that the table is wrong for this module; or the check is blind.
    """
    try:
        probe = Probe(symmetry, module, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{type(module).__name__} does not run on the example: {error}") from error
    for draw in range(_DRAWS):
        _require_unchanged(probe, symmetry, _cycles(symmetry, seeds.generator(draw, "symmetry proof")), draw)
    # Other inputs may take another way through the module.
    varied = Probe(symmetry, module, probe.noisy())
    _require_unchanged(varied, symmetry, _cycles(symmetry, seeds.generator(_DRAWS, "symmetry proof")), _DRAWS)
    if controls:
        blind = blind_axes(probe, varied, symmetry)
        if blind:
            raise InputError(
                f"the proof is blind for {', '.join(blind)}: permuting the axis alone does not change the output of "
                f"{type(module).__name__} on this example. Give a larger or more varied example"
            )


class WrongSymmetry(InputError):
    """A symmetry that does not leave the function unchanged.

    Args:
        message: The error message.
        groups: Names of the groups that change the function on their own.
    """

    def __init__(self, message: str, groups: Sequence[str]) -> None:
        super().__init__(message)
        self.groups = tuple(groups)


def _require_unchanged(probe: "Probe", symmetry: Symmetry, permutations: Mapping[str, Tensor], draw: int) -> None:
    signs, scales, matrices = (of(symmetry, draw) for of in (probe.signs, probe.scales, probe.matrices))
    for factors in ({}, scales) if scales else ({},):
        error = probe.change(symmetry, permutations, factors, signs, matrices)
        if not error < SAME:
            wrong = _culprits(probe, symmetry, permutations, scales, signs, matrices)
            named = f" (groups {', '.join(map(repr, wrong))})" if wrong else ""
            raise WrongSymmetry(
                f"the symmetry does not fit {type(probe.module).__name__}: permuting, scaling, flipping and "
                f"mixing its groups changed the output by {error:.1e} of its scale{named}. Check each group's axes, "
                f"and which groups are homogeneous, odd or linear",
                wrong,
            )


def _cycles(symmetry: Symmetry, random: torch.Generator) -> dict[str, Tensor]:
    """Random permutations that move every unit and, of three units or more, are not their own inverse."""
    cycles: dict[str, Tensor] = {}
    for name, order in symmetry.random(random).items():
        cycles[name] = torch.empty_like(order).scatter_(-1, order, order.roll(1, -1))
    return cycles


def blind_axes(probe: "Probe", varied: "Probe", symmetry: Symmetry) -> list[str]:
    """Names of axes that can move alone without a change of the output, although their tensor matters."""
    # A rotation moves every unit, and is not its own inverse where there are more than two.
    permutations = {name: p.roll(1, -1) for name, p in symmetry.identity().items()}
    blind: list[str] = []
    for tensor, axis in dict.fromkeys((a.tensor, a.axis) for g in symmetry.groups for a in g.axes):

        def here(a: Axis, tensor: str = tensor, axis: int = axis) -> bool:
            return (a.tensor, a.axis) == (tensor, axis)

        groups = [Group(g.name, g.size, tuple(filter(here, g.axes)), (), parent=g.parent) for g in symmetry.groups]
        alone = Symmetry(symmetry.layout, tuple(groups), tuple(b.name for b in symmetry.layout.buffers))

        def one_sided(values: Tensor, alone: Symmetry = alone, tensor: str = tensor) -> Tensor:
            return alone.move({tensor: values}, permutations)[tensor]

        if all(len(g.axes) == 1 for g in symmetry.groups if any(map(here, g.axes))):
            continue  # moving it alone is the whole symmetry
        # A tensor may matter on other inputs than the example: then the example is at fault.
        if probe.change_of(tensor, one_sided) < CHANGED <= varied.change_of(tensor, varied.redraw(tensor)):
            blind.append(f"{tensor}[{axis}]")
    return blind


def _culprits(
    probe: "Probe",
    symmetry: Symmetry,
    permutations: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    signs: Mapping[str, Tensor],
    matrices: Mapping[str, Tensor],
) -> list[str]:
    """The groups that change the output on their own."""
    wrong: list[str] = []
    identity = symmetry.identity()
    for group in symmetry.groups:
        name = group.name
        alone = identity | {g.name: permutations[g.name] for g in symmetry.groups if g is group or g.parent == name}
        if not (
            probe.change(symmetry, alone, {}) < SAME
            and (name not in scales or probe.change(symmetry, identity, {name: scales[name]}) < SAME)
            and (name not in signs or probe.change(symmetry, identity, {}, {name: signs[name]}) < SAME)
            and (name not in matrices or probe.change(symmetry, identity, {}, {}, {name: matrices[name]}) < SAME)
        ):
            wrong.append(name)
    return wrong


class Probe:
    """A module in float64 with random weights and statistics, and its outputs.

    Args:
        symmetry: Symmetry of the module.
        module: The module; it is copied.
        inputs: A batch of inputs, or all arguments of forward.
    """

    def __init__(self, symmetry: Symmetry, module: nn.Module, inputs: Tree) -> None:
        self.module = release(copied(module)).double()
        self.inputs = doubled(inputs)
        random = seeds.generator(0, "symmetry proof weights")
        self.layout = symmetry.layout
        state = self.module.state_dict()
        self.vector = torch.cat([_drawn(state[e.name], e.role, random).flatten() for e in self.layout.parameters])
        self.buffers = {e.name: _drawn(state[e.name], e.role, random) for e in self.layout.buffers}
        self.loaded = False  # the module holds this vector and these statistics
        self.before = self._run(self.vector, self.buffers)

    def _run(self, vector: Tensor, buffers: Mapping[str, Tensor]) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
        """Outputs in both modes, and the buffers after the second."""
        outputs: list[list[Tensor]] = []
        self.loaded = False
        for training in (False, True):
            training_mode(self.module, training)
            self._load(vector, buffers)
            outputs.append(self._outputs())
        state = self.module.state_dict()
        after = {b.name: state[b.name].clone() for b in self.layout.buffers}
        return outputs, after

    def _load(self, vector: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Put values into the module, past any hooks of its own on loading."""
        state = self.module.state_dict()
        for name, tensor in (self.layout.tensors(vector) | dict(buffers)).items():
            state[name].copy_(tensor)

    def scales(self, symmetry: Symmetry, seed: int) -> dict[str, Tensor]:
        """Random positive scales (units,) of the homogeneous groups."""
        random = seeds.generator(seed, "symmetry proof scales")
        return {
            g.name: torch.rand(g.size, dtype=torch.float64, generator=random) + 0.5
            for g in symmetry.groups
            if g.homogeneous
        }

    def signs(self, symmetry: Symmetry, seed: int) -> dict[str, Tensor]:
        """Random signs (units,) of the odd groups; each unit changes sign at one of two consecutive seeds."""
        random = seeds.generator(seed // 2, "symmetry proof signs")
        return {name: sign * (1 - 2 * (seed % 2)) for name, sign in symmetry.random_signs(random).items()}

    def matrices(self, symmetry: Symmetry, seed: int) -> dict[str, Tensor]:
        """Random matrices of the groups that can be mixed."""
        return symmetry.random_matrices(seeds.generator(seed, "symmetry proof matrices"))

    def change(
        self,
        symmetry: Symmetry,
        permutations: Mapping[str, Tensor],
        scales: Mapping[str, Tensor],
        signs: Mapping[str, Tensor] | None = None,
        matrices: Mapping[str, Tensor] | None = None,
    ) -> float:
        """Largest change of an output or an updated statistic, relative to its scale."""
        signs, matrices = signs or {}, matrices or {}
        mixed = symmetry.mix(self.vector, matrices)
        moved = symmetry.permute(symmetry.flip(symmetry.scale(mixed, scales), signs), permutations)
        buffers, expected = (
            symmetry.permute_buffers(symmetry.flip_buffers(symmetry.mix_buffers(each, matrices), signs), permutations)
            for each in (self.buffers, self.before[1])
        )
        after = self._run(moved, buffers)
        # Statistics behind rescaled rows change with them; they are compared without a rescaling.
        pairs = [p for a, b in zip(self.before[0], after[0], strict=True) for p in zip(a, b, strict=True)]
        if not scales:
            pairs += [(expected[name], after[1][name]) for name in expected]
        return max((difference(a, b) for a, b in pairs), default=0.0)

    def change_of(self, name: str, change: Callable[[Tensor], Tensor]) -> float:
        """Largest relative change of an output when one tensor alone changes."""
        shape = next(e.shape for e in self.layout.entries if e.name == name)
        values = self.buffers[name] if name in self.buffers else self.vector[self.layout.slices[name]].reshape(shape)
        largest = 0.0
        for training, before in zip((False, True), self.before[0], strict=True):
            if not self.loaded:
                self._load(self.vector, self.buffers)
                self.loaded = True
            training_mode(self.module, training)
            place = self.module.state_dict()[name]
            place.copy_(change(values))
            outputs = self._outputs()
            place.copy_(values)
            if training and self.buffers:  # a forward pass in training moves the statistics
                self.loaded = False
            largest = max(largest, difference(outputs, before))
            if largest >= CHANGED:
                break
        return largest

    def noisy(self) -> Any:
        """The example with noise on it."""
        random = seeds.generator(2, "symmetry proof inputs")

        def varied(t: Tensor) -> Tensor:
            return t + torch.randn(t.shape, dtype=t.dtype, generator=random) if t.is_floating_point() else t

        return trees.apply(varied, self.inputs)

    def redraw(self, name: str) -> Callable[[Tensor], Tensor]:
        """New random values for a tensor."""
        role = next(e.role for e in self.layout.entries if e.name == name)
        return lambda t: _drawn(t, role, seeds.generator(1, "symmetry proof weights"))

    def _outputs(self) -> list[Tensor]:
        return exact_outputs(self.module, self.inputs)


def _drawn(tensor: Tensor, role: str, random: torch.Generator) -> Tensor:
    """Values without any symmetry, of a size that keeps signals alive."""
    if not tensor.is_floating_point():
        return tensor.clone()
    noise = torch.randn(tensor.shape, dtype=torch.float64, generator=random)
    if tensor.numel() and bool((tensor > 0).all()):  # variances, scales: perhaps under a root or a logarithm
        return 0.5 + torch.rand(tensor.shape, dtype=torch.float64, generator=random)
    if tensor.ndim < 2 or role == "buffer":
        return 0.3 * noise
    return noise / (max(1, tensor[0].numel()) ** 0.5) if len(tensor) else noise

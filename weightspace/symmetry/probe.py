"""A copy of a module with nothing symmetric left in it, and what changes of its weights do to its outputs."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from weightspace.networks.layout import Layout
from weightspace.runtime import seeds, trees
from weightspace.runtime.outputs import difference, tensors_within
from weightspace.runtime.trees import Tree
from weightspace.symmetry.passes import Precision, exact_outputs, in_a_precision, training_mode
from weightspace.symmetry.spec import Symmetry


class Probe:
    """A module in float64 with random weights and statistics, and its outputs.

    Args:
        layout: Layout of the module.
        module: The module; it is copied.
        inputs: A batch of inputs, or all arguments of forward.
        precision: In which type of number it runs; with None, float64, or float32 where that is impossible.

    Raises:
        InputError: The module does not run on the inputs, or cannot be copied.
    """

    precision: Precision
    module: nn.Module
    inputs: Tree
    vector: Tensor
    buffers: dict[str, Tensor]
    before: tuple[list[list[Tensor]], dict[str, Tensor]]  # outputs in each mode, and the buffers after the last

    def __init__(self, layout: Layout, module: nn.Module, inputs: Tree, precision: Precision | None = None) -> None:
        self.layout = layout

        def first_run(precision: Precision) -> Precision:
            self.precision, self.module, self.inputs = precision, precision.module(module), precision.inputs(inputs)
            random = seeds.generator(0, "symmetry proof weights")
            state = self.module.state_dict()
            self.vector = torch.cat([_drawn(state[e.name], e.role, random).flatten() for e in layout.parameters])
            self.buffers = {e.name: _drawn(state[e.name], e.role, random) for e in layout.buffers}
            self.before = self._run(self.vector, self.buffers)
            return precision

        self.modes: tuple[bool, ...] = (False, True)
        self.holds = {"own": False}  # whether the module holds this vector and these statistics
        if precision is None:
            in_a_precision(first_run, type(module).__name__)
        else:
            first_run(precision)
        if self._modes_agree():
            self.modes = (False,)

    def _modes_agree(self) -> bool:
        """Whether training mode computes the same, bit for bit, and updates nothing."""
        (evaluated, trained), after = self.before
        pairs = [*zip(evaluated, trained, strict=False), *((self.buffers[name], after[name]) for name in after)]
        return len(evaluated) == len(trained) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)

    @cached_property
    def function(self) -> str:
        """A hash of the function: of the inputs and of all that was computed from them, bit by bit."""
        digest = hashlib.sha256(repr((self.precision, self.layout, trees.shapes(self.inputs))).encode())
        for tensor in (*tensors_within(self.inputs), *(t for mode in self.before[0] for t in mode)):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in self.before[1].items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def random(self) -> bool:
        """Whether the outputs in evaluation mode depend on the state of the global random generator."""
        training_mode(self.module, False)
        self.hold()
        outputs = exact_outputs(self.module, self.inputs, self.precision, seed=1)
        return difference(outputs, self.before[0][0]) > self.precision.same

    def repeats(self) -> bool:
        """Whether the same weights on the same inputs give the same outputs once more."""
        again = self._run(self.vector, self.buffers)[0]
        return difference(again, self.before[0][: len(again)]) < self.precision.same

    def varied(self) -> "Probe":
        """The same module on inputs with noise, in both modes."""
        other = copy.copy(self)
        random = seeds.generator(2, "symmetry proof inputs")

        def noisy(t: Tensor) -> Tensor:
            return t + torch.randn(t.shape, dtype=t.dtype, generator=random) if t.is_floating_point() else t

        other.__dict__.pop("function", None)
        other.modes = (False, True)
        other.inputs = trees.apply(noisy, self.inputs)
        other.before = other._run(self.vector, self.buffers)
        return other

    def _run(self, vector: Tensor, buffers: Mapping[str, Tensor]) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
        """Outputs in each mode, and the buffers after the last."""
        outputs: list[list[Tensor]] = []
        self.holds["own"] = False
        for training in self.modes:
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

    def hold(self) -> None:
        """Put the probe's own values into the module, if it holds others."""
        if not self.holds["own"]:
            self._load(self.vector, self.buffers)
            self.holds["own"] = True

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
        pairs = [p for a, b in zip(self.before[0], after[0], strict=False) for p in zip(a, b, strict=True)]
        if not scales:
            pairs += [(expected[name], after[1][name]) for name in expected]
        return max((difference(a, b) for a, b in pairs), default=0.0)

    def values(self, name: str) -> Tensor:
        """The probe's own value of a tensor."""
        shape = next(e.shape for e in self.layout.entries if e.name == name)
        return self.buffers[name] if name in self.buffers else self.vector[self.layout.slices[name]].reshape(shape)

    def change_of(self, name: str, change: Callable[[Tensor], Tensor]) -> float:
        """Largest relative change of an output when one tensor alone changes."""
        values, largest = self.values(name), 0.0
        for training, before in zip(self.modes, self.before[0], strict=False):
            self.hold()
            training_mode(self.module, training)
            place = self.module.state_dict()[name]
            place.copy_(change(values))
            outputs = self._outputs()
            place.copy_(values)
            if training and self.buffers:  # a forward pass in training moves the statistics
                self.holds["own"] = False
            largest = max(largest, difference(outputs, before))
            if largest >= self.precision.changed:
                break
        return largest

    def redraw(self, name: str) -> Callable[[Tensor], Tensor]:
        """New random values for a tensor."""
        role = next(e.role for e in self.layout.entries if e.name == name)
        return lambda t: _drawn(t, role, seeds.generator(1, "symmetry proof weights"))

    def _outputs(self) -> list[Tensor]:
        return exact_outputs(self.module, self.inputs, self.precision)


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

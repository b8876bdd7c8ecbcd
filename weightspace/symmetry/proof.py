"""Prove a symmetry numerically, in float64, on a copy of the module with nothing symmetric left in it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.runtime import checks, seeds
from weightspace.runtime.trees import Tree
from weightspace.symmetry import proven
from weightspace.symmetry.blind import blind_axes
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Symmetry

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
    checks.instance(symmetry, "symmetry", Symmetry, "a Symmetry, as trace(module, example) returns")
    controls = checks.flag(controls, "controls")
    prove_on(Probe(symmetry.layout, module, inputs), symmetry, controls=controls)


def prove_on(probe: Probe, symmetry: Symmetry, *, controls: bool = True) -> None:
    """Prove a symmetry on a probe that is there; nothing is proven twice for the same function.

    Args:
        probe: Probe of the module.
        symmetry: The table to prove.
        controls: Whether the negative control is done.

    Raises:
        InputError: As in `prove`.
    """
    varied = probe.varied()  # other inputs may take another way through the module
    if proven.known(probe, varied, symmetry, controls):
        return
    if probe.random():
        raise InputError(
            f"{type(probe.module).__name__} draws random numbers in evaluation mode: it computes no one function that "
            "a permutation could leave unchanged. Let it return the mean there, or take the noise as an input"
        )
    for draw in range(_DRAWS):
        _require_unchanged(probe, symmetry, _cycles(symmetry, seeds.generator(draw, "symmetry proof")), draw)
    _require_unchanged(varied, symmetry, _cycles(symmetry, seeds.generator(_DRAWS, "symmetry proof")), _DRAWS)
    if controls:
        blind = blind_axes(probe, varied, symmetry)
        if blind:
            raise InputError(
                f"the proof is blind for {', '.join(blind)}: permuting the axis alone does not change the output of "
                f"{type(probe.module).__name__} on this example. Give a larger or more varied example"
            )
    proven.remember(probe, varied, symmetry, controls)


class WrongSymmetry(InputError):
    """A symmetry that does not leave the function unchanged.

    Args:
        message: The error message.
        groups: Names of the groups that change the function on their own.
    """

    def __init__(self, message: str, groups: Sequence[str]) -> None:
        super().__init__(message)
        self.groups = tuple(groups)


def _require_unchanged(probe: Probe, symmetry: Symmetry, permutations: Mapping[str, Tensor], draw: int) -> None:
    signs, scales, matrices = (of(symmetry, draw) for of in (probe.signs, probe.scales, probe.matrices))
    # Statistics are compared where nothing is rescaled.
    error = probe.change(symmetry, permutations, scales if draw % 2 else {}, signs, matrices)
    if not error < probe.precision.same:
        if not probe.repeats():
            raise InputError(
                f"{type(probe.module).__name__} computes something else each time, with the same weights and inputs: "
                "it draws random numbers in training mode, perhaps of NumPy. Switch that off for the symmetry (noise, "
                "masks of inputs), in a setting of the network"
            )
        wrong = _culprits(probe, symmetry, permutations, scales, signs, matrices)
        named = f" (groups {', '.join(map(repr, wrong))})" if wrong else ""
        raise WrongSymmetry(
            f"the symmetry does not fit {type(probe.module).__name__}: permuting, scaling, flipping and mixing "
            f"its groups changed the output by {error:.1e} of its scale{named}. Check each group's axes, and which "
            f"groups are homogeneous, odd or linear",
            wrong,
        )


def _cycles(symmetry: Symmetry, random: torch.Generator) -> dict[str, Tensor]:
    """Random permutations that move every unit and, of three units or more, are not their own inverse."""
    cycles: dict[str, Tensor] = {}
    for name, order in symmetry.random(random).items():
        cycles[name] = torch.empty_like(order).scatter_(-1, order, order.roll(1, -1))
    return cycles


def _culprits(
    probe: Probe,
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
        own = [{name: each[name]} if name in each else {} for each in (scales, signs, matrices)]
        tried = [
            (alone, {}, {}, {}),
            (identity, own[0], {}, {}),
            (identity, {}, own[1], {}),
            (identity, {}, {}, own[2]),
        ]
        if not all(
            probe.change(symmetry, orders, *factors) < probe.precision.same
            for orders, *factors in tried
            if orders is alone or any(factors)
        ):
            wrong.append(name)
    return wrong

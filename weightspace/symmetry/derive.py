"""Derive a module's symmetry by tracing it, and prove it before anyone uses it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs
from weightspace.networks.layout import Layout
from weightspace.networks.roles import holds_weights
from weightspace.runtime import checks
from weightspace.runtime.trees import Tree
from weightspace.symmetry.gated import with_gates
from weightspace.symmetry.lone_units import with_lone_units, without_idle_units
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.proof import WrongSymmetry, prove_on
from weightspace.symmetry.spec import Group, Symmetry
from weightspace.symmetry.tracing import tracer
from weightspace.symmetry.tracing.extract import table
from weightspace.symmetry.tracing.unmoved import unmoved_axes

_NAMED = 8  # axes in a warning


def trace(module: nn.Module, example: Tree, *, fix_unknown: bool = False) -> Symmetry:
    """The permutation symmetry of any module, derived from one traced forward pass and proven.

    Args:
        module: The module; it is left as it is.
        example: A batch of at least two inputs, or all arguments of forward, as a tuple or, by name, as a mapping.
        fix_unknown: Whether units that meet an operator without a rule, or whose groups fail the proof, stay in place
            instead of an error; a warning names them.

    Returns:
        The table: which axis of which tensor each group of units acts on. Its `coverage` is the share of the parameters
        that some permutation moves.

    Raises:
        InputError: The module does not run on the example, an operator cannot be traced, control flow depends on data,
            or the proof fails.
    """
    checks.instance(module, "module", nn.Module, "a torch.nn.Module")
    check_inputs(example, "example")
    checks.flag(fix_unknown, "fix_unknown")
    lazy = [name for name, p in module.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise InputError(f"{type(module).__name__} has lazy layers ({lazy[0]}): run it once on real inputs first")
    layout = Layout.of(module)
    probe = Probe(layout, module, example)
    traces = tracer.run(module, example, probe.precision, fix_unknown=fix_unknown)
    if traces.random is not None and probe.random():
        raise InputError(
            f"{type(module).__name__} draws random numbers in evaluation mode ({traces.random}): it computes no one "
            "function that a permutation could leave unchanged. Let it return the mean there, or take the noise as an "
            "input"
        )
    if traces.left_fixed:
        _warn(module, traces.left_fixed)
    try:
        symmetry = table(module, layout, traces.units, traces.axes)
    except InputError:  # copies of a unit that overlap otherwise than as heads do
        symmetry = table(module, layout, traces.units, traces.axes, copies=False)
    if holds_weights(module):  # adapters, whose rank may be one
        symmetry = without_idle_units(_with_factors(with_lone_units(module, symmetry), probe))
    symmetry = with_gates(_with_factors(symmetry, probe), probe)
    complete = not traces.left_fixed
    while True:
        try:
            prove_on(probe, symmetry)
        except WrongSymmetry as error:
            weaker = _weaker(symmetry, error.groups)
            if weaker is not None:
                symmetry = weaker
                continue
            if symmetry.shared:  # the copies of a unit differ after all
                symmetry = table(module, layout, traces.units, traces.axes, copies=False)
                symmetry = with_gates(_with_factors(symmetry, probe), probe)
                continue
            if not fix_unknown or not error.groups:
                raise InputError(
                    f"tracing {type(module).__name__} led to a symmetry that does not stand the proof ({error}). Leave "
                    "these units in place with fix_unknown=True, or write the symmetry by hand (symmetry=)"
                ) from error
            _warn(module, [f"group {name!r}: it did not stand the proof" for name in error.groups])
            symmetry, complete = _without(symmetry, set(error.groups)), False
        else:
            break
    if complete:
        _warn_of_unmoved(module, unmoved_axes(symmetry, traces.units, traces.axes))
    return symmetry


def _warn_of_unmoved(module: nn.Module, axes: Sequence[str]) -> None:
    if axes and not holds_weights(module):  # beside a base that stands still no unit can be reordered
        more = f" and {len(axes) - _NAMED} more" if len(axes) > _NAMED else ""
        warnings.warn(
            f"no permutation moves {', '.join(axes[:_NAMED])}{more} of {type(module).__name__}, although these axes "
            "belong to neither inputs nor outputs: a constant tells their units apart, or an operator treats them in a "
            "way that no rule describes. If they can be reordered, write the symmetry by hand (symmetry=)",
            stacklevel=3,
        )


def _warn(module: nn.Module, reasons: Sequence[str]) -> None:
    warnings.warn(f"some units of {type(module).__name__} were left in place: {'; '.join(reasons)}", stacklevel=3)


def _without(symmetry: Symmetry, names: set[str]) -> Symmetry:
    """The symmetry without some groups and all groups inside them."""
    kept: list[Group] = []
    for group in symmetry.groups:
        if group.name not in names and (group.parent is None or any(g.name == group.parent for g in kept)):
            kept.append(group)
    moved = {axis.tensor for group in kept for axis in group.axes}
    fixed = tuple(b.name for b in symmetry.layout.buffers if b.shape and b.name not in moved)
    return Symmetry(symmetry.layout, tuple(kept), fixed)


def _weaker(symmetry: Symmetry, names: Sequence[str]) -> Symmetry | None:
    """The symmetry with wrong groups no longer linear or, if none was, odd: they were so on one example only."""
    wrong = [g for g in symmetry.groups if g.name in names]
    if any(g.linear for g in wrong):
        groups = (replace(g, linear=None, dual=()) if g in wrong else g for g in symmetry.groups)
    elif any(g.odd for g in wrong):
        groups = (replace(g, odd=False) if g in wrong else g for g in symmetry.groups)
    else:
        return None
    return replace(symmetry, groups=tuple(groups))


def _with_factors(symmetry: Symmetry, probe: Probe) -> Symmetry:
    """Keep "homogeneous", "odd" and "linear" on those groups of units for which they really hold."""
    if not any(len(g.kinds) > 1 for g in symmetry.groups):
        return symmetry
    identity = symmetry.identity()
    scales, signs, matrices = (of(symmetry, 0) for of in (probe.scales, probe.signs, probe.matrices))

    def kept(factors: Mapping[str, Tensor], change: Callable[[Mapping[str, Tensor]], float]) -> set[str]:
        if not factors or change(factors) < probe.precision.same:
            return set(factors)
        return {name for name, factor in factors.items() if change({name: factor}) < probe.precision.same}

    scaled = kept(scales, lambda some: probe.change(symmetry, identity, some))
    flipped = kept(signs, lambda some: probe.change(symmetry, identity, {}, some))
    mixed = kept(matrices, lambda some: probe.change(symmetry, identity, {}, {}, some))
    groups = (
        replace(
            g,
            homogeneous=g.name in scaled,
            odd=g.name in flipped,
            linear=g.linear if g.name in mixed else None,
            dual=g.dual if g.name in mixed else (),
        )
        for g in symmetry.groups
    )
    return replace(symmetry, groups=tuple(groups))

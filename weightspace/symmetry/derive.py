"""Derive a module's symmetry by tracing it, and prove it before anyone uses it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from weightspace.layout import Layout
from weightspace.symmetry import tracer
from weightspace.symmetry.extract import table
from weightspace.symmetry.proof import SAME, Probe, prove
from weightspace.symmetry.spec import Symmetry


def trace(module: nn.Module, example: Tensor | Sequence[Any], *, fix_unknown: bool = False) -> Symmetry:
    """The permutation symmetry of any module, derived from one traced forward pass and proven.

    Args:
        module: is left as it is.
        example: a batch of inputs of at least two samples, or a tuple of all arguments of forward.
        fix_unknown: leave units in place that meet an operator without a rule, instead of refusing.

    Returns:
        The table: which axis of which tensor each group of units acts on. `coverage` tells which share
        of the parameters some permutation moves.

    Raises:
        InputError: the module does not run on the example, an operator cannot be traced, control flow
            depends on data, or the proof fails.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    found = tracer.run(module, inputs, fix_unknown=fix_unknown)
    symmetry = table(module, Layout.of(module), found.units, found.axes)
    symmetry = _rescalable(symmetry, module, inputs)
    prove(symmetry, module, inputs)
    return symmetry


def _rescalable(symmetry: Symmetry, module: nn.Module, inputs: Sequence[Any]) -> Symmetry:
    """Keep "homogeneous" on those groups of units that a rescaling really leaves alone."""
    candidates = [g.name for g in symmetry.groups if g.homogeneous]
    if not candidates:
        return symmetry
    probe = Probe(symmetry, module, inputs)
    identity = symmetry.identity()
    scales = probe.scales(symmetry, 0)
    if probe.change(symmetry, identity, scales) < SAME:
        return symmetry
    good = {name for name in candidates if probe.change(symmetry, identity, {name: scales[name]}) < SAME}
    return replace(symmetry, groups=tuple(replace(g, homogeneous=g.name in good) for g in symmetry.groups))

"""Axes of weights that no group moves although nothing outside of the network fixes their order."""

from collections.abc import Mapping

import numpy as np

from weightspace.symmetry.spec import Symmetry
from weightspace.symmetry.tracing.labels import Labels, Units


def unmoved_axes(symmetry: Symmetry, units: Units, axes: Mapping[str, Labels]) -> list[str]:
    """Axes, longer than 1, of weights that stay in place and are those of neither inputs nor outputs, by name.

    Args:
        symmetry: Symmetry that a trace led to.
        units: Units of the trace.
        axes: Labels of the parameters and buffers that the module used, by name.
    """
    moved = {(axis.tensor, axis.axis) for group in symmetry.groups for axis in group.axes}
    held = np.unique(units.find(np.array(sorted(units.held), dtype=np.int64)))
    unmoved: list[str] = []
    for entry in symmetry.layout.parameters:
        if entry.name not in axes or sum(size > 1 for size in entry.shape) < 2:
            continue
        for k, (size, label) in enumerate(zip(entry.shape, axes[entry.name].axes, strict=True)):
            if size == 1 or isinstance(label, str) or (entry.name, k) in moved:
                continue
            if not np.isin(units.find(label), held).any():
                unmoved.append(f"{entry.name}[{k}] ({size})")
    return unmoved

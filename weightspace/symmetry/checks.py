"""Whether groups fit a layout, and each other."""

from collections.abc import Callable, Mapping, Sequence

from weightspace.errors import InputError, LayoutMismatch
from weightspace.networks.layout import Layout
from weightspace.symmetry.group import Axis, Group


def require_groups(layout: Layout, groups: Sequence[Group], count: Callable[[str], int]) -> None:
    """Refuse groups that do not fit the layout or their parents.

    Args:
        layout: The layout.
        groups: Groups, parents before their children.
        count: Units of a group in all its parents together, by its name.

    Raises:
        LayoutMismatch: An axis does not exist in the layout or has another size than its group.
        InputError: Two groups have one name, or a group and its parent do not go together.
    """
    shapes = {entry.name: entry.shape for entry in layout.entries}
    seen: dict[str, Group] = {}
    for group in groups:
        if group.name in seen:
            raise InputError(f"two groups are called {group.name!r}")
        if group.parent is not None and (group.parent not in seen or group.homogeneous or group.odd):
            raise InputError(
                f"the parent {group.parent!r} of group {group.name!r} must come before it, and a child group "
                "can be neither homogeneous nor odd"
            )
        if group.parent is not None and seen[group.parent].linear is not None:
            raise InputError(f"the units of group {group.parent!r} hold others, so that they cannot be mixed (linear=)")
        seen[group.name] = group
        for axis in dict.fromkeys((*group.axes, *group.primal, *group.dual)):
            _require_axis(group, axis, shapes.get(axis.tensor), seen, count)


def require_statistics(layout: Layout, groups: Sequence[Group], fixed: Sequence[str]) -> None:
    """Refuse buffers that would stay behind while their units move.

    Args:
        layout: The layout.
        groups: The groups.
        fixed: Names of buffers that rightly stay.

    Raises:
        InputError: A buffer is on no group's axis.
    """
    moved = {axis.tensor for group in groups for axis in group.axes}
    for entry in layout.buffers:
        if entry.shape and entry.name not in moved and entry.name not in fixed:
            raise InputError(
                f"buffer {entry.name!r} is on no group's axis: statistics that stay behind while their units "
                "move corrupt the network. Add the axis to its group, or name the buffer in `fixed`"
            )


def _require_axis(
    group: Group,
    axis: Axis,
    shape: tuple[int, ...] | None,
    seen: Mapping[str, Group],
    count: Callable[[str], int],
) -> None:
    fits = shape is not None and 0 <= axis.axis < len(shape)
    if fits and shape is not None:
        inside = axis.within is not None
        units = group.size * (1 if group.parent is None or inside else count(group.parent))
        if axis.index is None:
            fits = shape[axis.axis] == units
        else:
            within = min(axis.index) >= 0 and max(axis.index) < shape[axis.axis]
            fits = len(axis.index) % units == 0 and len(set(axis.index)) == len(axis.index) and within
        if axis.within is not None:
            blocks = seen[group.parent].size if group.parent is not None else 0
            fits = fits and blocks > 0 and shape[axis.within] % blocks == 0 and seen[group.parent or ""].parent is None
    if not fits:
        raise LayoutMismatch(
            f"group {group.name!r} of {group.size} units does not fit axis {axis.axis} of tensor "
            f"{axis.tensor!r} (shape {shape})"
        )

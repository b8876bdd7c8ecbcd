"""Two groups on one axis: copies, and the units that the copies share, as query heads and the units inside them.

Each position then belongs to a unit of either group. Both may move, as it makes no difference which moves first.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from weightspace.symmetry.group import Axis, Group

Key = tuple[str, Axis]
"""A group's name, and one of its axes."""


def shared_parents(groups: Sequence[Group], places: Mapping[Key, Tensor]) -> dict[Key, frozenset[str]]:
    """For each axis that an earlier group moves, too: the groups above both, which move its positions only once.

    Args:
        groups: Groups, parents before their children.
        places: Positions (units, slots) of each group on each of its axes.

    Raises:
        ValueError: Two groups claim a position and are not copies and what they share; the message says which.
    """
    by_name = {group.name: group for group in groups}
    before: dict[tuple[str, int], list[Key]] = {}
    found: dict[Key, frozenset[str]] = {}
    for group in groups:
        for axis in group.axes:
            key = (group.name, axis)
            others = before.setdefault((axis.tensor, axis.axis), [])
            for other in others:
                both = set(places[key].flatten().tolist()).intersection(places[other].flatten().tolist())
                if not both or other[0] == group.name:
                    continue
                above = set(parents(group, by_name)), set(parents(by_name[other[0]], by_name))
                if (
                    key in found
                    or {group.name, other[0]} & (above[0] | above[1])
                    or axis.within is not None
                    or len(both) < min(places[key].numel(), places[other].numel())
                    or not _crossed(by_name, places, key, other)
                    or not _commute(by_name, places, key, other)
                ):
                    raise ValueError(
                        f"position {min(both)} of axis {axis.axis} of {axis.tensor!r} is in {other[0]!r} and in "
                        f"{group.name!r}"
                    )
                found[key] = frozenset(above[0] & above[1])
            others.append(key)
    return found


def parents(group: Group, by_name: Mapping[str, Group]) -> list[str]:
    """The groups above a group, from the inside out.

    Args:
        group: The group.
        by_name: All groups.
    """
    above: list[str] = []
    while group.parent is not None:
        above.append(group.parent)
        group = by_name[group.parent]
    return above


def sources_below(
    name: str,
    fixed: frozenset[str],
    permutations: Mapping[str, Tensor],
    by_name: Mapping[str, Group],
    count: Callable[[str], int],
) -> Tensor:
    """The old place of each unit of a group if some of the groups above it stay where they are.

    Args:
        name: Name of the group.
        fixed: Names of the groups that stay.
        permutations: A permutation for each group.
        by_name: All groups.
        count: Units of a group in all its parents together, by its name.
    """
    if name in fixed:
        return torch.arange(count(name))
    group = by_name[name]
    if group.parent is None:
        return permutations[name]
    above = sources_below(group.parent, fixed, permutations, by_name, count)
    return (above[:, None] * group.size + permutations[name]).flatten()


def _crossed(by_name: Mapping[str, Group], places: Mapping[Key, Tensor], first: Key, second: Key) -> bool:
    """Whether units of one parent meet the same units of the other group, equally often, and the other way round."""
    size = int(max(places[first].max(), places[second].max())) + 1
    units: list[Tensor] = []
    for key in (first, second):
        unit = torch.zeros(size, dtype=torch.int64)
        unit[places[key].flatten()] = torch.arange(len(places[key])).repeat_interleave(places[key].shape[1])
        units.append(unit)
    smaller = min(places[first].flatten(), places[second].flatten(), key=len)
    units = [unit[smaller] for unit in units]
    met = torch.zeros(len(places[first]), len(places[second]), dtype=torch.int64)
    met.index_put_(tuple(units), torch.ones(len(units[0]), dtype=torch.int64), accumulate=True)
    rows = met.reshape(-1, by_name[first[0]].size, met.shape[1])
    columns = met.T.reshape(-1, by_name[second[0]].size, met.shape[0])
    return bool((rows == rows[:, :1]).all() and (columns == columns[:, :1]).all())


def _commute(by_name: Mapping[str, Group], places: Mapping[Key, Tensor], first: Key, second: Key) -> bool:
    """Whether it makes no difference which of two groups moves first."""
    size = int(max(places[first].max(), places[second].max())) + 1
    orders: list[Tensor] = []
    for name, axis in (first, second):
        place = places[name, axis].reshape(-1, by_name[name].size, places[name, axis].shape[1])
        order = torch.arange(size)
        order[place.flatten()] = place.roll(1, 1).flatten()  # in each parent
        orders.append(order)
    return torch.equal(orders[0][orders[1]], orders[1][orders[0]])

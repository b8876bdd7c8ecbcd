"""Bases of units: which units a matrix may mix, and on which axes it acts by its inverse transpose.

A tensor that carries units along an axis holds their coordinates, and after a mixing by a matrix G it holds G times
them, or the inverse transpose of G times them. Sums tie units that are mixed alike, products summed over units tie
those that are mixed inversely, and any other operation on units allows one basis only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from weightspace.symmetry.spec import Axis, Group, Symmetry
from weightspace.symmetry.tracing.labels import Labels, Units


@dataclass
class Settled:
    """What all ties together say; ids of units as they were traced.

    Args:
        alike: A number for each unit; units of one number are mixed by the same matrix.
        inverse: The number of the units that are mixed by the inverse transpose.
        spoiled: Whether a unit has one basis only.
    """

    alike: np.ndarray
    inverse: np.ndarray
    spoiled: np.ndarray


def settle(units: Units) -> Settled:
    """The bases of all units.

    Args:
        units: Units of a trace.
    """
    count = len(units.all())
    pairs: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for a, b, inverse in units.ties:
        first, second = np.broadcast_arrays(a, b)
        pairs[inverse].append(np.stack([first.ravel(), second.ravel()]))
    # Each unit twice: as it is, and inversely. A tie to the same matrix ties both to both.
    edges = [np.zeros((2, 0), dtype=np.int64)]
    for inverse, found in pairs.items():
        if found:
            one = np.unique(np.concatenate(found, 1), axis=1)
            edges += [one + np.array([[0], [count * inverse]]), one + np.array([[count], [count * (not inverse)]])]
    a, b = np.concatenate(edges, 1)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(2 * count, 2 * count))
    _, number = connected_components(graph, directed=False)
    alike, other = number[:count], number[count:]
    marked = np.concatenate([np.zeros(0, dtype=np.int64), *(label.ravel() for label in units.one_basis)])
    spoiled = np.zeros(2 * count, dtype=bool)
    spoiled[alike[marked]] = spoiled[other[marked]] = True
    return Settled(alike, other, spoiled[alike])


def with_bases(symmetry: Symmetry, units: Units, axes: Mapping[str, Labels]) -> Symmetry:
    """A table with its linear groups.

    Args:
        symmetry: A table of a trace.
        units: The units of the trace.
        axes: Labels of parameters and buffers, by name.
    """
    bases = settle(units)
    holding = {group.parent for group in symmetry.groups}
    return replace(
        symmetry,
        groups=tuple(g if g.name in holding else _with_basis(g, symmetry, bases, axes) for g in symmetry.groups),
    )


def _with_basis(group: Group, symmetry: Symmetry, bases: Settled, axes: Mapping[str, Labels]) -> Group:
    """A group, linear if all its units are on all its axes."""
    reference: np.ndarray | None = None
    dual: list[Axis] = []
    orthogonal = False
    for axis in group.axes:
        label = axes[axis.tensor].axes[axis.axis]
        place = symmetry.places[group.name, axis].numpy()
        if isinstance(label, str):
            return group
        ids = _units_at(label, axis, place, symmetry.count(group.name) // group.size)
        if bases.spoiled[ids].any():
            return group
        alike, inverse = bases.alike[ids], bases.inverse[ids]
        if reference is None:
            reference = alike[:, :1, :1]
        orthogonal = orthogonal or bool((alike == inverse).any())
        alike, inverse = (alike == reference).all((0, 2)), (inverse == reference).all((0, 2))  # of each slot
        if not (alike | inverse).all():
            return group
        if not alike.any():
            dual.append(axis)
        elif not alike.all():
            dual.append(replace(axis, index=tuple(place[:, ~alike].ravel().tolist())))
    return replace(group, linear="orthogonal" if orthogonal else "general", dual=() if orthogonal else tuple(dual))


def _units_at(label: np.ndarray, axis: Axis, place: np.ndarray, parents: int) -> np.ndarray:
    """The units (units of all parents, slots, rows or the like) at the places of a group on one axis of a tensor."""
    if axis.within is None:
        return np.moveaxis(label, axis.axis, 0).reshape(label.shape[axis.axis], -1)[place]
    moved = np.moveaxis(label, (axis.within, axis.axis), (0, 1))
    rows = moved.reshape(parents, -1, *moved.shape[1:])  # (parents, rows, places, others)
    blocks = np.moveaxis(rows[:, :, place], 1, -1)  # (parents, units, slots, others, rows)
    return blocks.reshape(parents * len(place), place.shape[1], -1)

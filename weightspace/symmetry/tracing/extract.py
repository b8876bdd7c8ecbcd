"""From traced units to a table: units that nothing tells apart form a group."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from torch import nn

from weightspace.networks.layout import Layout
from weightspace.symmetry.spec import Axis, Group, Symmetry
from weightspace.symmetry.tracing.bases import with_bases
from weightspace.symmetry.tracing.copies import Copies
from weightspace.symmetry.tracing.labels import Labels, Units

_ROUNDS = 4


@dataclass
class _Orbit:
    """Units that can take each other's places.

    Args:
        members: representatives (parent units, units).
        riders: units that keep their place inside a member and move along with it, (all members) each.
    """

    members: np.ndarray
    parent: "_Orbit | None"
    axes: list[Axis] = field(default_factory=list)
    riders: list[np.ndarray] = field(default_factory=list)


def table(module: nn.Module, layout: Layout, units: Units, axes: dict[str, Labels], *, copies: bool = True) -> Symmetry:
    """The symmetry that is left when all unlike units are told apart.

    Args:
        module: The module.
        layout: Its layout.
        units: Units of a trace.
        axes: Labels of its parameters and buffers, by name.
        copies: Whether copies of a unit, such as query heads of one key head, may take each other's places.
    """
    labels = {name: _labels_of(units, traced) for name, traced in axes.items()}
    labels = {name: roots for name, roots in labels.items() if name in {e.name for e in layout.entries}}
    places = {name: [None if isinstance(a, str) else units.find_places(a) for a in axes[name].axes] for name in labels}
    _mark_places(units, axes, labels)
    parents, several = _parents(units)
    if not copies:
        several.fix(units)
    labels = {name: [None if a is None else units.find(a) for a in roots] for name, roots in labels.items()}
    tries = 1
    while True:
        orbits = _orbits(units, labels, parents, several)
        lost = _lost(labels, orbits)
        if not lost:
            break
        for label, k in lost:
            if tries < 1:  # places in blocks that are still alike
                for unit in np.unique(units.find(label)):
                    units.mark(np.array([unit]))
            units.pin(label, k, lost=True)
        tries -= 1
    groups = _groups(module, layout, units, labels, orbits, _in_copies(places, several, orbits))
    moved = {axis.tensor for group in groups for axis in group.axes}
    fixed = tuple(b.name for b in layout.buffers if b.shape and b.name not in moved)
    return with_bases(Symmetry(layout, tuple(groups), fixed), units, axes)


def _labels_of(units: Units, labels: Labels) -> list[np.ndarray | None]:
    return [None if isinstance(label, str) else _narrowed(units.find(label)) for label in labels.axes]


def _narrowed(roots: np.ndarray) -> np.ndarray:
    """Without the axes along which nothing varies."""
    for k, size in enumerate(roots.shape):
        if size > 1 and roots.size > max(roots.shape):
            one = roots.take([0], axis=k)
            roots = one if (roots == one).all() else roots
    return roots


def _mark_places(units: Units, axes: dict[str, Labels], labels: dict[str, list[np.ndarray | None]]) -> None:
    """Units differ by the axes on which they occur, and how often."""
    for name, roots in labels.items():
        for raw, label in zip(axes[name].axes, roots, strict=True):
            if label is not None and not isinstance(raw, str):
                units.mark(raw if raw.size == label.size else label)


def _parents(units: Units) -> tuple[dict[int, int], Copies]:
    """The parent of each unit that has one, and copies of units."""
    while True:  # parents with the same members are one
        members: dict[int, set[int]] = defaultdict(set)
        same: dict[frozenset[int], int] = {}
        united = False
        copies = Copies()
        for inner, outer in units.copies:
            copies.add(units, inner, outer)
        for inner, outer in units.links:
            split: dict[int, set[int]] = defaultdict(set)
            for unit, parent in zip(units.find(inner).tolist(), units.find(outer).tolist(), strict=True):
                if unit != parent:
                    split[parent].add(unit)
            alike: dict[frozenset[int], list[int]] = defaultdict(list)
            for parent, held in split.items():
                alike[frozenset(held)].append(parent)
            shared = [parent for group in alike.values() if len(group) > 1 for parent in group]
            if shared:  # parts that one operation told apart, with the same units in them
                inside = np.isin(units.find(outer), shared)
                copies.add(units, inner[inside], outer[inside])
            for parent, held in split.items():
                if parent in shared:
                    continue
                members[parent] |= held
                other = same.setdefault(frozenset(held), parent)
                if other != parent:
                    units.unite(np.array([parent]), np.array([other]))
                    united = True
        if not copies.settle(units) and not united:
            break
    copies.fix_overlaps(units)
    holders: dict[int, list[int]] = defaultdict(list)
    for parent, held in members.items():
        for unit in held:
            holders[unit].append(parent)
    crossing: set[int] = set()  # splits that overlap otherwise than one inside the other
    for several in holders.values():
        several.sort(key=lambda p: len(members[p]))
        for small, large in pairwise(several):
            if not members[small] < members[large]:
                crossing |= {small, large}
    parents: dict[int, int] = {}
    for unit, several in holders.items():
        if len(several) > 1 and crossing.intersection(several):
            continue
        for inner, outer in pairwise([unit, *several]):
            if parents.setdefault(inner, outer) != outer:
                crossing |= {parents[inner], outer}
    # Their parts stay where they are; a unit can only take the place of one that lies in the same parts.
    tags = {parent: units.mark(np.array([parent])) for parent in sorted(crossing)}
    for unit, several in holders.items():
        if len(several) > 1 and crossing.intersection(several):
            parents.pop(unit, None)
            for parent in several:
                units.tag(unit, tags.get(parent) or units.mark(np.array([parent])))
    return parents, copies


def _orbits(
    units: Units, labels: dict[str, list[np.ndarray | None]], parents: dict[int, int], copies: Copies
) -> list[_Orbit]:
    marks = units.marks()
    order: dict[int, int] = {}
    for roots in labels.values():
        for label in roots:
            if label is not None:
                for unit in label.ravel().tolist():
                    order.setdefault(unit, len(order))
    for copy, shared in copies.units.items():
        order.setdefault(copy, min(order.get(unit, len(order)) for unit in shared))
    for unit in list(order):  # a parent comes where its first unit does
        while unit in parents and parents[unit] not in order:
            order[parents[unit]] = order[unit]
            unit = parents[unit]
    seen = np.fromiter(order, dtype=np.int64)
    mark = {unit: int(marks[unit]) for unit in seen.tolist()}
    children: dict[int, list[int]] = defaultdict(list)
    for unit in order:
        if unit in parents:
            children[parents[unit]].append(unit)
    mark |= {copy: hash((mark[copy], held)) for copy, held in copies.marks(units).items()}
    for _ in range(_ROUNDS):  # parents differ if what they hold differs, and the other way round
        mark |= {u: hash((mark[u], tuple(sorted(mark[c] for c in held)))) for u, held in children.items()}
        mark |= {u: hash((mark[u], mark[parents[u]])) for u in mark if u in parents}
    if copies.fix_uneven(units, mark):
        return _orbits(units, labels, parents, copies)
    roots = [unit for unit in sorted(order, key=order.__getitem__) if unit not in parents]
    orbits: list[_Orbit] = []

    def collect(among: list[list[int]], parent: _Orbit | None) -> None:
        """Orbits inside each of several parents, which are alike."""
        alike: list[dict[int, list[int]]] = []
        for inside in among:
            alike.append(defaultdict(list))
            for unit in inside:
                alike[-1][mark[unit]].append(unit)
        for kind in alike[0]:
            members = np.array([units_of[kind] for units_of in alike])
            free = members.shape[1] > 1
            orbit = _Orbit(members, parent)
            if free:
                orbits.append(orbit)
            elif parent is not None:
                parent.riders.append(members[:, 0])
            # Inside units that cannot move, the next level stands on its own.
            for column in [members] if free else [members[:, [0]]]:
                held = [sorted(children.get(unit, ()), key=order.__getitem__) for unit in column.ravel().tolist()]
                if held[0]:
                    if free:
                        collect(held, orbit)
                    elif parent is None:
                        for one in held:
                            collect([one], None)
                    else:
                        collect(held, parent)

    collect([roots], None)
    return orbits


def _lost(labels: dict[str, list[np.ndarray | None]], orbits: list[_Orbit]) -> list[tuple[np.ndarray, int]]:
    """Axes of grouped convolutions whose units would move although the table cannot say how."""
    return [
        (label, k)
        for name, roots in labels.items()
        for k, label in enumerate(roots)
        if label is not None
        and label.size != label.shape[k]
        and any(np.isin(label, o.members).any() and _axis(name, k, label, o) is None for o in orbits)
    ]


def _groups(
    module: nn.Module,
    layout: Layout,
    units: Units,
    labels: dict[str, list[np.ndarray | None]],
    orbits: list[_Orbit],
    copies: dict[int, list[Axis]],
) -> list[Group]:
    unscalable, unflippable = (
        set(units.find(np.array(sorted(marked), dtype=np.int64)).tolist())
        for marked in (units.unscalable, units.unflippable)
    )
    transposed = {
        f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.modules.conv._ConvTransposeNd)
    }
    transposed |= {f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    roles = {entry.name: entry.role for entry in layout.entries}
    groups: list[Group] = []
    names: dict[int, str] = {}
    shared = {(axis.tensor, axis.axis) for found in copies.values() for axis in found}
    for orbit in orbits:
        for name, roots in labels.items():
            for k, label in enumerate(roots):
                if label is not None:
                    axis = _axis(name, k, label, orbit)
                    if axis is not None:
                        orbit.axes.append(axis)
        orbit.axes += copies.get(id(orbit), [])
    _leave_to_copies(orbits, copies)
    for orbit in orbits:
        if not orbit.axes and not any(o.parent is orbit for o in orbits):
            continue
        norm = [a for a in orbit.axes if roles[a.tensor] == "norm"]
        reads = [a for a in orbit.axes if _reads(a, layout, transposed)]
        rest = [a for a in orbit.axes if a not in norm and a not in reads]
        parameters = [a for a in rest if roles[a.tensor] != "buffer"]
        makes, following = (norm, rest) if norm else (parameters, [a for a in rest if a not in parameters])
        members = orbit.members.ravel().tolist()
        can = (
            orbit.parent is None
            and not any(o.parent is orbit for o in orbits)
            and all(a.within is None for a in orbit.axes)
            and not shared.intersection((a.tensor, a.axis) for a in orbit.axes)
            and bool(makes and reads)
        )
        scalable = can and not unscalable.intersection(members)
        # Behind several norms every one has signs of its own.
        odd = can and not unflippable.intersection(members) and len({a.tensor.rpartition(".")[0] for a in norm}) < 2
        if odd and not norm:  # the mean of a norm without scale and shift changes sign with the units
            means = [a for a in following if a.tensor.rpartition(".")[2] == "running_mean"]
            makes, following = [*makes, *means], [a for a in following if a not in means]
        end = " copies" if id(orbit) in copies else ""
        names[id(orbit)] = _name(orbit, orbits, [g.name for g in groups], end)
        parent = names[id(orbit.parent)] if orbit.parent is not None else None
        size = orbit.members.shape[1]
        groups.append(
            Group(names[id(orbit)], size, tuple(makes), tuple(reads), scalable, tuple(following), parent, odd)
        )
    return groups


def _leave_to_copies(orbits: list[_Orbit], copies: dict[int, list[Axis]]) -> None:
    """What moves with copies moves with the units that hold the copies: it need not be said twice."""
    for orbit in orbits:
        own = {(axis.tensor, axis.axis) for axis in copies.get(id(orbit), [])}
        above = orbit.parent
        while above is not None:
            above.axes = [axis for axis in above.axes if (axis.tensor, axis.axis) not in own]
            above = above.parent


def _in_copies(
    places: dict[str, list[np.ndarray | None]], copies: Copies, orbits: list[_Orbit]
) -> dict[int, list[Axis]]:
    """The axes of each orbit of copies, by id: on each the places of a copy, its units in the order of their orbit."""
    found: dict[int, list[Axis]] = defaultdict(list)
    for orbit in orbits:
        members = orbit.members.ravel().tolist()
        if members[0] not in copies.places:
            continue
        for name, axes in places.items():
            for k, label in enumerate(axes):
                if label is None or label.size != label.shape[k]:
                    continue
                where: dict[int, list[int]] = defaultdict(list)
                for position, place in enumerate(label.ravel().tolist()):
                    where[copies.of.get(place, -1)].append(position)
                if members[0] in where:
                    index = tuple(position for copy in members for position in where[copy])
                    found[id(orbit)].append(Axis(name, k, _simple(index, label.shape[k], len(members))))
    return found


def _name(orbit: _Orbit, orbits: list[_Orbit], taken: list[str], end: str) -> str:
    """Called after the first layer whose units these are."""
    first = next((a.tensor for o in orbits if o is orbit or o.parent is orbit for a in o.axes), "units")
    name = first.rpartition(".")[0] or first
    if any(o.parent is orbit for o in orbits):
        name += " blocks"
    else:
        name += end
    same = sum(other == name or other.startswith(f"{name} #") for other in taken)
    return f"{name} #{same + 1}" if same else name


def _reads(axis: Axis, layout: Layout, transposed: set[str]) -> bool:
    """True for the axes of a weight that read units: the columns."""
    rank = next(len(e.shape) for e in layout.entries if e.name == axis.tensor)
    return rank > 1 and (axis.axis == 0) == (axis.tensor in transposed)


def _axis(name: str, k: int, label: np.ndarray, orbit: _Orbit) -> Axis | None:
    """Where an orbit's units lie on one axis, in the order of its members."""
    members = orbit.members.ravel()
    if label.size != label.shape[k]:  # grouped convolution, weights of heads: the units of each block of another axis
        other = [d for d, size in enumerate(label.shape) if size > 1 and d != k]
        if len(other) != 1 or orbit.parent is None or not np.isin(label, members).any():
            return None
        rows = np.moveaxis(label, [other[0], k], [0, 1]).reshape(label.shape[other[0]], label.shape[k])
        places: list[list[int]] = []
        blocks = rows[:: max(1, len(rows) // orbit.members.shape[0])]
        if len(blocks) != len(orbit.members):
            return None
        for held, row in zip(orbit.members, blocks, strict=True):
            if not np.isin(held, row).all():
                return None
            places.append([int(p) for unit in held for p in np.flatnonzero(row == unit)])
        if any(place != places[0] for place in places):
            return None
        return Axis(name, k, _simple(tuple(places[0]), label.shape[k], orbit.members.shape[1]), within=other[0])
    flat = label.ravel()
    together = np.stack([members, *orbit.riders])
    if not np.isin(flat, together).any():
        return None
    where: dict[int, list[int]] = defaultdict(list)
    for position, unit in enumerate(flat.tolist()):
        where[unit].append(position)
    index = tuple(p for moving in together.T.tolist() for unit in dict.fromkeys(moving) for p in where[unit])
    return Axis(name, k, _simple(index, label.shape[k], len(members)))


def _simple(index: tuple[int, ...], size: int, count: int) -> tuple[int, ...] | None:
    return None if len(index) == size == count and index == tuple(range(size)) else index

"""Gated units: a part of what makes them can be scaled or flipped alone.

In `silu(a) * b` the rows of b can be multiplied by any number that the columns behind are divided by, those of a not. A
unit of an LSTM or a GRU changes sign with the rows of its candidate (those under the tanh), not those of its gates.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Axis, Group, Symmetry

_MOST = 6  # layers, or gates of one, that make units together; more are sums rather than gates


def with_gates(symmetry: Symmetry, probe: Probe) -> Symmetry:
    """The symmetry in which groups that cannot change as a whole do so by a part of their incoming axes.

    The other incoming axes follow.

    Args:
        symmetry: A symmetry, whose groups are homogeneous and odd where they are as a whole.
        probe: The module that it belongs to.
    """
    options = {g.name: list(_options(symmetry, g)) for g in symmetry.groups}
    if not any(options.values()):
        return symmetry
    best = {g.name: g for g in symmetry.groups}
    for k in range(max(map(len, options.values()), default=0)):
        tried = {name: some[k] for name, some in options.items() if k < len(some)}
        some = replace(symmetry, groups=tuple(tried.get(g.name, g) for g in symmetry.groups))
        scaled, flipped = _changing(some, probe, set(tried))
        for name, group in tried.items():
            found = replace(group, homogeneous=name in scaled, odd=name in flipped)
            if _count(found) > _count(best[name]):
                best[name] = found
    return replace(symmetry, groups=tuple(best.values()))


def is_gated(symmetry: Symmetry, group: Group) -> bool:
    """Whether a part of what makes a group's units follows them without a change of sign or size, as gates do.

    Args:
        symmetry: The symmetry of the group.
        group: One of its groups.
    """
    roles = {entry.name: entry.role for entry in symmetry.layout.entries}
    normed = any(roles[axis.tensor] == "norm" for axis in group.incoming)
    return not normed and any(roles[axis.tensor] != "buffer" for axis in group.following)


def without_gates(symmetry: Symmetry) -> Symmetry:
    """The symmetry with all that makes a gated unit on one side again, which can only be reordered.

    Args:
        symmetry: The symmetry.
    """
    order = {entry.name: k for k, entry in enumerate(symmetry.layout.entries)}
    roles = {entry.name: entry.role for entry in symmetry.layout.entries}
    groups: list[Group] = []
    for group in symmetry.groups:
        if is_gated(symmetry, group):
            gates = [axis for axis in group.following if roles[axis.tensor] != "buffer"]
            parts: dict[tuple[str, int], list[Axis]] = {}
            for axis in sorted((*group.incoming, *gates), key=lambda axis: order[axis.tensor]):
                parts.setdefault((axis.tensor, axis.axis), []).append(axis)
            following = tuple(axis for axis in group.following if axis not in gates)
            incoming = tuple(_joined(symmetry, group, several) for several in parts.values())
            group = replace(group, incoming=incoming, following=following, homogeneous=False, odd=False)
        groups.append(group)
    return replace(symmetry, groups=tuple(groups))


def _joined(symmetry: Symmetry, group: Group, axes: list[Axis]) -> Axis:
    """Parts of an axis as one."""
    if len(axes) == 1:
        return axes[0]
    places = torch.cat([symmetry.places[group.name, axis] for axis in axes], 1).sort(1).values
    return replace(axes[0], index=tuple(places.flatten().tolist()))


def _changing(symmetry: Symmetry, probe: Probe, names: set[str]) -> tuple[set[str], set[str]]:
    """Which of these groups can be scaled, and which can be flipped."""
    identity = symmetry.identity()
    scales, signs = probe.scales(symmetry, 0), probe.signs(symmetry, 0)

    def kept(factors: Mapping[str, Tensor], change: Callable[[Mapping[str, Tensor]], float]) -> set[str]:
        factors = {name: factor for name, factor in factors.items() if name in names}
        if not factors or change(factors) < probe.precision.same:
            return set(factors)
        return {name for name, factor in factors.items() if change({name: factor}) < probe.precision.same}

    return (
        kept(scales, lambda some: probe.change(symmetry, identity, some)),
        kept(signs, lambda some: probe.change(symmetry, identity, {}, some)),
    )


def _count(group: Group) -> int:
    return group.homogeneous + group.odd


def _options(symmetry: Symmetry, group: Group) -> Iterator[Group]:
    """The group with each of the layers, or gates of one, that make its units as the only one that changes."""
    nested = group.parent is not None or symmetry.children(group.name)
    roles = {entry.name: entry.role for entry in symmetry.layout.entries}
    normed = any(roles[axis.tensor] == "norm" for axis in group.incoming)
    shared = any((axis.tensor, axis.axis) in symmetry.shared for axis in group.axes)
    if nested or normed or shared or len(group.kinds) > 1 or not group.outgoing:
        return
    slots: dict[str, int] = {}
    for axis in group.incoming:
        layer = _layer(axis)
        slots[layer] = max(slots.get(layer, 1), symmetry.places[group.name, axis].shape[1])
    parts = [(layer, k) for layer, count in slots.items() for k in range(count)]
    if not 1 < len(parts) <= _MOST:
        return
    for layer, k in parts:
        own, rest = [], []
        for axis in group.incoming:
            place = symmetry.places[group.name, axis]
            if _layer(axis) != layer or place.shape[1] == 1:
                (own if _layer(axis) == layer else rest).append(axis)
            else:
                others = [slot for slot in range(place.shape[1]) if slot != k]
                own.append(replace(axis, index=tuple(place[:, k].tolist())))
                rest.append(replace(axis, index=tuple(place[:, others].flatten().tolist())))
        following = (*rest, *group.following)
        yield replace(group, incoming=tuple(own), following=following, homogeneous=True, odd=True)
        beside = [axis for axis in rest if _layer(axis) != layer]  # such as initial states
        if beside and slots[layer] > 1:
            following = (*(axis for axis in rest if axis not in beside), *group.following)
            yield replace(group, incoming=(*own, *beside), following=following, homogeneous=True, odd=True)


def _layer(axis: Axis) -> str:
    return axis.tensor.rpartition(".")[0]

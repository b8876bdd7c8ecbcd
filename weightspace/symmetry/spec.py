"""Symmetry: a table that says which axis of which tensor each group of hidden units acts on.

Permuting a group's units on all its axes at once leaves the function unchanged. The table acts on any vector of the
layout: weights, masks, rewind weights, optimiser moments, posterior means and scales.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.networks.layout import Layout
from weightspace.runtime.checks import instance
from weightspace.symmetry import checks, mixing
from weightspace.symmetry.factors import multiplied
from weightspace.symmetry.group import Axis as Axis
from weightspace.symmetry.group import Group as Group
from weightspace.symmetry.group import written
from weightspace.symmetry.sharing import shared_parents, sources_below
from weightspace.symmetry.stored import read_groups

Permutations = Mapping[str, Tensor]
"""A permutation for each group, by name, as in `Symmetry.permute`."""


@dataclass(frozen=True)
class Symmetry:
    """The groups of one layout.

    Args:
        layout: Layout of the networks.
        groups: Groups of units; parents come before their children.
        fixed: Names of buffers that rightly stay as they are, such as a constant table.

    Raises:
        LayoutMismatch: An axis does not exist in the layout or has another size than its group.
        InputError: Two groups claim the same place and are not copies and what these share, a parent is unknown, a
            child is homogeneous or odd, units that hold others are linear, or a buffer of statistics is in no group.
    """

    layout: Layout
    groups: tuple[Group, ...]
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups) if not isinstance(self.groups, Group) else (self.groups,))
        checks.require_groups(self.layout, self.groups, self.count)
        try:
            shared_parents(self.groups, self.places)
        except ValueError as error:
            raise InputError(str(error)) from error
        checks.require_statistics(self.layout, self.groups, self.fixed)

    @cached_property
    def by_name(self) -> dict[str, Group]:
        """The groups by name."""
        return {group.name: group for group in self.groups}

    def count(self, name: str) -> int:
        """Units of a group in all units of its parents together."""
        group = self.by_name[name]
        return group.size * (1 if group.parent is None else self.count(group.parent))

    def children(self, name: str) -> tuple[Group, ...]:
        """The groups directly inside a group."""
        return tuple(group for group in self.groups if group.parent == name)

    def _positions(self, group: Group, axis: Axis) -> Int[Tensor, "units slots"]:
        units = group.size if axis.within is not None else self.count(group.name)
        return torch.arange(units)[:, None] if axis.index is None else torch.tensor(axis.index).reshape(units, -1)

    @cached_property
    def places(self) -> dict[tuple[str, Axis], Tensor]:
        """Positions (units, slots) of each group on its axes, and parts of axes; units of all parents in turn."""
        axes = {g.name: dict.fromkeys((*g.axes, *((*g.primal, *g.dual) if g.dual else ()))) for g in self.groups}
        return {(g.name, axis): self._positions(g, axis) for g in self.groups for axis in axes[g.name]}

    @cached_property
    def _shared(self) -> dict[tuple[str, Axis], frozenset[str]]:
        return shared_parents(self.groups, self.places)

    @property
    def shared(self) -> frozenset[tuple[str, int]]:
        """The axes, by tensor and number, that two groups move: copies, and the units that the copies share."""
        return frozenset((axis.tensor, axis.axis) for _, axis in self._shared)

    @property
    def coverage(self) -> float:
        """Fraction of the trainable parameters that some permutation moves."""
        moved = 0
        for entry in self.layout.parameters:
            still = torch.ones(entry.shape, dtype=torch.bool)
            for group in self.groups:
                for axis in group.axes:
                    if axis.tensor == entry.name:
                        still.index_fill_(axis.axis, self.places[group.name, axis].flatten(), False)
            moved += entry.size - int(still.sum())
        return moved / self.layout.size

    def __str__(self) -> str:
        lines = [f"{'group':<24}{'units':>6}  incoming -> outgoing | following (kinds, if more than permutation)"]
        for group in self.groups:
            sides = [", ".join(map(str, side)) for side in (group.incoming, group.outgoing)]
            after = f" | {', '.join(map(str, group.following))}" if group.following else ""
            name = group.name if group.parent is None else f"{group.name} (in {group.parent})"
            kinds = f" ({', '.join(group.kinds)})" if len(group.kinds) > 1 else ""
            lines.append(f"{name:<24}{group.size:>6}  {' -> '.join(sides)}{after}{kinds}")
        return "\n".join(lines)

    def identity(self) -> dict[str, Tensor]:
        """The permutation of every group that moves nothing; (units,), of child groups (parent units, units)."""
        return {group.name: self._each(group, torch.arange(group.size).expand) for group in self.groups}

    def random(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A random permutation of every group; (units,), of child groups (parent units, units)."""
        instance(generator, "generator", torch.Generator, "a torch.Generator()")

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).argsort(-1)

        return {group.name: self._each(group, draw) for group in self.groups}

    def _each(self, group: Group, make: Any) -> Tensor:
        return make(group.size) if group.parent is None else make(self.count(group.parent), group.size).clone()

    def sources(self, permutations: Permutations) -> dict[str, Int[Tensor, " units"]]:
        """For each group the old place of each unit, counted through all units of its parents."""
        places: dict[str, Tensor] = {}
        for group in self.groups:
            order = permutations[group.name]
            places[group.name] = (
                order if group.parent is None else (places[group.parent][:, None] * group.size + order).flatten()
            )
        return places

    def compose(self, first: Permutations, then: Permutations) -> dict[str, Tensor]:
        """The permutations that do `first`, and `then` on its result."""
        moved = self.sources(then)
        return {
            g.name: first[g.name][then[g.name]]
            if g.parent is None
            else first[g.name][moved[g.parent]].gather(1, then[g.name])
            for g in self.groups
        }

    def inverse(self, permutations: Permutations) -> dict[str, Tensor]:
        """The permutations that undo these."""
        moved = self.sources(permutations)
        return {
            g.name: permutations[g.name].argsort()
            if g.parent is None
            else permutations[g.name][moved[g.parent].argsort()].argsort(1)
            for g in self.groups
        }

    def permute(self, vector: Tensor, permutations: Permutations) -> Tensor:
        """Reorder units: position u of a group afterwards holds what `permutations[group][u]` held.

        Args:
            vector: Vectors of the layout (..., D), of any type, on any device.
            permutations: A permutation for each group, on the CPU; (units,), of child groups (parent units, units).
                Unit u in parent unit h afterwards holds what unit `permutations[child][h, u]` of parent unit
                `permutations[parent][h]` held.
        """
        state = self.move(self.layout.tensors(vector), permutations, vector.ndim - 1)
        return torch.cat([state[e.name].flatten(vector.ndim - 1) for e in self.layout.parameters], dim=-1)

    def permute_buffers(self, buffers: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
        """Reorder one network's buffers (normalisation statistics) like its weights."""
        return self.move(dict(buffers), permutations, 0)

    def move(self, state: Mapping[str, Tensor], permutations: Permutations, lead: int = 0) -> dict[str, Tensor]:
        """Reorder some of the layout's tensors.

        Args:
            state: Tensors by name.
            permutations: A permutation for each group, as in `permute`.
            lead: Number of dimensions in front of the tensors' own.
        """
        moved = dict(state)
        for (name, axis), order in self.orders(permutations, state).items():
            moved[name] = moved[name].index_select(axis + lead, order.to(moved[name].device))
        for group, axis in self.dependent(state):
            assert axis.within is not None
            assert group.parent is not None
            tensor, place = moved[axis.tensor], self.places[group.name, axis]
            orders = torch.arange(tensor.shape[axis.axis + lead]).repeat(self.count(group.parent), 1)
            orders[:, place.flatten()] = place[permutations[group.name]].flatten(1)
            blocks = tensor.chunk(len(orders), axis.within + lead)
            parts = [
                block.index_select(axis.axis + lead, o)
                for block, o in zip(blocks, orders.to(tensor.device), strict=True)
            ]
            moved[axis.tensor] = torch.cat(parts, axis.within + lead)
        return moved

    def orders(self, permutations: Permutations, tensors: Mapping[str, Any]) -> dict[tuple[str, int], Tensor]:
        """The order that each axis of these tensors takes, by (tensor, axis)."""
        shapes = {entry.name: entry.shape for entry in self.layout.entries}
        sources = self.sources(permutations)
        orders: dict[tuple[str, int], Tensor] = {}
        for group in self.groups:
            for axis in group.axes:
                if axis.tensor in tensors and axis.within is None:
                    key = (axis.tensor, axis.axis)
                    if key not in orders:
                        orders[key] = torch.arange(shapes[axis.tensor][axis.axis])
                    place, above = self.places[group.name, axis], self._shared.get((group.name, axis))
                    source = sources[group.name]
                    if above is not None:  # the groups above have moved these positions already
                        source = sources_below(group.name, above, permutations, self.by_name, self.count)
                    moved = torch.arange(len(orders[key]))
                    moved[place.flatten()] = place[source].flatten()
                    orders[key] = orders[key][moved]
        return orders

    def dependent(self, tensors: Mapping[str, Any]) -> Iterator[tuple[Group, Axis]]:
        """The axes whose order depends on another axis."""
        for group in self.groups:
            for axis in group.axes:
                if axis.within is not None and axis.tensor in tensors:
                    yield group, axis

    def scale(self, vector: Float[Tensor, "*nets d"], scales: Mapping[str, Float[Tensor, "*nets units"]]) -> Tensor:
        """Multiply homogeneous units' incoming weights by s > 0 and divide their outgoing weights by s.

        Args:
            vector: Vectors of the layout (..., D).
            scales: Scales (..., units) of homogeneous groups, by name.

        Raises:
            InputError: A group is not homogeneous.
        """
        if not scales:
            return vector
        state, lead = dict(self.layout.tensors(vector)), vector.ndim - 1
        for group in self.groups:
            if group.name in scales:
                if not group.homogeneous:
                    raise InputError(f"the units of group {group.name!r} are not homogeneous and cannot be scaled")
                places = {axis: self.places[group.name, axis] for axis in group.axes}
                state = multiplied(state, scales[group.name], group.incoming, places, lead)
                state = multiplied(state, 1 / scales[group.name], group.outgoing, places, lead)
        return torch.cat([state[e.name].flatten(lead) for e in self.layout.parameters], dim=-1)

    @property
    def odd(self) -> tuple[Group, ...]:
        """The groups whose units can change sign."""
        return tuple(group for group in self.groups if group.odd)

    def random_signs(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random signs (units,) of every odd group, 1 or -1."""
        return {g.name: 1.0 - 2.0 * torch.randint(2, (g.size,), generator=generator) for g in self.odd}

    def flip(self, vector: Float[Tensor, "*nets d"], signs: Mapping[str, Tensor]) -> Tensor:
        """Multiply odd units' incoming and outgoing weights by their signs.

        Masks have no signs, and neither have standard deviations: leave them as they are.

        Args:
            vector: Vectors of the layout (..., D).
            signs: Signs (..., units) of odd groups, 1 or -1, by name, for the units as they lie in the vectors.

        Raises:
            InputError: A group is not odd.
        """
        if not signs:
            return vector
        state = self.flip_tensors(self.layout.tensors(vector), signs, vector.ndim - 1)
        return torch.cat([state[e.name].flatten(vector.ndim - 1) for e in self.layout.parameters], dim=-1)

    def flip_buffers(self, buffers: Mapping[str, Tensor], signs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Multiply one network's buffers (running means of odd units) by their signs, like its weights.

        Args:
            buffers: Buffers by name.
            signs: Signs (units,) of odd groups.

        Raises:
            InputError: A group is not odd.
        """
        return self.flip_tensors(buffers, signs, 0)

    def flip_tensors(
        self, state: Mapping[str, Tensor], signs: Mapping[str, Tensor], lead: int = 0
    ) -> dict[str, Tensor]:
        """Multiply some of the layout's tensors by the signs of odd units.

        Args:
            state: Tensors by name.
            signs: Signs (..., units) of odd groups, by name.
            lead: Number of dimensions in front of the tensors' own.

        Raises:
            InputError: A group is not odd.
        """
        flipped = dict(state)
        for name, sign in signs.items():
            group = self.by_name[name]
            if not group.odd:
                raise InputError(f"the units of group {name!r} are not odd and cannot change sign")
            places = {axis: self.places[name, axis] for axis in group.axes}
            used = [axis for axis in (*group.incoming, *group.outgoing) if axis.tensor in flipped]
            if used:
                own = sign.to(flipped[used[0].tensor])
                flipped = multiplied(flipped, own, used, places, lead)
        return flipped

    @property
    def linear(self) -> tuple[Group, ...]:
        """The groups whose units can be mixed by matrices."""
        return tuple(group for group in self.groups if group.linear is not None)

    def _parents(self, group: Group) -> int:
        return 1 if group.parent is None else self.count(group.parent)

    def random_matrices(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A random matrix in float64 for every linear group, as in `mix`, well-conditioned."""
        return mixing.random_matrices(self.linear, {g.name: self._parents(g) for g in self.linear}, generator)

    def mix(self, vector: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        """Multiply the units of linear groups by matrices, and what reads them by the inverse transposes.

        Masks have no other basis, and neither have standard deviations: after a mixing, find them anew.

        Args:
            vector: Vectors of the layout (..., D).
            matrices: Matrices of linear groups by name, for the units as they lie in the vectors: mixing comes before
                flips and permutations. (..., units, units), of child groups (..., parent units, units, units). Unit u
                afterwards is the sum over v of G[u, v] times unit v.

        Raises:
            InputError: A group cannot be mixed; a matrix has another shape, is singular or, where it has to be, not
                orthogonal; or the vectors are masks.
        """
        if not matrices:
            return vector
        state = self.mix_tensors(self.layout.tensors(vector), matrices, vector.ndim - 1)
        return torch.cat([state[e.name].flatten(vector.ndim - 1) for e in self.layout.parameters], dim=-1)

    def mix_buffers(self, buffers: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Multiply one network's buffers by matrices, like its weights.

        Args:
            buffers: Buffers by name.
            matrices: Matrices of linear groups, as in `mix`.

        Raises:
            InputError: As in `mix`.
        """
        return self.mix_tensors(buffers, matrices, 0)

    def mix_tensors(
        self, state: Mapping[str, Tensor], matrices: Mapping[str, Tensor], lead: int = 0
    ) -> dict[str, Tensor]:
        """Multiply the units in some of the layout's tensors by matrices.

        Args:
            state: Tensors by name.
            matrices: Matrices of linear groups, as in `mix`.
            lead: Number of dimensions in front of the tensors' own.

        Raises:
            InputError: As in `mix`.
        """
        changed = dict(state)
        for name, matrix in matrices.items():
            if name not in self.by_name:
                raise InputError(f"no group is called {name!r}: there are {', '.join(self.by_name) or 'none'}")
            group = self.by_name[name]
            places = {axis: self.places[name, axis] for axis in (*group.primal, *group.dual)}
            changed = mixing.mixed(changed, group, matrix, places, self._parents(group), lead)
        return changed

    def to_json(self) -> dict[str, Any]:
        """The groups as data, without the layout."""
        return {"groups": [written(group) for group in self.groups], "fixed": list(self.fixed)}

    @classmethod
    def from_json(cls, data: Any, layout: Layout) -> "Symmetry":
        """The inverse of `to_json`.

        Args:
            data: What `to_json` returned.
            layout: Layout of the networks.

        Raises:
            StorageError: A field is missing or of another type, or the groups do not fit the layout.
        """
        groups, fixed = read_groups(data, layout)
        try:
            return cls(layout, groups, fixed)
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
            raise StorageError(f"a symmetry is damaged ({error!s:.200}): restore it from a copy") from error

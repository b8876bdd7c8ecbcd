"""Units that can be mixed, matched to a reference by rotations: orthogonal Procrustes, in heads, too."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.bases import identities, mixed, of_rotations, rows_of
from weightspace.align.procrustes import polar
from weightspace.symmetry import Axis, Group, Symmetry

_TOLERANCE = 1e-9  # relative gain of a step; copies start from one form and take the same steps
_STEPS = 100

Move = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Rotations of units as they lie, and permutations of the result: matrices and permutations by group."""


class RotatedGroups:
    """A root group that can be rotated, or that holds groups that can.

    A rotation's gain is <R, gram>, largest for the polar factor of the gram, with its nuclear norm as the value. Inside
    heads every pair of heads has a best rotation (or, for other groups, permutation); their values are the matrix of
    the assignment of heads. A step is taken only if the inner product with the reference rises.

    Args:
        symmetry: Symmetry of reference and networks; networks are in canonical form, which leaves rotations open.
        root: The outermost group.
        reference: The reference's tensors (features, *shape), by name.
    """

    def __init__(self, symmetry: Symmetry, root: Group, reference: Mapping[str, Tensor]) -> None:
        self.symmetry, self.root, self.reference = symmetry, root, reference
        self.children = symmetry.children(root.name)
        self.inner = [g for g in symmetry.groups if g.parent is not None and self._root_of(g) == root.name]
        self.axes = {g.name: [a for a in g.axes if a.tensor in reference] for g in (root, *self.inner)}
        on: dict[str, set[tuple[str, int]]] = {}
        for name, axes in self.axes.items():
            for a in axes:
                on.setdefault(a.tensor, set()).add((name, a.axis))
        self.coupled = {tensor for tensor, pairs in on.items() if len({axis for _, axis in pairs}) > 1}
        self.coupled |= {tensor for tensor, _ in symmetry.shared}
        self.steps: list[Callable[[Mapping[str, Tensor], set[str]], Move]] = [self._together]
        if self.coupled or len(self.inner) > len(self.children):  # otherwise all is found together, exactly
            self.steps += [self._inside(g) for g in self.inner]

    def _root_of(self, group: Group) -> str:
        while group.parent is not None:
            group = self.symmetry.by_name[group.parent]
        return group.name

    def improve(self, current: Mapping[str, Tensor], settled: set[str] | None) -> Move | None:
        """The best rotations and permutations of the groups from here, or None if the present ones cannot be improved.

        Args:
            current: The network's tensors (features, *shape) as they are so far.
            settled: Names of the tensors that count; None counts all.
        """
        tensors = {a.tensor for axes in self.axes.values() for a in axes}
        used = {t for t in tensors if settled is None or t in settled}
        state = {t: current[t] for t in tensors}
        symmetry = self.symmetry
        matrices: dict[str, Tensor] = {}
        orders, improved = symmetry.identity(), False
        for _ in range(_STEPS):
            before, progress = self._value(state, used), False
            for step in self.steps:
                rotated, order = step(state, used)
                moved = mixed(state, symmetry, of_rotations(symmetry, rotated))
                moved = symmetry.move(moved, symmetry.identity() | order, lead=1)
                after = self._value(moved, used)
                if after - before > _TOLERANCE * max(abs(before), abs(after)):
                    compose_rotations(symmetry, matrices, orders, rotated)
                    orders = symmetry.compose(orders, symmetry.identity() | order)
                    state, before, progress, improved = moved, after, True, True
            if not progress or len(self.steps) == 1:
                break
        return (matrices, {name: orders[name] for name in self.axes}) if improved else None

    def _value(self, state: Mapping[str, Tensor], used: set[str]) -> float:
        return sum(float((self.reference[t] * state[t]).sum(dtype=torch.float64)) for t in sorted(used))

    def _together(self, state: Mapping[str, Tensor], used: set[str]) -> Move:
        """The outer permutation, with the rotations and permutations inside that suit it."""
        root = self.root
        if root.linear is not None:
            gain = self._grams(root, state, used, self.axes[root.name])
            return ({}, {}) if gain is None else ({root.name: polar(gain)[0][0, 0].cpu()}, {})
        gain = self._grams(root, state, used, self.axes[root.name])
        total = torch.zeros(root.size, root.size, dtype=torch.float64) if gain is None else gain[0, 0].cpu()
        rotations: dict[str, Tensor] = {}
        orders: dict[str, Tensor] = {}
        for child in self.children:
            grams = self._grams(child, state, used, [a for a in self.axes[child.name] if a.tensor not in self.coupled])
            if grams is None:
                continue
            if child.linear is not None:
                rotations[child.name], values = polar(grams)
                total = total + values.cpu()
            else:
                pairs = grams.cpu()
                best = torch.stack([torch.stack([assign(one) for one in row]) for row in pairs])
                total = total + pairs.gather(3, best[..., None]).sum((2, 3))
                orders[child.name] = best
        outer, here = assign(total), torch.arange(root.size)
        found = {name: torch.empty_like(pairs[0]) for name, pairs in rotations.items()}
        for name, pairs in rotations.items():  # of the head as it lies, which goes to another place
            found[name][outer] = pairs[here, outer]
        orders = {name: best[here, outer] for name, best in orders.items()}
        return {name: matrix.cpu() for name, matrix in found.items()}, {root.name: outer} | orders

    def _inside(self, group: Group) -> Callable[[Mapping[str, Tensor], set[str]], Move]:
        """A step that rotates or permutes one inner group while everything above it stays."""

        def step(state: Mapping[str, Tensor], used: set[str]) -> Move:
            axes = [axis for axis in self.axes[group.name] if axis.tensor in used]
            if not axes:
                return {}, {}
            gain = torch.stack([self._own(group, axis, state) for axis in axes]).sum(0)
            if group.linear is not None:
                return {group.name: polar(gain)[0].cpu()}, {}
            return {}, {group.name: torch.stack([assign(one) for one in gain])}

        return step

    def _own(self, group: Group, axis: Axis, state: Mapping[str, Tensor]) -> Tensor:
        """Gains (parents, units, units) of each unit's own parent unit."""
        a, b = (rows_of(t[axis.tensor], self.symmetry, group, axis) for t in (self.reference, state))
        return (a @ b.mT).sum(0)

    def _grams(self, group: Group, state: Mapping[str, Tensor], used: set[str], axes: list[Axis]) -> Tensor | None:
        """Gains (parents, parents, units, units) of all pairs of parent units of reference and network."""
        total: Tensor | None = None
        for axis in axes:
            if axis.tensor in used:
                a, b = (rows_of(t[axis.tensor], self.symmetry, group, axis) for t in (self.reference, state))
                gram = torch.einsum("fhnv,fkmv->hknm", a, b)
                total = gram if total is None else total + gram
        return total


def compose_rotations(
    symmetry: Symmetry, matrices: dict[str, Tensor], permutations: Mapping[str, Tensor], then: Mapping[str, Tensor]
) -> None:
    """Multiply rotations of units, each parent unit under its own number, by rotations at their present places.

    Args:
        symmetry: The symmetry that the groups belong to.
        matrices: Rotations by group; changed in place.
        permutations: Which unit is in which place, by group.
        then: Rotations of the units in their places.
    """
    sources = symmetry.sources(permutations) if then else {}
    for name, matrix in then.items():
        own, parent = matrix, symmetry.by_name[name].parent
        if parent is not None:
            own = torch.empty_like(matrix)
            own[sources[parent]] = matrix
        matrices[name] = own @ matrices[name] if name in matrices else own


def no_rotations(symmetry: Symmetry) -> dict[str, Tensor]:
    """Matrices of all linear groups that change nothing, as `Symmetry.mix` takes them."""
    eyes = {name: mixing.primal[0] for name, mixing in identities(symmetry, symmetry.linear).items()}
    return {name: eye if symmetry.by_name[name].parent is not None else eye[0] for name, eye in eyes.items()}


def holds_rotated(symmetry: Symmetry, names: list[str]) -> bool:
    """Whether some of these groups can be rotated."""
    return any(symmetry.by_name[name].linear is not None for name in names)

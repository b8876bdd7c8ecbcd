"""The matcher: permutations and signs of one network that maximise its inner product with a reference.

Coordinate descent over groups of units, each step an exact linear assignment (Git Re-Basin, Ainsworth et al. 2023,
arXiv 2209.04836, algorithm 1), made fast without changing its result: what does not depend on other groups is computed
once, a group is solved again only after a neighbour has moved, and a gain matrix is updated only where a neighbour's
units changed places.

Units of odd groups have a sign, too: the assignment is solved on the gains of each pair's better sign. Units of linear
groups are rotated instead, where rotations are asked for.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.bases import mixed, of_rotations
from weightspace.align.nested_groups import NestedGroups
from weightspace.align.rotations import RotatedGroups, compose_rotations, holds_rotated, no_rotations
from weightspace.align.signs import compose_signs, flip_axis, flip_features, flips, signed_assignment
from weightspace.symmetry import Axis, Group, Symmetry

_STEPS = 100  # visits of a group; three to ten are usual
_MOST = 0.8  # of the units: if more changed places, a gain matrix is computed anew
_ROUNDING = 16  # a step has to gain more than so many units of rounding


@dataclass
class Matched:
    """Permutations of one network, by group, and how they were found.

    Args:
        permutations: For each group a permutation, as in `Symmetry.permute`.
        value: Inner product with the reference after permuting.
        converged: Whether no group can be improved on its own.
        steps: Number of groups that were visited.
        signs: For each odd group the signs of the network's units, as in `Symmetry.flip`, before they are permuted.
        matrices: For each linear group that was rotated an orthogonal matrix (units, units), of child groups
            (parent units, units, units), as in `Symmetry.mix`: for the units of the network in canonical form, before
            they are permuted.
    """

    permutations: dict[str, Tensor]
    value: float
    converged: bool
    steps: int
    signs: dict[str, Tensor] = field(default_factory=dict)
    matrices: dict[str, Tensor] = field(default_factory=dict)


class Matcher:
    """Matches networks to one reference.

    Args:
        symmetry: Symmetry of reference and networks.
        reference: Features of the reference (features, D), see `weightspace.align.costs`. Inner products are taken
            feature by feature and added. Its dtype and device are those of the computation; assignments are solved on
            the CPU, where the permutations are, too.
        signed: For each feature whether it changes sign with the weights; None says that all do.
        rotate: Whether units of linear groups are rotated; otherwise they are permuted like others.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        reference: Float[Tensor, "features d"],
        signed: Sequence[bool] | None = None,
        *,
        rotate: bool = False,
    ) -> None:
        self.symmetry = symmetry
        self.signed = (True,) * len(reference) if signed is None else tuple(signed)
        self.dtype, self.device = reference.dtype, reference.device
        self.places = {key: place.to(self.device) for key, place in symmetry.places.items()}
        roots = [g for g in symmetry.groups if g.parent is None]
        parameters = symmetry.layout.slices
        self.uses = {g.name: [a for a in g.axes if a.tensor in parameters] for g in symmetry.groups}
        members = {root.name: [root.name, *_below(symmetry, root.name)] for root in roots}
        self.on: dict[str, set[str]] = defaultdict(set)  # roots that act on a tensor
        for root, names in members.items():
            for name in names:
                for axis in self.uses[name]:
                    self.on[axis.tensor].add(root)
        self.neighbours = {
            root: {other for name in names for a in self.uses[name] for other in self.on[a.tensor]} - {root}
            for root, names in members.items()
        }
        together = {n for n, names in members.items() if len(names) > 1 or _twice(self.uses[n])}
        self.reference = self.tensors(reference)
        self.rotated = {
            root.name: RotatedGroups(symmetry, root, self.reference)
            for root in roots
            if rotate and holds_rotated(symmetry, members[root.name])
        }
        self.nested = {
            root.name: NestedGroups(symmetry, root, self.reference, self.signed)
            for root in roots
            if root.name in together and root.name not in self.rotated
        }
        self.roots = roots
        self.members = members
        self._parts: dict[tuple[str, Axis], list[tuple[bool, Tensor | None]]] = {}

    def tensors(self, features: Float[Tensor, "features d"]) -> dict[str, Tensor]:
        """Named tensors (features, *shape)."""
        return self.symmetry.layout.tensors(features.to(self.device, self.dtype).contiguous())

    def match(self, network: Float[Tensor, "features d"]) -> Matched:
        """Permutations of a network with these features.

        The first round looks only at tensors whose other units are fixed or matched already, so that the result does
        not depend on the order in which the network's units happen to come.

        Args:
            network: Features (features, D), as many as the reference has.
        """
        state = _State(self, self.tensors(network))
        waiting = {root.name for root in self.roots}
        dirty = set(waiting)
        steps = 0
        while dirty and steps < _STEPS * len(self.roots):
            for root in self.roots:
                name = root.name
                if name not in dirty:
                    continue
                dirty.discard(name)
                first = name in waiting
                waiting.discard(name)
                settled = {t for t in state.current if not (self.on[t] - {name}) & waiting} if first else None
                moved = state.improve(root, settled)
                steps += 1
                if moved:
                    dirty |= {n for n in self.neighbours[name] if n not in waiting or n in dirty}
                if first and settled is not None and any(a.tensor not in settled for a in self._axes(name)):
                    dirty.add(name)  # not all of its tensors were looked at
        value = sum(float((self.reference[n] * t).sum(dtype=torch.float64)) for n, t in state.current.items())
        return Matched(state.permutations, value, not dirty, steps, state.signs, state.matrices)

    def parts(self, group: Group, axis: Axis) -> list[tuple[bool, Tensor | None]]:
        """The features whose gains change sign with the group's units on an axis, and those whose gains do not.

        Args:
            group: The group.
            axis: One of its axes.

        Returns:
            For each part that there is whether its gains change sign, and the numbers of its features; None are all.
        """
        key = (group.name, axis)
        if key not in self._parts:  # of all networks the same
            self._parts[key] = self._parts_of(group, axis)
        return self._parts[key]

    def _parts_of(self, group: Group, axis: Axis) -> list[tuple[bool, Tensor | None]]:
        if not flips(group, axis) or not any(self.signed):
            return [(False, None)]
        if all(self.signed):
            return [(True, None)]
        signed = torch.tensor(self.signed, device=self.device)
        return [(True, signed.nonzero()[:, 0]), (False, (~signed).nonzero()[:, 0])]

    def features(self, name: str, axis: Axis, flipping: bool) -> Tensor | None:
        """The numbers of the features in one of these parts; None are all."""
        return dict(self.parts(self.symmetry.by_name[name], axis))[flipping]

    def _axes(self, root: str) -> list[Axis]:
        return [axis for name in self.members[root] for axis in self.uses[name]]


def _below(symmetry: Symmetry, name: str) -> list[str]:
    return [n for child in symmetry.children(name) for n in (child.name, *_below(symmetry, child.name))]


def _twice(axes: list[Axis]) -> bool:
    """True if a group acts on two axes of one tensor: its gain is then quadratic in the permutation."""
    return len({(a.tensor, a.axis) for a in axes}) > len({a.tensor for a in axes})


_Gains = tuple[str, Axis, bool]  # of a group along an axis, those that change sign with its units or the others


class _State:
    """One network while it is matched: its tensors as permuted and flipped so far, and the gain matrices."""

    def __init__(self, matcher: Matcher, current: dict[str, Tensor]) -> None:
        self.matcher = matcher
        self.current = current
        self.permutations = matcher.symmetry.identity()
        self.signs = {g.name: torch.ones(g.size, dtype=matcher.dtype) for g in matcher.symmetry.odd}
        self.matrices = no_rotations(matcher.symmetry) if matcher.rotated else {}
        self.grams: dict[_Gains, Tensor] = {}

    def improve(self, root: Group, settled: set[str] | None) -> bool:
        """Give one group its best permutation, signs or rotation while the others stay; False if it has them."""
        if root.name in self.matcher.rotated:
            move = self.matcher.rotated[root.name].improve(self.current, settled)
            if move is None:
                return False
            self._apply(move[1], {}, move[0])
            return True
        if root.name in self.matcher.nested:
            found = self.matcher.nested[root.name].improve(self.current, settled)
            if found is None:
                return False
            self._apply(*found)
            return True
        shape, options = (root.size, root.size), {"dtype": self.matcher.dtype, "device": self.matcher.device}
        gain, signed = torch.zeros(shape, **options), torch.zeros(shape, **options) if root.odd else None
        for axis in self.matcher.uses[root.name]:
            if settled is None or axis.tensor in settled:
                for flipping, features in self.matcher.parts(root, axis):
                    total = signed if flipping and signed is not None else gain
                    total += self._gram(root, axis, flipping, features)
        gain, sign = gain.cpu(), None
        before = gain.diagonal().sum()
        if signed is None:
            best = assign(gain)
        else:
            before = before + signed.diagonal().sum().cpu()
            best, sign, gain = signed_assignment(gain, signed.cpu())
        after = gain.gather(1, best[:, None]).sum()
        tolerance = _ROUNDING * torch.finfo(gain.dtype).eps
        same = torch.equal(best, torch.arange(root.size)) and (sign is None or bool((sign > 0).all()))
        if same or after - before <= tolerance * gain.abs().amax(1).sum():
            return False
        self._move(root, best, sign)
        return True

    def _gram(self, group: Group, axis: Axis, flipping: bool, features: Tensor | None) -> Float[Tensor, "units units"]:
        key = (group.name, axis, flipping)
        if key not in self.grams:
            place = self.matcher.places[group.name, axis]
            a, b = (_some(t[axis.tensor], features) for t in (self.matcher.reference, self.current))
            self.grams[key] = _rows(a, axis, place) @ _rows(b, axis, place).T
        return self.grams[key]

    def _move(self, group: Group, best: Tensor, sign: Tensor | None) -> None:
        """Permute and flip a plain group; bring its own gain matrices and its neighbours' up to date."""
        matcher = self.matcher
        moved = best != torch.arange(group.size)
        changed = (moved if sign is None else moved | (sign < 0)).nonzero()[:, 0].to(matcher.device)
        self.permutations[group.name] = self.permutations[group.name][best]
        best = best.to(matcher.device)
        if sign is not None:
            compose_signs(self.signs, self.permutations, {group.name: sign})
            sign = sign.to(matcher.device)
        for axis in matcher.uses[group.name]:
            place = matcher.places[group.name, axis]
            old = self.current[axis.tensor]
            dim = axis.axis + 1
            order = torch.arange(old.shape[dim], device=matcher.device)
            order[place.flatten()] = place[best].flatten()
            new = old.index_select(dim, order)
            if sign is not None and flips(group, axis):
                new = flip_axis(new, axis, place, sign, matcher.signed)
            self.current[axis.tensor] = new
            for key in [k for k in self.grams if k[:2] == (group.name, axis)]:
                self.grams[key] = self.grams[key].index_select(1, best)
                if sign is not None and key[2]:
                    self.grams[key] = self.grams[key] * sign
            where = place[changed].flatten()
            for key in [k for k in self.grams if k[1].tensor == axis.tensor and k[1].axis != axis.axis]:
                if len(where) > _MOST * new.shape[dim]:
                    del self.grams[key]
                    continue
                # Only these columns changed: add what came and take away what went.
                rows, features = matcher.places[key[:2]], matcher.features(*key)
                a = _some(matcher.reference[axis.tensor].index_select(dim, where), features)
                difference = _some(new.index_select(dim, where) - old.index_select(dim, where), features)
                self.grams[key] = self.grams[key].addmm(_rows(a, key[1], rows), _rows(difference, key[1], rows).T)

    def _apply(
        self, order: Mapping[str, Tensor], signs: Mapping[str, Tensor], matrices: Mapping[str, Tensor] | None = None
    ) -> None:
        """Rotate linear groups, permute groups that hold each other, and flip odd ones."""
        symmetry, matrices = self.matcher.symmetry, matrices or {}
        compose_rotations(symmetry, self.matrices, self.permutations, matrices)
        self.permutations = symmetry.compose(self.permutations, symmetry.identity() | dict(order))
        compose_signs(self.signs, self.permutations, signs)
        touched = {a.tensor for name in order for a in self.matcher.uses[name]}
        tensors = mixed({n: self.current[n] for n in touched}, symmetry, of_rotations(symmetry, matrices))
        moved = symmetry.move(tensors, symmetry.identity() | dict(order), lead=1)
        self.current |= flip_features(symmetry, moved, signs, self.matcher.signed)
        for key in [k for k in self.grams if k[1].tensor in touched]:
            del self.grams[key]


def _some(tensor: Tensor, features: Tensor | None) -> Tensor:
    return tensor if features is None else tensor.index_select(0, features)


def _rows(tensor: Tensor, axis: Axis, place: Tensor) -> Float[Tensor, "units values"]:
    """What belongs to each unit on an axis of (features, *shape), as a row."""
    moved = tensor.movedim(axis.axis + 1, 0)
    if axis.index is not None:
        moved = moved.index_select(0, place.flatten())
    return moved.reshape(len(place), -1)

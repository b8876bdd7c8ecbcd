"""The matcher: permutations of one network that maximise its inner product with a reference.

Coordinate descent over groups of units, each step an exact linear assignment (Git Re-Basin, Ainsworth et al. 2023,
arXiv 2209.04836, algorithm 1), made fast without changing its result: what does not depend on other groups is computed
once, a group is solved again only after a neighbour has moved, and a gain matrix is updated only where a neighbour's
units changed places.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.nested_groups import NestedGroups
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
    """

    permutations: dict[str, Tensor]
    value: float
    converged: bool
    steps: int


class Matcher:
    """Matches networks to one reference.

    Args:
        symmetry: Symmetry of reference and networks.
        reference: Features of the reference (features, D), see `weightspace.align.costs`. Inner products are taken
            feature by feature and added. Its dtype and device are those of the computation; assignments are solved on
            the CPU, where the permutations are, too.
    """

    def __init__(self, symmetry: Symmetry, reference: Float[Tensor, "features d"]) -> None:
        self.symmetry = symmetry
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
        self.nested = {
            root.name: NestedGroups(symmetry, root, self.reference) for root in roots if root.name in together
        }
        self.roots = roots
        self.members = members

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
        return Matched(state.permutations, value, not dirty, steps)

    def _axes(self, root: str) -> list[Axis]:
        return [axis for name in self.members[root] for axis in self.uses[name]]


def _below(symmetry: Symmetry, name: str) -> list[str]:
    return [n for child in symmetry.children(name) for n in (child.name, *_below(symmetry, child.name))]


def _twice(axes: list[Axis]) -> bool:
    """True if a group acts on two axes of one tensor: its gain is then quadratic in the permutation."""
    return len({(a.tensor, a.axis) for a in axes}) > len({a.tensor for a in axes})


class _State:
    """One network while it is matched: its tensors as permuted so far, and the gain matrices."""

    def __init__(self, matcher: Matcher, current: dict[str, Tensor]) -> None:
        self.matcher = matcher
        self.current = current
        self.permutations = matcher.symmetry.identity()
        self.grams: dict[tuple[str, Axis], Tensor] = {}

    def improve(self, root: Group, settled: set[str] | None) -> bool:
        """Give one group its best permutation while the others stay; False if that is the present one."""
        if root.name in self.matcher.nested:
            order = self.matcher.nested[root.name].improve(self.current, settled)
            if order is None:
                return False
            self._apply(order)
            return True
        gain = torch.zeros(root.size, root.size, dtype=self.matcher.dtype, device=self.matcher.device)
        for axis in self.matcher.uses[root.name]:
            if settled is None or axis.tensor in settled:
                gain += self._gram(root, axis)
        gain = gain.cpu()
        best = assign(gain)
        before, after = gain.diagonal().sum(), gain.gather(1, best[:, None]).sum()
        tolerance = _ROUNDING * torch.finfo(gain.dtype).eps
        if torch.equal(best, torch.arange(root.size)) or after - before <= tolerance * gain.abs().amax(1).sum():
            return False
        self._move(root, best)
        return True

    def _gram(self, group: Group, axis: Axis) -> Float[Tensor, "units units"]:
        key = (group.name, axis)
        if key not in self.grams:
            place = self.matcher.places[key]
            a, b = (_rows(t[axis.tensor], axis, place) for t in (self.matcher.reference, self.current))
            self.grams[key] = a @ b.T
        return self.grams[key]

    def _move(self, group: Group, best: Tensor) -> None:
        """Permute a plain group; bring its own gain matrices and its neighbours' up to date."""
        matcher = self.matcher
        changed = (best != torch.arange(group.size)).nonzero()[:, 0].to(matcher.device)
        self.permutations[group.name] = self.permutations[group.name][best]
        best = best.to(matcher.device)
        for axis in matcher.uses[group.name]:
            place = matcher.places[group.name, axis]
            old = self.current[axis.tensor]
            dim = axis.axis + 1
            order = torch.arange(old.shape[dim], device=matcher.device)
            order[place.flatten()] = place[best].flatten()
            new = old.index_select(dim, order)
            self.current[axis.tensor] = new
            if (group.name, axis) in self.grams:
                self.grams[group.name, axis] = self.grams[group.name, axis].index_select(1, best)
            where = place[changed].flatten()
            for key in [k for k in self.grams if k[1].tensor == axis.tensor and k[1].axis != axis.axis]:
                if len(where) > _MOST * new.shape[dim]:
                    del self.grams[key]
                    continue
                # Only these columns changed: add what came and take away what went.
                rows = matcher.places[key]
                a = _rows(matcher.reference[axis.tensor].index_select(dim, where), key[1], rows)
                difference = new.index_select(dim, where) - old.index_select(dim, where)
                self.grams[key] = self.grams[key].addmm(a, _rows(difference, key[1], rows).T)

    def _apply(self, order: Mapping[str, Tensor]) -> None:
        """Permute groups that hold each other."""
        symmetry = self.matcher.symmetry
        self.permutations = symmetry.compose(self.permutations, symmetry.identity() | dict(order))
        touched = {a.tensor for name in order for a in self.matcher.uses[name]}
        tensors = {name: self.current[name] for name in touched}
        self.current |= symmetry.move(tensors, symmetry.identity() | dict(order), lead=1)
        for key in [k for k in self.grams if k[1].tensor in touched]:
            del self.grams[key]


def _rows(tensor: Tensor, axis: Axis, place: Tensor) -> Float[Tensor, "units values"]:
    """What belongs to each unit on an axis of (features, *shape), as a row."""
    moved = tensor.movedim(axis.axis + 1, 0)
    if axis.index is not None:
        moved = moved.index_select(0, place.flatten())
    return moved.reshape(len(place), -1)

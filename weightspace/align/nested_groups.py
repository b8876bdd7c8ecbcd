"""Groups inside groups (heads, grouped convolutions) and groups on two axes of a tensor (recurrent layers)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.align.assign import assign
from weightspace.align.signs import compose_signs, flip_features, flips, signed_assignment
from weightspace.symmetry import Axis, Group, Symmetry

_TOLERANCE = 1e-7


class NestedGroups:
    """A root group with all groups inside it.

    The outer permutation and the inner ones are found together: for every pair of outer units the best inner
    assignment, and their values as the matrix of the outer assignment. That is exact where no tensor carries two inner
    groups on different axes. Where the gain is not linear in the permutations, a step is taken only if the inner
    product itself rises.

    Args:
        symmetry: Symmetry of reference and networks.
        root: The outermost group.
        reference: The reference's tensors (features, *shape), by name.
        signed: For each feature whether it changes sign with the weights.
    """

    def __init__(
        self, symmetry: Symmetry, root: Group, reference: Mapping[str, Tensor], signed: Sequence[bool]
    ) -> None:
        self.signed = signed
        self.symmetry, self.root, self.reference = symmetry, root, reference
        device = next(iter(reference.values())).device
        self.places = {key: place.to(device) for key, place in symmetry.places.items()}
        self.children = symmetry.children(root.name)
        self.inner = [g for g in symmetry.groups if g.parent is not None and self._root_of(g) == root.name]
        self.groups = [root, *self.inner]
        self.axes = {g.name: [a for a in g.axes if a.tensor in reference] for g in self.groups}
        on: dict[str, set[tuple[str, int]]] = {}
        for g in self.groups:
            for a in self.axes[g.name]:
                on.setdefault(a.tensor, set()).add((g.name, a.axis))
        # Tensors on which two of the groups meet on different axes, or at the same positions of one.
        self.coupled = {tensor for tensor, pairs in on.items() if len({axis for _, axis in pairs}) > 1}
        self.coupled |= {tensor for tensor, _ in symmetry.shared}

    def _root_of(self, group: Group) -> str:
        while group.parent is not None:
            group = self.symmetry.by_name[group.parent]
        return group.name

    def improve(
        self, current: dict[str, Tensor], settled: set[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """The best permutations of the groups from here, or None if the present ones cannot be improved.

        Args:
            current: The network's tensors (features, *shape) as permuted so far.
            settled: Names of the tensors that count; None counts all.

        Returns:
            The permutations, and the signs of an odd root's units in their new places.
        """
        used = {t for t in self._tensors() if settled is None or t in settled}
        state = {t: current[t] for t in self._tensors()}
        total = {g.name: self.symmetry.identity()[g.name] for g in self.groups}
        improved, own = False, {}
        for _ in range(20):
            before = self._value(state, used)
            progress = False
            for step in (self._together, *(self._inside(g) for g in self.inner)):
                order, signs = step(state, used)
                moved = self.symmetry.move(state, self.symmetry.identity() | order, lead=1)
                moved = flip_features(self.symmetry, moved, signs, self.signed)
                after = self._value(moved, used)
                if after - before > _TOLERANCE * max(abs(before), abs(after)):
                    whole = self.symmetry.identity()
                    composed = self.symmetry.compose(whole | total, whole | order)
                    total = {g.name: composed[g.name] for g in self.groups}
                    compose_signs(own, total, signs)
                    state, before, progress, improved = moved, after, True, True
            if not progress:
                break
        return (total, {name: sign[total[name]] for name, sign in own.items()}) if improved else None

    def _tensors(self) -> set[str]:
        return {a.tensor for axes in self.axes.values() for a in axes}

    def _value(self, state: Mapping[str, Tensor], used: set[str]) -> float:
        return sum(float((self.reference[t] * state[t]).sum(dtype=torch.float64)) for t in used)

    def _together(self, state: Mapping[str, Tensor], used: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outer permutation, with the inner ones that suit it."""
        if self.root.odd:
            return self._with_signs(state, used)
        grams: dict[str, Tensor] = {}
        for group in (self.root, *self.children):
            for axis in self.axes[group.name]:
                if axis.tensor in used and (group is self.root or axis.tensor not in self.coupled):
                    gram = self._gram(group, axis, state)
                    grams[group.name] = grams[group.name] + gram if group.name in grams else gram
        return outer_and_inner(self.symmetry, self.root, grams), {}

    def _with_signs(self, state: Mapping[str, Tensor], used: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The permutation and the signs of a root that holds no groups."""
        signed = torch.tensor(self.signed)
        size, dtype = (self.root.size, self.root.size), next(iter(state.values())).dtype
        gain, flipping = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)
        for axis in self.axes[self.root.name]:
            if axis.tensor in used:
                for chosen, total in ((signed, flipping), (~signed, gain)):
                    total = total if flips(self.root, axis) else gain
                    total += self._gram(self.root, axis, state, chosen).cpu()
        best, sign, _ = signed_assignment(gain, flipping)
        return {self.root.name: best}, {self.root.name: sign}

    def _inside(self, group: Group) -> "_Step":
        """A step that permutes one inner group while everything above it stays."""

        def step(state: Mapping[str, Tensor], used: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            gain: Tensor | float = 0.0
            for axis in self.axes[group.name]:
                if axis.tensor not in used:
                    continue
                a, b = (self._blocks(group, axis, t[axis.tensor]) for t in (self.reference, state))
                gain = gain + a @ b.transpose(1, 2)
            if not isinstance(gain, Tensor):
                return {}, {}
            return {group.name: torch.stack([assign(one) for one in gain])}, {}

        return step

    def _blocks(self, group: Group, axis: Axis, tensor: Tensor) -> Float[Tensor, "above units values"]:
        """What belongs to each unit, for each unit above it."""
        assert group.parent is not None
        above = self.symmetry.count(group.parent)
        place = self.places[group.name, axis]
        if axis.within is None:
            rows = tensor.movedim(axis.axis + 1, 0).index_select(0, place.flatten())
            return rows.reshape(above, group.size, -1)
        parts = tensor.chunk(above, axis.within + 1)
        rows = [p.movedim(axis.axis + 1, 0).index_select(0, place.flatten()).reshape(group.size, -1) for p in parts]
        return torch.stack(rows)

    def _gram(
        self, group: Group, axis: Axis, state: Mapping[str, Tensor], features: Tensor | None = None
    ) -> Float[Tensor, "units units"]:
        place = self.places[group.name, axis]
        tensors = [t[axis.tensor] for t in (self.reference, state)]
        if features is not None:
            tensors = [t[features.to(t.device)] for t in tensors]
        a, b = (t.movedim(axis.axis + 1, 0).index_select(0, place.flatten()).reshape(len(place), -1) for t in tensors)
        return a @ b.T


_Step = Callable[[Mapping[str, Tensor], set[str]], tuple[dict[str, Tensor], dict[str, Tensor]]]


def outer_and_inner(symmetry: Symmetry, root: Group, grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best outer permutation, with the inner ones that suit it, for known gains.

    Args:
        symmetry: The symmetry that the groups belong to.
        root: The outermost group.
        grams: Gains (units, units) of the root and of its children, all units of a child together. A group without
            gains adds nothing, and its units keep their order.

    Returns:
        The permutations, on the CPU.
    """
    size, grams = root.size, {name: gram.cpu() for name, gram in grams.items()}
    dtype = next((gram.dtype for gram in grams.values()), torch.float32)
    gain = grams[root.name].clone() if root.name in grams else torch.zeros(size, size, dtype=dtype)
    inner: dict[str, Tensor] = {}
    for child in symmetry.children(root.name):
        if child.name in grams:
            pairs = grams[child.name].reshape(size, child.size, size, child.size).transpose(1, 2)
            best = torch.stack([torch.stack([assign(pairs[h, k]) for k in range(size)]) for h in range(size)])
            gain += pairs.gather(3, best[..., None]).sum((2, 3))
        else:
            best = torch.arange(child.size).expand(size, size, -1)
        inner[child.name] = best
    outer = assign(gain)
    rows = torch.arange(size)
    return {root.name: outer} | {name: best[rows, outer] for name, best in inner.items()}

"""Labels: which hidden unit each index of each axis of a tensor belongs to, while a module is traced.

Every index of every axis of every parameter starts as a unit of its own. Operations that make two indices move together
unite their units; what is left at the end can be permuted. Views that split an axis (into heads, say) make parents:
units that hold other units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from weightspace.symmetry.tracing.arrays import filled, joined, repeats, widened

FIXED = "fixed"  # an axis whose order means something: batch, space, time, classes
LOST = "lost"  # an axis whose order means something for another reason: a constant varies, or labels were lost
ANY = "any"  # an axis along which nothing varies, such as one of length one: fits everything

# One axis of a tensor: FIXED, LOST, ANY, or units in an array that broadcasts over the tensor's shape (of
# length one in all other dimensions, unless a unit depends on those, as inside heads).
Label = np.ndarray | str
Tie = Literal["alike", "inversely", "no"]


@dataclass
class Labels:
    """The labels of all axes of a tensor.

    Args:
        axes: Label of each axis.
        pending: Units and parents of splits that only views have made so far: they bind once an operation treats the
            parts differently.
        constant: Whether the tensor depends on neither inputs nor parameters.
        given: Whether it depends on inputs alone, so that no permutation changes it.
        products: Axes along which the values are products of two tensors' values at the same unit, with the labels of
            both: a sum along it is an inner product.
    """

    axes: list[Label]
    pending: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    constant: bool = False
    given: bool = False
    products: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def untouched(self) -> bool:
        """True if no change of parameters changes the tensor."""
        return self.constant or self.given

    @property
    def plain(self) -> bool:
        """True if no axis has units."""
        return all(isinstance(axis, str) for axis in self.axes)


class Units:
    """All units of a module, united as operations demand, with marks that tell unlike units apart."""

    def __init__(self) -> None:
        self._to = np.zeros(0, dtype=np.int64)
        self._one_to_one = np.zeros(0, dtype=np.int64)  # as _to, but for unions of one unit with several
        self._marks = np.zeros(0, dtype=np.uint64)
        self._random = np.random.default_rng(0)
        self._used = np.zeros(0, dtype=bool)  # united, marked or split since they were made
        self.links: list[tuple[np.ndarray, np.ndarray]] = []
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []  # places, and which copy of a unit each lies in
        self._axes: dict[int, tuple[list[Label], int]] = {}  # first unit: labels of its parameter, number of the axis
        self._loosened: list[tuple[np.ndarray, np.ndarray]] = []
        self.held: set[int] = set()  # went together with an axis of inputs or outputs
        self.unscalable: set[int] = set()  # saw an operation that is not positively homogeneous
        self.unflippable: set[int] = set()  # saw an operation that is neither odd nor even
        self.ties: list[
            tuple[np.ndarray, np.ndarray, bool]
        ] = []  # mixed by the same matrix, or by its inverse transpose
        self.one_basis: list[np.ndarray] = []  # saw an operation that is not linear along them

    def new(self, *shape: int) -> np.ndarray:
        """Fresh units."""
        start, count = len(self._to), int(np.prod(shape))
        self._to = np.concatenate([self._to, np.arange(start, start + count)])
        self._one_to_one = np.concatenate([self._one_to_one, np.arange(start, start + count)])
        self._marks = np.concatenate([self._marks, np.zeros(count, dtype=np.uint64)])
        self._used = np.concatenate([self._used, np.zeros(count, dtype=bool)])
        return np.arange(start, start + count).reshape(shape)

    def all(self) -> np.ndarray:
        """All units so far."""
        return np.arange(len(self._to))

    def find(self, units: np.ndarray) -> np.ndarray:
        """The representatives of these units."""
        return _found(self._to, units)

    def find_places(self, units: np.ndarray) -> np.ndarray:
        """Representatives under unions one to one only: copies of a unit are told apart."""
        return _found(self._one_to_one, units)

    def unite(self, a: np.ndarray, b: np.ndarray, *, tie: Tie = "alike") -> None:
        """From now on these units move together, entry by entry; how they are mixed says `tie`."""
        if tie == "inversely" or (tie == "alike" and a is not b):
            self.ties.append((a, b, tie == "inversely"))
        a, b = np.broadcast_arrays(a, b)
        first, second = self.find_places(a), self.find_places(b)
        if not np.array_equal(first, second):
            pairs = np.unique(np.stack([first.ravel(), second.ravel()], 1), axis=0)
            if all(len(np.unique(side)) == len(pairs) for side in pairs.T):
                for x, y in pairs:
                    _join(self._one_to_one, int(x), int(y))
        a, b = self.find(a), self.find(b)
        for x, y in np.unique(np.stack([a[a != b], b[a != b]], 1), axis=0):
            self._used[list(_join(self._to, int(x), int(y)))] = True

    def _draw(self, count: int) -> np.ndarray:
        return self._random.integers(1, 2**63, count).astype(np.uint64)

    def mark(self, units: np.ndarray) -> np.ndarray:
        """These units differ from all others: something looks at them alone. Returns the mark."""
        mark = self._draw(1)
        self._used[units.ravel()] = True
        np.add.at(self._marks, units.ravel(), mark)
        return mark

    def tag(self, unit: int, mark: np.ndarray) -> None:
        """Give a unit a mark that others may have, too."""
        np.add.at(self._marks, np.array([unit]), mark)

    def pin(self, label: Label, dim: int, *, lost: bool = False) -> None:
        """Units along an axis differ by their position: none of them can take another's place.

        Args:
            label: Label of the axis.
            dim: The axis.
            lost: Whether that is for another reason than that they are those of inputs or outputs.
        """
        if isinstance(label, str):
            return
        if not lost:
            self.held.update(np.unique(label).tolist())
        marks = self._draw(label.shape[dim])
        self._used[label.ravel()] = True
        shape = [1] * label.ndim
        shape[dim] = label.shape[dim]
        np.add.at(self._marks, label, np.broadcast_to(marks.reshape(shape), label.shape))

    def marks(self) -> np.ndarray:
        """Marks of the representatives: those of all their units together."""
        roots = self.find(np.arange(len(self._to)))
        total = np.zeros(len(roots), dtype=np.uint64)
        np.add.at(total, roots, self._marks)
        return total

    def marks_of_places(self) -> np.ndarray:
        """Marks of the representatives under unions one to one."""
        roots = self.find_places(np.arange(len(self._to)))
        total = np.zeros(len(roots), dtype=np.uint64)
        np.add.at(total, roots, self._marks)
        return total

    def bind(self, *tensors: Labels) -> None:
        """An operation is about to treat parts of a split differently: the split binds."""
        for tensor in tensors:
            self.links += tensor.pending
            tensor.pending = []

    def spoil(self, *labels: Label) -> None:
        """These units have one basis only."""
        self.one_basis += [label for label in labels if not isinstance(label, str)]

    def combine(self, labels: Sequence[Label], dims: Sequence[int], *, tie: Tie = "alike") -> Label:
        """Axes that go together index by index; `dims` says where each label's own axis is in its array.

        Args:
            labels: Labels of the axes.
            dims: Where each label's own axis is in its array.
            tie: How their units are mixed: "inversely" if values of two tensors are multiplied and summed along the
                axis, "no" if that is not known yet.
        """
        if tie == "inversely" and any(isinstance(label, str) for label in labels):
            self.spoil(*labels)
        units = [(label, dim) for label, dim in zip(labels, dims, strict=True) if not isinstance(label, str)]
        if not units:
            return _fixed(labels)
        if _fixed(labels) != ANY:
            self.pin(*units[0], lost=_fixed(labels) == LOST)
        first = units[0][0]
        for label, _ in units[1:]:
            self.unite(first, label, tie=tie)
        return first

    def without(self, label: Label, dim: int) -> Label:
        """A label of one axis after another one, `dim`, was summed over or cut to one index."""
        if isinstance(label, str):
            return label
        kept = label.take([0], axis=dim)
        if label.shape[dim] > 1:
            self.unite(label, kept)
        return kept.squeeze(dim)

    def split(
        self, label: Label, dim: int, sizes: Sequence[int]
    ) -> tuple[list[Label], list[tuple[np.ndarray, np.ndarray]]]:
        """Split one axis into several, from the outermost to the innermost; arrays gain dimensions.

        Returns:
            The labels of the new axes, and the links that this makes.
        """
        links: list[tuple[np.ndarray, np.ndarray]] = []
        outer_labels: list[Label] = []
        rest = label
        for k in range(len(sizes) - 1):
            inner = int(np.prod(sizes[k + 1 :]))
            outer, rest = self._split_in_two(rest, dim + k, sizes[k], inner, links)
            outer_labels.append(outer)
        return [widened(one, dim, len(sizes), k) for k, one in enumerate([*outer_labels, rest])], links

    def _split_in_two(
        self, label: Label, dim: int, n1: int, n2: int, links: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Label, Label]:
        if isinstance(label, str):
            return (ANY if n1 == 1 else label), (ANY if n2 == 1 else label)
        whole = label.reshape(*label.shape[:dim], n1, n2, *label.shape[dim + 1 :])
        if n1 == 1:
            return ANY, whole
        if n2 == 1:
            return whole.squeeze(dim + 1), ANY
        roots = self.find(whole)
        places = self.find_places(whole)
        copies = (places != places.take([0], axis=dim)).any()
        if (roots == roots.take([0], axis=dim)).all() and not copies:
            return FIXED, whole.take([0], axis=dim)
        self._used[whole.ravel()] = True
        if (roots == roots.take([0], axis=dim + 1)).all():
            return whole.take(0, axis=dim + 1), FIXED
        for other in range(whole.ndim):  # what does not vary along another axis does not depend on it
            if other not in (dim, dim + 1) and (roots == roots.take([0], axis=other)).all():
                whole, roots = whole.take([0], axis=other), roots.take([0], axis=other)
        blocks = np.moveaxis(roots, dim + 1, -1).reshape(-1, n2)
        distinct, which = np.unique(blocks, axis=0, return_inverse=True)
        if len(distinct) < len(blocks) and copies:
            roots = self.find_places(whole)
            blocks = np.moveaxis(roots, dim + 1, -1).reshape(-1, n2)
            distinct, which = np.unique(blocks, axis=0, return_inverse=True)
        if sum(len(np.unique(block)) for block in distinct) == len(np.unique(roots)):
            shape = [size for k, size in enumerate(whole.shape) if k != dim + 1]
            outer = self.new(len(distinct))[which.ravel()].reshape(shape)
            links.append((whole.ravel(), np.broadcast_to(np.expand_dims(outer, dim + 1), whole.shape).ravel()))
            return outer, whole
        # The blocks share units: they stay where they are, and their units in them.
        for block in np.moveaxis(whole, dim, 0):
            self.mark(block)
        return LOST, whole

    def merge(self, labels: Sequence[Label], dims: Sequence[int], shape: Sequence[int]) -> Label:
        """The label of consecutive axes `dims` of a tensor of this shape flattened into one."""
        labelled = [(k, label) for k, label in zip(dims, labels, strict=True) if not isinstance(label, str)]
        if not labelled:
            return _fixed(labels)
        outer, inner = labelled[0], labelled[-1]
        if len(labelled) == 1 and dims[-1] != outer[0] and _fixed(labels) == ANY:
            return self._repeated(outer[1], dims, shape)
        # The innermost units: those that depend on all the other axes that have units.
        for k, label in labelled:
            if all(other == k or label.shape[other] > 1 or shape[other] == 1 for other, _ in labelled):
                whole = filled(label, dims, shape)
                if len(labelled) == len(dims) == 2 and k == inner[0] and repeats(whole, dims):
                    whole = self._in_copies(whole, outer[1], dims, shape)
                return joined(whole, dims)
        if len(labelled) == 2:
            loose = self.loosen(inner[1], outer[1]) if len(dims) == 2 else None
            if loose is None:
                return joined(self._in_copies(filled(inner[1], dims, shape), outer[1], dims, shape), dims)
            full = [size if k in dims else 1 for k, size in enumerate(shape)]
            return joined(loose.reshape(full), dims)
        for k, label in labelled:
            self.pin(label, k, lost=True)
        return LOST

    def _repeated(self, label: np.ndarray, dims: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Each unit several times in a row, along axes on which nothing varies: copies, inside the unit."""
        whole = filled(label, dims, shape)
        copies = self.new(*whole.shape)
        self.links.append((copies.ravel(), whole.ravel()))
        return joined(copies, dims)

    def _in_copies(
        self, units: np.ndarray, copies: np.ndarray, dims: Sequence[int], shape: Sequence[int]
    ) -> np.ndarray:
        """Places of units that occur once in each of several copies: they move with the units and with the copies."""
        places = self.new(*units.shape)
        self.unite(places, units)
        self.copies.append((places.ravel(), np.broadcast_to(filled(copies, dims, shape), units.shape).ravel()))
        return places

    def own(self, axes: list[Label]) -> None:
        """Know the labels of a parameter, which no operation has used yet."""
        for k, label in enumerate(axes):
            if not isinstance(label, str):
                self._axes[int(label.flat[0])] = axes, k

    def loosen(self, inner: Label, outer: Label) -> np.ndarray | None:
        """Let the units of one axis of a parameter take another order for each unit of another axis of it.

        Weights (heads, inputs, units) are read by products that keep heads apart. So units that no operation has used
        yet need not have one order in all heads.

        Returns:
            The units (outer, inner); None if they have been used, or are not two whole axes of one parameter.
        """
        whole = self._whole(inner), self._whole(outer)
        if whole[0] is None or whole[1] is None or whole[0][0] is not whole[1][0] or inner is outer:
            return None
        assert not isinstance(inner, str)
        assert not isinstance(outer, str)
        if self._used[inner.ravel()].any():
            return None
        axes, k = whole[0]
        units = self.new(outer.size, inner.size)
        self.links.append((units.ravel(), np.repeat(outer.ravel(), inner.size)))
        shape = [1] * len(axes)
        shape[whole[1][1]], shape[k] = units.shape
        axes[k] = (units if whole[1][1] < k else units.T).reshape(shape)
        self._loosened.append((inner.ravel(), units))
        self.ties.append((units, inner.ravel()[None, :], False))
        return units

    def follow(self, tensors: Sequence[list[Label]]) -> None:
        """Loosen the axes of parameters that are about to meet units of which each head has its own order.

        Args:
            tensors: For each operand the labels of the axes of the result, all in the result's dimensions; where an
                operand has no axis, any text. The lists are changed.
        """
        for k, labels in enumerate(zip(*tensors, strict=True)):
            for label in labels:
                if isinstance(label, str) or label.size == label.shape[k]:
                    continue
                roots = self.find(label)
                deep = [d for d in range(label.ndim) if d != k and (roots != roots.take([0], axis=d)).any()]
                for other in tensors if len(deep) == 1 else []:
                    d = deep[0]
                    inner, outer = other[k], other[d]
                    if isinstance(inner, str) or isinstance(outer, str) or inner.size != label.shape[k]:
                        continue
                    loose = self.loosen(inner, outer)
                    if loose is not None:
                        shape = [1] * label.ndim
                        shape[d], shape[k] = loose.shape
                        other[k] = (loose if d < k else loose.T).reshape(shape)

    def _whole(self, label: Label) -> tuple[list[Label], int] | None:
        """The parameter and the axis that a label is all of."""
        if isinstance(label, str) or label.size != max(label.shape):
            return None
        found = self._axes.get(int(label.flat[0]))
        if found is None:
            return None
        own = found[0][found[1]]
        return found if not isinstance(own, str) and np.array_equal(own.ravel(), label.ravel()) else None

    def tighten(self) -> None:
        """Give one order in all heads to units that an operation has used as such after all."""
        for before, units in self._loosened:
            if self._used[before].any():
                self.unite(units, before[None, :])
            for marked in (self.unscalable, self.unflippable):
                if not marked.isdisjoint(before.tolist()):
                    marked.update(units.ravel().tolist())


def _fixed(labels: Sequence[Label]) -> str:
    """What the texts among some labels say about an axis that all of them share."""
    texts = [label for label in labels if isinstance(label, str)]
    return FIXED if FIXED in texts else LOST if LOST in texts else ANY


def _found(to: np.ndarray, units: np.ndarray) -> np.ndarray:
    while True:
        up = to[units]
        if np.array_equal(up, units):
            return up
        to[units] = to[up]
        units = up


def _join(to: np.ndarray, x: int, y: int) -> tuple[int, int]:
    """Unite two units; their representatives until now."""
    x, y = _root(to, x), _root(to, y)
    to[max(x, y)] = min(x, y)
    return x, y


def _root(to: np.ndarray, unit: int) -> int:
    while to[unit] != unit:
        unit = int(to[unit])
    return unit

"""Rules for operators that choose rows by tensors of indices: look-ups, sums into rows, as of nodes of a graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from weightspace.symmetry.tracing import views
from weightspace.symmetry.tracing.labels import ANY, FIXED, Label, Labels, Units
from weightspace.symmetry.tracing.rules import Traced, Untraceable, aten, elementwise, placed, rule, signed
from weightspace.symmetry.tracing.shape_rules import RULES as RULES  # complete once this file is imported


@rule(aten.index_select)
def index_select(units: Units, x: Traced, dim: int, index: Traced) -> Labels:
    """Chosen indices of one axis."""
    dim %= len(x.shape)
    if not index.labels.constant and index.labels.plain and _apart(x, dim):
        axes = list(x.labels.axes)
        axes[dim] = FIXED
        return Labels(axes, list(x.labels.pending))
    return views.take(units, x.labels, dim, _constant(index))


@rule(aten.index)
def index(units: Units, x: Traced, indices: Sequence[Traced | None]) -> Labels:
    """Axes indexed by tensors: one by constants or a mask; any by what is no unit, as rows of the inputs."""
    used = [k for k, i in enumerate(indices) if i is not None]
    chosen = [i for i in indices if i is not None]
    if len(used) > 1 or any(not i.labels.constant for i in chosen):
        return _rows(units, x, indices)
    k = used[0]
    constant = _constant(chosen[0])
    if constant.dtype == bool:
        if constant.ndim > 1:
            return _rows(units, x, indices)
        constant = constant.nonzero()[0]
    taken = views.take(units, x.labels, k, constant.ravel())
    flat = [*x.shape[:k], constant.size, *x.shape[k + 1 :]]
    return views.reshape(units, taken, flat, [*x.shape[:k], *constant.shape, *x.shape[k + 1 :]])


def _rows(units: Units, x: Traced, indices: Sequence[Traced | None]) -> Labels:
    """Axes without units indexed by tensors without units; units of other axes stay as they are.

    Args:
        units: The units.
        x: The tensor that is indexed.
        indices: For each of its axes, or for as many as a mask has, the indices.
    """
    gone = _indexed(indices)
    chosen = [i for i in indices if i is not None]
    if not all(i.labels.plain or i.labels.constant for i in chosen):
        raise Untraceable("an index computed from units")
    shapes = [(int(i.tensor.count_nonzero()),) if _is_mask(i) else i.shape for i in chosen]
    together = gone == list(range(gone[0], gone[-1] + 1))
    for k in gone:
        if not _apart(x, k):
            if all(isinstance(a, str) or d == k or a.shape[k] == 1 for d, a in enumerate(x.labels.axes)):
                units.pin(x.axis(k), k, lost=True)  # which index means which unit cannot be said
            else:
                raise Untraceable("an index into units that others lie in")
    shape = np.broadcast_shapes(*shapes)
    at = gone[0] if together else 0
    rest = [k for k in range(len(x.shape)) if k not in gone]
    made = [FIXED] * len(shape)
    rank = len(rest) + len(shape)

    def moved(label: Label) -> Label:
        if isinstance(label, str):
            return label
        kept = label.squeeze(tuple(gone))
        where = [k for k in range(rank) if not at <= k < at + len(shape)]
        full = [1] * rank
        for k, size in zip(where, kept.shape, strict=True):
            full[k] = size
        return kept.reshape(full)

    others = [moved(x.labels.axes[k]) for k in rest]
    return Labels([*others[:at], *made, *others[at:]])


@rule(aten.index_put, aten.index_put_)
def index_put(
    units: Units, x: Traced, indices: Sequence[Traced | None], source: Traced, *rest: Any, **options: Any
) -> Labels:
    """Values put into chosen rows: their units go with those of the rows."""
    rows = _rows(units, x, indices)
    gone = _indexed(indices)
    sizes = [(int(i.tensor.count_nonzero()),) if _is_mask(i) else i.shape for i in indices if i is not None]
    shape = np.broadcast_shapes(*sizes)
    at = gone[0] if gone == list(range(gone[0], gone[-1] + 1)) else 0
    rest_sizes = [size for k, size in enumerate(x.shape) if k not in gone]
    whole = (*rest_sizes[:at], *shape, *rest_sizes[at:])
    made = elementwise(units, Traced(x.tensor, whole, rows, False), source).axes
    kept = made[:at] + made[at + len(shape) :]
    axes: list[Label] = [FIXED] * len(x.shape)
    places = [k for k in range(len(x.shape)) if k not in gone]
    for k, label in zip(places, kept, strict=True):
        if not isinstance(label, str) and label.size != max(label.shape):
            raise Untraceable("values put into units that others lie in")
        full = [1] * len(x.shape)
        full[k] = -1
        axes[k] = label if isinstance(label, str) else label.reshape(full)
    return Labels(axes)


def _is_mask(index: Traced) -> bool:
    return index.tensor.dtype in (torch.bool, torch.uint8)


def _indexed(indices: Sequence[Traced | None]) -> list[int]:
    """The axes that are indexed: a mask takes as many as it has."""
    gone: list[int] = []
    axis = 0
    for i in indices:
        count = len(i.shape) if i is not None and _is_mask(i) else 1
        if i is not None:
            gone += range(axis, axis + count)
        axis += count
    return gone


@rule(aten.index_add, aten.index_add_)
def index_add(units: Units, x: Traced, dim: int, index: Traced, source: Traced, **options: Any) -> Labels:
    """Rows added to chosen rows, as of nodes of a graph."""
    dim %= len(x.shape)
    return _into(units, x, dim, index, source)


@rule(aten.index_copy, aten.index_copy_, aten.index_reduce, aten.index_reduce_)
def index_copy(
    units: Units, x: Traced, dim: int, index: Traced, source: Traced, reduce: str = "copy", **options: Any
) -> Labels:
    """Rows in the place of chosen rows, or reduced into them."""
    if reduce not in ("copy", "mean"):
        signed(units, source)
        signed(units, x)
    return _into(units, x, dim % len(x.shape), index, source)


@rule(aten.scatter_add, aten.scatter_add_)
def scatter_add(units: Units, x: Traced, dim: int, index: Traced, source: Traced) -> Labels:
    """Values added to chosen rows, by an index for each value that is the same for all units."""
    return _scattered(units, x, dim % len(x.shape), index, source)


@rule(aten.scatter_reduce, aten.scatter_reduce_)
def scatter_reduce(
    units: Units, x: Traced, dim: int, index: Traced, source: Traced, reduce: str, **options: Any
) -> Labels:
    """Values reduced into chosen rows."""
    if reduce not in ("sum", "mean"):
        signed(units, source)
        signed(units, x)
    return _scattered(units, x, dim % len(x.shape), index, source)


@rule(aten.scatter, aten.scatter_)
def scatter(units: Units, x: Traced, dim: int, index: Traced, source: Any, **options: Any) -> Labels:
    """Values in the place of others."""
    if options.get("reduce") is not None:
        raise Untraceable("a scatter that reduces")
    return _scattered(units, x, dim % len(x.shape), index, source)


@rule(aten.gather)
def gather(units: Units, x: Traced, dim: int, index: Traced, **options: Any) -> Labels:
    """Chosen values along an axis, by an index for each that is the same for all units."""
    dim %= len(x.shape)
    if not _apart(x, dim):
        raise Untraceable("a choice among units")
    _same_for_units(index, x, dim)
    axes = [FIXED if k == dim else label for k, label in enumerate(x.labels.axes)]
    return Labels(axes, list(x.labels.pending))


def _into(units: Units, x: Traced, dim: int, index: Traced, source: Traced) -> Labels:
    if not (index.labels.plain and _apart(x, dim) and _apart(source, dim)):
        raise Untraceable("a sum into units chosen by an index")
    one = [Traced(t.tensor, (*t.shape[:dim], 1, *t.shape[dim + 1 :]), t.labels, False) for t in (x, source)]
    summed = elementwise(units, *one)
    summed.axes[dim] = FIXED
    return summed


def _scattered(units: Units, x: Traced, dim: int, index: Traced, source: Any) -> Labels:
    if not isinstance(source, Traced):  # a number
        _same_for_units(index, x, dim)
        if not _apart(x, dim):
            raise Untraceable("a value put into a unit chosen by an index")
        return Labels(list(x.labels.axes), list(x.labels.pending))
    _same_for_units(index, source, dim)
    return _into(units, x, dim, Traced(index.tensor, index.shape, Labels([ANY]), False), source)


def _same_for_units(index: Traced, x: Traced, dim: int) -> None:
    """Refuse indices that are others for some units than for the rest."""
    for k, label in enumerate(x.labels.axes):
        if k != dim and not isinstance(label, str) and index.labels.axes[k] != ANY:
            raise Untraceable("an index of its own for each unit")
        if k != dim and not isinstance(label, str) and index.shape[k] != x.shape[k]:
            raise Untraceable("an index for some of the units alone")
    if not index.labels.plain:
        raise Untraceable("an index computed from units")


def _apart(x: Traced, dim: int) -> bool:
    """Whether an axis has no units, and no other axis depends on it."""
    return isinstance(x.axis(dim), str) and all(isinstance(a, str) or a.shape[dim] == 1 for a in x.labels.axes)


def _constant(index: Traced) -> np.ndarray:
    if not index.labels.constant:
        raise Untraceable("an index computed from inputs or parameters")
    return index.tensor.numpy()


@rule(aten.embedding)
def embedding(units: Units, weight: Traced, index: Traced, *rest: Any, **options: Any) -> Labels:
    """Rows of the table are fixed, they belong to the vocabulary; its columns go on."""
    units.pin(weight.axis(0), 0)
    last = weight.axis(1)
    rank = len(index.shape) + 1
    return Labels([*index.labels.axes, placed(last, 1, rank - 1, rank)])


@rule(aten._pack_padded_sequence)
def pack(units: Units, x: Traced, lengths: Traced, batch_first: bool) -> list[Labels]:
    """Steps of all sequences in one axis, and how many sequences each step has."""
    if not (_apart(x, 0) and _apart(x, 1)):
        raise Untraceable("packing of units")
    rest = [a if isinstance(a, str) else a.squeeze(0) for a in x.labels.axes[2:]]
    return [Labels([FIXED, *rest]), Labels([FIXED], given=lengths.labels.untouched)]


@rule(aten._pad_packed_sequence)
def unpack(units: Units, x: Traced, sizes: Traced, batch_first: bool, value: Any, length: int) -> list[Labels]:
    """The steps of each sequence, with padding."""
    if not _apart(x, 0):
        raise Untraceable("padding of units")
    rest = [a if isinstance(a, str) else np.expand_dims(a, 0) for a in x.labels.axes[1:]]
    return [Labels([FIXED, FIXED, *rest]), Labels([FIXED])]

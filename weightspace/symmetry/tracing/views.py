"""How views move the labels of a tensor's axes: reshaping, reordering, cutting and joining."""

from collections.abc import Sequence

import numpy as np

from weightspace.symmetry.tracing.labels import ANY, FIXED, LOST, Label, Labels, Units


def reshape(units: Units, labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """The labels of a tensor of shape `old` seen in shape `new`."""
    axes, shape, pending = list(labels.axes), list(old), list(labels.pending)
    links, copies = len(units.links), len(units.copies)
    axes, shape = _drop_ones(axes, shape)
    target = [size for size in new if size != 1]
    if int(np.prod(shape)) == 0 or not target:
        return Labels([ANY if size == 1 else FIXED for size in new])
    k = 0
    while k < len(target):
        if k < len(shape) and shape[k] == target[k]:
            k += 1
        elif shape[k] > target[k] and shape[k] % target[k] == 0:
            axes, shape = _split(units, axes, shape, k, target[k], pending)
            k += 1
        elif shape[k] < target[k]:
            # Join axes until they reach the target; split the last one if it goes beyond.
            joined, last = shape[k], k
            while joined < target[k]:
                last += 1
                if (joined * shape[last]) > target[k] and target[k] % joined == 0:
                    axes, shape = _split(units, axes, shape, last, target[k] // joined, pending)
                joined *= shape[last]
            if joined != target[k]:
                return _give_up(units, labels, new)
            axes, shape = _merge(units, axes, shape, k, last)
            k += 1
        else:
            return _give_up(units, labels, new)
    # Splits that have been joined again without a use bind nothing.
    seen = {int(u) for axis in axes if not isinstance(axis, str) for u in np.unique(units.find(axis))}
    for _, outer in units.links[links:] + units.copies[copies:]:  # what holds the units that have just been made
        seen.update(np.unique(units.find(outer)).tolist())
    if pending and units.links:  # copies are seen in place of what they are copies of
        for inner, outer in units.links:
            if not seen.isdisjoint(np.unique(units.find(inner)).tolist()):
                seen.update(np.unique(units.find(outer)).tolist())
    still = [link for link in pending if not seen.isdisjoint(np.unique(units.find(link[1])).tolist())]
    return Labels(_add_ones(axes, new), still)


def _give_up(units: Units, labels: Labels, new: Sequence[int]) -> Labels:
    units.bind(labels)
    for dim, label in enumerate(labels.axes):
        units.pin(label, dim, lost=True)
    return Labels([ANY if size == 1 else LOST for size in new])


def _drop_ones(axes: list[Label], shape: list[int]) -> tuple[list[Label], list[int]]:
    ones = [k for k, size in enumerate(shape) if size == 1]
    kept = [
        label if isinstance(label, str) else label.squeeze(tuple(ones))
        for label, size in zip(axes, shape, strict=True)
        if size != 1
    ]
    return kept, [size for size in shape if size != 1]


def _add_ones(axes: list[Label], new: Sequence[int]) -> list[Label]:
    ones = tuple(k for k, size in enumerate(new) if size == 1)
    rest = iter([label if isinstance(label, str) else np.expand_dims(label, ones) for label in axes])
    return [ANY if size == 1 else next(rest) for size in new]


def _split(
    units: Units, axes: list[Label], shape: list[int], k: int, outer: int, pending: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[Label], list[int]]:
    sizes = (outer, shape[k] // outer)
    parts, links = units.split(axes[k], k, sizes)
    pending += links

    def refit(label: Label) -> Label:
        if isinstance(label, str):
            return label
        cut = sizes if label.shape[k] > 1 else (1, 1)
        return label.reshape(*label.shape[:k], *cut, *label.shape[k + 1 :])

    return (
        [*(refit(a) for a in axes[:k]), *parts, *(refit(a) for a in axes[k + 1 :])],
        [*shape[:k], *sizes, *shape[k + 1 :]],
    )


def _merge(units: Units, axes: list[Label], shape: list[int], first: int, last: int) -> tuple[list[Label], list[int]]:
    dims = list(range(first, last + 1))
    merged = units.merge(axes[first : last + 1], dims, shape)

    def refit(label: Label) -> Label:
        if isinstance(label, str):
            return label
        full = list(label.shape)
        if any(full[d] > 1 for d in dims):
            for d in dims:
                full[d] = shape[d]
            label = np.broadcast_to(label, full)
        return label.reshape(*full[:first], int(np.prod([full[d] for d in dims])), *full[last + 1 :])

    return (
        [*(refit(a) for a in axes[:first]), merged, *(refit(a) for a in axes[last + 1 :])],
        [*shape[:first], int(np.prod(shape[first : last + 1])), *shape[last + 1 :]],
    )


def permute(labels: Labels, order: Sequence[int]) -> Labels:
    """The labels of a tensor whose axes take another order."""
    rank = len(labels.axes)
    order = [k % rank for k in order]
    axes = [labels.axes[k] for k in order]
    return Labels([a if isinstance(a, str) else a.transpose(order) for a in axes], list(labels.pending))


def expand(labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """Repeat axes of length one; new axes come in front."""
    extra = len(new) - len(old)
    axes: list[Label] = [ANY] * extra
    for label in labels.axes:
        axes.append(label if isinstance(label, str) else label.reshape((1,) * extra + label.shape))
    return Labels(axes, list(labels.pending))


def take(units: Units, labels: Labels, dim: int, index: np.ndarray) -> Labels:
    """Chosen indices of one axis, in order; what is cut out differs from what is not."""
    axes: list[Label] = []
    for k, label in enumerate(labels.axes):
        if isinstance(label, str):
            axes.append(ANY if k == dim and len(index) == 1 else label)
        else:
            cut = label.take(index, axis=dim) if label.shape[dim] > 1 else label
            if label.shape[dim] > 1 and not np.array_equal(index, np.arange(label.shape[dim])):
                units.mark(cut)
            axes.append(cut)
    return Labels(axes, list(labels.pending))


def remove(units: Units, labels: Labels, dim: int) -> Labels:
    """Without one axis, which was summed over or cut to one index."""
    axes = [units.without(label, dim) for k, label in enumerate(labels.axes) if k != dim]
    return Labels(axes, list(labels.pending))


def cat(units: Units, tensors: Sequence[Labels], shapes: Sequence[Sequence[int]], dim: int) -> Labels:
    """Join tensors along an axis."""
    rank = len(shapes[0])
    axes: list[Label] = []
    for k in range(rank):
        labels = [t.axes[k] for t in tensors]
        roots = [units.find(a) for a in labels if not isinstance(a, str)]
        # Pieces whose units differ stay apart until an operation treats them alike.
        depends = any(a.shape[dim] > 1 or a.shape != roots[0].shape or not np.array_equal(a, roots[0]) for a in roots)
        if k == dim and all(isinstance(a, str) for a in labels):
            axes.append(FIXED)
        elif k == dim or depends:
            parts: list[np.ndarray] = []
            for label, shape in zip(labels, shapes, strict=True):
                if isinstance(label, str):
                    wide = [1] * rank
                    wide[k] = shape[k]
                    label = units.new(*wide)
                    units.pin(label, k)
                full = list(label.shape)
                full[dim] = shape[dim]
                parts.append(np.broadcast_to(label, full))
            sizes = [max(p.shape[d] for p in parts) if d != dim else -1 for d in range(rank)]
            joined = [np.broadcast_to(p, [p.shape[d] if d == dim else sizes[d] for d in range(rank)]) for p in parts]
            axes.append(np.concatenate(joined, dim))
        else:
            axes.append(units.combine(labels, [k] * len(labels)))
    return Labels(axes, [link for t in tensors for link in t.pending])

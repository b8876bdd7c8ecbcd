"""Rules for operators that move values without computing any: views, cuts, joins, look-ups."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from weightspace.symmetry.tracing import views
from weightspace.symmetry.tracing.labels import ANY, LOST, Labels, Units
from weightspace.symmetry.tracing.norm_rules import RULES as RULES
from weightspace.symmetry.tracing.rules import Traced, Untraceable, aten, elementwise, rule


@rule(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias)
def view(units: Units, x: Traced, shape: Sequence[int], *rest: Any) -> Labels:
    """The same values in another shape."""
    known = -int(np.prod(shape)) if -1 in shape else 0
    sizes = [int(np.prod(x.shape)) // known if size == -1 else size for size in shape]
    return views.reshape(units, x.labels, x.shape, sizes)


@rule(aten.t, aten.transpose, aten.permute, aten.numpy_T, aten.transpose_)
def permute(units: Units, x: Traced, *order: Any) -> Labels:
    """Axes in another order."""
    rank = len(x.shape)
    dims = list(range(rank))
    if len(order) == 2:
        a, b = order[0] % rank, order[1] % rank
        dims[a], dims[b] = dims[b], dims[a]
    else:
        dims = list(order[0]) if order else dims[::-1]
    return views.permute(x.labels, dims)


@rule(aten.expand)
def expand(units: Units, x: Traced, shape: Sequence[int], **options: Any) -> Labels:
    """Axes of length one repeated."""
    sizes = [x.shape[k - (len(shape) - len(x.shape))] if size == -1 else size for k, size in enumerate(shape)]
    return views.expand(x.labels, x.shape, sizes)


@rule(aten.as_strided_)
def restride(units: Units, x: Traced, size: Sequence[int], *rest: Any, **options: Any) -> Labels:
    """PyTorch's own change of memory format after pooling; anything else is not followed."""
    if tuple(size) != x.shape:
        raise Untraceable("another view of the memory")
    return Labels(list(x.labels.axes), list(x.labels.pending))


@rule(aten.slice)
def cut(
    units: Units, x: Traced, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Labels:
    """A slice of one axis."""
    dim %= len(x.shape)
    return views.take(units, x.labels, dim, np.arange(x.shape[dim])[start:end:step])


@rule(aten.select)
def select(units: Units, x: Traced, dim: int, index: int) -> Labels:
    """One index of an axis, which disappears."""
    dim %= len(x.shape)
    one = views.take(units, x.labels, dim, np.array([index % x.shape[dim]]))
    output = views.remove(units, one, dim)
    gone = x.axis(dim)
    if not isinstance(gone, str):  # one part of a split: what is inside is on its own now
        parents = set(units.find(gone).ravel().tolist())
        output.pending = [p for p in output.pending if not parents.issuperset(units.find(p[1]).ravel().tolist())]
    return output


@rule(aten.unbind)
def unbind(units: Units, x: Traced, dim: int = 0) -> list[Labels]:
    """Each index of an axis as a tensor of its own."""
    return [select(units, x, dim, k) for k in range(x.shape[dim])]


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.unsafe_chunk)
def split(units: Units, x: Traced, sizes: int | Sequence[int], dim: int = 0) -> list[Labels]:
    """Consecutive parts of an axis."""
    dim %= len(x.shape)
    whole = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
    starts = np.cumsum([0, *sizes])
    return [views.take(units, x.labels, dim, np.arange(a, b)) for a, b in pairwise(starts.tolist())]


@rule(aten.cat)
def cat(units: Units, tensors: Sequence[Traced], dim: int = 0) -> Labels:
    """Tensors one after another along an axis."""
    tensors = [t for t in tensors if 0 not in t.shape]
    return views.cat(units, [t.labels for t in tensors], [t.shape for t in tensors], dim % len(tensors[0].shape))


@rule(aten.stack)
def stack(units: Units, tensors: Sequence[Traced], dim: int = 0) -> Labels:
    """Tensors along a new axis."""
    dim %= len(tensors[0].shape) + 1
    wide = [(*t.shape[:dim], 1, *t.shape[dim:]) for t in tensors]
    labels = [views.reshape(units, t.labels, t.shape, shape) for t, shape in zip(tensors, wide, strict=True)]
    return views.cat(units, labels, wide, dim)


@rule(aten.flip)
def flip(units: Units, x: Traced, dims: Sequence[int]) -> Labels:
    """Axes in reverse order."""
    output = x.labels
    for d in dims:
        output = views.take(units, output, d % len(x.shape), np.arange(x.shape[d])[::-1])
    return output


@rule(aten.roll)
def roll(units: Units, x: Traced, shifts: Sequence[int], dims: Sequence[int] = ()) -> Labels:
    """Axes shifted in a circle."""
    if not dims:
        raise Untraceable("a roll over all axes at once")
    output = x.labels
    for shift, d in zip(shifts, dims, strict=True):
        output = views.take(units, output, d % len(x.shape), np.roll(np.arange(x.shape[d]), shift))
    return output


@rule(aten.constant_pad_nd)
def pad(units: Units, x: Traced, padding: Sequence[int], *rest: Any) -> Labels:
    """Constants around a tensor: along units they are units themselves, which nothing tells apart."""
    rank = len(x.shape)
    axes = list(x.labels.axes)
    for k in range(len(padding) // 2):
        dim, before, after = rank - 1 - k, padding[2 * k], padding[2 * k + 1]
        label = axes[dim]
        if not before and not after:
            continue
        if isinstance(label, str) or label.size != label.shape[dim] or min(before, after) < 0:
            units.pin(label, dim, lost=True)
            axes[dim] = label if isinstance(label, str) else LOST
            continue
        wide = [1] * rank
        wide[dim] = before
        new = [units.new(*(size if d != dim else count for d, size in enumerate(wide))) for count in (before, after)]
        axes[dim] = np.concatenate([new[0], label, new[1]], dim)
    return Labels(axes, list(x.labels.pending))


@rule(aten.repeat)
def repeat(units: Units, x: Traced, times: Sequence[int]) -> Labels:
    """Axes repeated as a whole."""
    output = views.expand(x.labels, x.shape, [1] * (len(times) - len(x.shape)) + list(x.shape))
    for dim, count in enumerate(times):
        if count > 1:
            size = ([1] * (len(times) - len(x.shape)) + list(x.shape))[dim]
            label = output.axes[dim]
            if isinstance(label, str):
                output.axes[dim] = label if size > 1 else ANY
            output = Labels(
                [
                    a if isinstance(a, str) or a.shape[dim] == 1 else np.concatenate([a] * count, dim)
                    for a in output.axes
                ],
                output.pending,
            )
    return output


@rule(aten.pixel_shuffle)
def pixel_shuffle(units: Units, x: Traced, factor: int) -> Labels:
    """Channels moved into space: each is split by the square of the factor."""
    *lead, c, h, w = x.shape
    n = len(lead)
    opened = views.reshape(units, x.labels, x.shape, [*lead, c // factor**2, factor, factor, h, w])
    moved = views.permute(opened, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    shape = [*lead, c // factor**2, h, factor, w, factor]
    return views.reshape(units, moved, shape, [*lead, c // factor**2, h * factor, w * factor])


@rule(aten.glu)
def glu(units: Units, x: Traced, dim: int = -1) -> Labels:
    """One half of an axis times the sigmoid of the other."""
    dim %= len(x.shape)
    half = x.shape[dim] // 2
    a, b = split(units, x, half, dim)
    shape = [half if k == dim else size for k, size in enumerate(x.shape)]
    empty = torch.empty(0)
    return elementwise(units, Traced(empty, tuple(shape), a, False), Traced(empty, tuple(shape), b, False))


@rule(aten.native_dropout)
def dropout(units: Units, x: Traced, *rest: Any) -> list[Labels]:
    """Each unit on its own; the second output is the mask."""
    return [Labels(list(x.labels.axes), list(x.labels.pending))] * 2

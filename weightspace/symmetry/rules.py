"""What each operator does to the labels of its tensors: one rule a kind of operator.

A rule gets the operator's arguments with every tensor replaced by a :class:`Traced`, unites or pins
units as the operator demands, and returns the labels of the output (of each output, where several
matter).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.symmetry import views
from weightspace.symmetry.labels import ANY, FIXED, Label, Labels, Units

aten = torch.ops.aten


@dataclass
class Traced:
    """A tensor and its labels."""

    tensor: Tensor
    labels: Labels
    parameter: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def axis(self, dim: int) -> Label:
        return self.labels.axes[dim]


Rule = Callable[..., Labels | list[Labels]]
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for some operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


# Positively homogeneous: f(s x) = s f(x) for s > 0, in each unit on its own.
@rule(aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten.clone, aten.detach, aten.alias, aten.contiguous,
      aten._to_copy, aten.dropout, aten.neg, aten.abs, aten.lift_fresh)  # fmt: skip
def same(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Each unit on its own."""
    return Labels(list(x.labels.axes), list(x.labels.pending))


@rule(aten._adaptive_avg_pool2d, aten.avg_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.avg_pool1d,
      aten._upsample_bilinear2d_aa, aten.avg_pool3d, aten._adaptive_avg_pool3d, aten.max_pool2d_with_indices,
      aten.adaptive_max_pool2d, aten.max_pool3d_with_indices, aten.reflection_pad2d, aten.replication_pad2d)  # fmt: skip
def over_space(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Each channel on its own; places in space keep their order."""
    for k in range(2, len(x.shape)):
        units.pin(x.axis(k), k)
    found = Labels([*x.labels.axes[:2], *[FIXED] * (len(x.shape) - 2)], list(x.labels.pending))
    return [found, found]


@rule(aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_, aten.tanh, aten.tanh_, aten.hardswish, aten.hardswish_,
      aten.hardsigmoid, aten.hardsigmoid_, aten.hardtanh, aten.hardtanh_, aten.elu, aten.elu_, aten.softplus, aten.exp,
      aten.log, aten.sqrt, aten.rsqrt, aten.pow, aten.square, aten.reciprocal, aten.mish, aten.mish_, aten.log_sigmoid_forward,
      aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_max, aten.cos, aten.sin, aten.erf, aten.sign, aten.bernoulli,
      aten.logical_not, aten.isnan, aten.nan_to_num, aten.relu6, aten.celu, aten.hardshrink, aten.softshrink, aten.threshold,
      aten.log1p, aten.expm1, aten.atan)  # fmt: skip
def pointwise(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Each value on its own, by any function."""
    inhomogeneous(units, x)
    return Labels(list(x.labels.axes), list(x.labels.pending))


@rule(aten.add, aten.add_, aten.sub, aten.sub_, aten.mul, aten.mul_, aten.div, aten.div_, aten.maximum, aten.minimum,
      aten.where, aten.masked_fill, aten.masked_fill_, aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.rsub,
      aten.logical_and, aten.logical_or, aten.bitwise_and, aten.bitwise_or, aten.remainder, aten.floor_divide,
      aten.addcmul, aten.addcdiv, aten.lerp, aten.copy_, aten._prelu_kernel, aten.atan2)  # fmt: skip
def elementwise(units: Units, *operands: Any, **options: Any) -> Labels:
    """Values at the same index together, lengths of one repeated: units at the same index are one."""
    tensors = [t for t in operands if isinstance(t, Traced)]
    for t in tensors:
        if len(tensors) > 1 and not t.parameter:
            inhomogeneous(units, t)
    if sum(not t.labels.plain for t in tensors) > 1:
        units.bind(*(t.labels for t in tensors))
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    axes: list[Label] = []
    for k in range(len(shape)):
        labels: list[Label] = []
        for t in tensors:
            own = k - (len(shape) - len(t.shape))
            if own < 0 or t.shape[own] == 1:
                continue
            label = t.axis(own)
            labels.append(label if isinstance(label, str) else label.reshape((1,) * (len(shape) - label.ndim) + label.shape))
        axes.append(units.combine(labels, [k] * len(labels)) if labels else ANY)
    return Labels(axes, [link for t in tensors for link in t.labels.pending])


def inhomogeneous(units: Units, x: Traced) -> None:
    """Remember that these units cannot be rescaled."""
    for label in x.labels.axes:
        if not isinstance(label, str):
            units.unscalable.update(np.unique(label).tolist())


@rule(aten.sum, aten.mean, aten.amax, aten.amin, aten.var, aten.std, aten.linalg_vector_norm, aten.logsumexp, aten.any,
      aten.all, aten.norm)  # fmt: skip
def reduction(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Sums and the like over whole axes: the order of what is summed does not matter."""
    units.bind(x.labels)
    lists = [r for r in [*rest, options.get("dim")] if isinstance(r, list | tuple)]
    dims = {d % len(x.shape) for d in lists[0]} if lists and lists[0] else set(range(len(x.shape)))
    for d in dims:
        if not isinstance(x.axis(d), str):
            inhomogeneous(units, x)
    keep = options.get("keepdim", True in [r for r in rest if isinstance(r, bool)])
    found = x.labels
    for d in sorted(dims, reverse=True):
        found = views.remove(units, found, d)
    if keep:
        kept = iter(found.axes)
        found = Labels([ANY if d in dims else next(kept) for d in range(len(x.shape))])
        found.axes = [a if isinstance(a, str) else np.expand_dims(a, tuple(sorted(dims))) for a in found.axes]
    return found


@rule(aten._softmax, aten._log_softmax, aten.softmax, aten.log_softmax)
def softmax(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    units.bind(x.labels)
    inhomogeneous(units, x)
    return Labels(list(x.labels.axes))


@rule(aten.mm, aten.bmm, aten.mv, aten.dot)
def product(units: Units, a: Traced, b: Traced) -> Labels:
    """Matrix products: the summed axes go together, batch axes too."""
    units.bind(a.labels, b.labels)
    batch = 1 if len(a.shape) == 3 else 0
    ka, kb = len(a.shape) - 1, batch
    out_rank = len(a.shape) + len(b.shape) - 2 - batch
    # All labels in one index space: (batch, rows, summed, columns).
    rows, columns = len(a.shape) - 1 - batch, len(b.shape) - 1 - batch

    def left(label: Label) -> Label:
        return label if isinstance(label, str) else label.reshape(label.shape + (1,) * columns)

    def right(label: Label) -> Label:
        if isinstance(label, str):
            return label
        return label.reshape(label.shape[:batch] + (1,) * rows + label.shape[batch:])

    summed = batch + rows
    units.combine([left(a.axis(ka)), right(b.axis(kb))], [summed, summed])
    axes: list[Label] = []
    if batch:
        axes.append(units.combine([left(a.axis(0)), right(b.axis(0))], [0, 0]))
    axes += [left(a.axis(batch + k)) for k in range(rows)] + [right(b.axis(batch + 1 + k)) for k in range(columns)]
    found = [units.without(axis, summed) for axis in axes]
    assert len(found) == out_rank
    return Labels(found)


@rule(aten.addmm, aten.baddbmm)
def add_product(units: Units, bias: Traced, a: Traced, b: Traced, **options: Any) -> Labels:
    made = product(units, a, b)
    shape = (*a.shape[:-1], b.shape[-1])
    return elementwise(units, Traced(torch.empty(shape, device="meta"), made, True), bias)


@rule(aten.convolution)
def convolution(
    units: Units, x: Traced, weight: Traced, bias: Traced | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Labels:  # fmt: skip
    """Input channels go with the weight's axis that reads them; with groups both are split into blocks."""
    units.bind(x.labels, weight.labels)
    out_axis = 1 if transposed else 0
    for k in range(2, len(x.shape)):
        units.pin(x.axis(k), k)
        units.pin(weight.axis(k), k)
    one = [1] * (len(x.shape) - 2)
    reads, makes = weight.axis(1 - out_axis), weight.axis(out_axis)
    channels = x.axis(1)
    if groups == 1:
        units.combine([channels, _at(reads, 1 - out_axis, 1, len(x.shape))], [1, 1])
        return Labels([x.axis(0), _biased(units, _at(makes, out_axis, 1, len(x.shape)), bias), *_spatial(one)])
    if transposed:
        raise NotImplementedError("a transposed convolution with groups")
    outer, inner = _blocks(units, channels, 1, groups, x.shape[1])
    made_outer, _ = _blocks(units, makes, 0, groups, weight.shape[0])
    units.combine([_flat(outer), _flat(made_outer)], [0, 0])
    if not isinstance(inner, str) and not isinstance(reads, str):
        # Rows of the weight in block j read the inner units of block j.
        per_row = np.repeat(inner.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        rows = reads.reshape(reads.shape[0], reads.shape[1])
        units.combine([per_row, rows], [1, 1])
    elif x.shape[1] // groups > 1:
        units.pin(reads, 1)
        units.pin(inner, 1)
    return Labels([x.axis(0), _biased(units, _at(makes, 0, 1, len(x.shape)), bias), *_spatial(one)])


def _spatial(one: Sequence[int]) -> list[Label]:
    return [FIXED] * len(one)


def _flat(label: Label) -> Label:
    return label if isinstance(label, str) else label.ravel()


def _at(label: Label, dim: int, to: int, rank: int) -> Label:
    """A label of one independent axis as one of another tensor's axes."""
    if isinstance(label, str):
        return label
    assert label.size == label.shape[dim], "an axis of a weight that depends on another axis"
    shape = [1] * rank
    shape[to] = label.size
    return label.reshape(shape)


def _blocks(units: Units, label: Label, dim: int, groups: int, size: int) -> tuple[Label, Label]:
    """Split an axis into blocks; the split binds."""
    parts, links = units.split(label, dim, (groups, size // groups))
    units.links += links
    return parts[0], parts[1]


def _biased(units: Units, label: Label, bias: Traced | None) -> Label:
    if bias is not None and not isinstance(label, str):
        units.combine([label.ravel(), bias.axis(0)], [0, 0])
    return label


@rule(aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
      aten._batch_norm_with_update, aten._batch_norm_no_update, aten.batch_norm)  # fmt: skip
def batch_norm(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Scale, shift and running statistics go with the channels."""
    units.bind(x.labels)
    channels = x.axis(1)
    for vector in rest:
        if isinstance(vector, Traced):
            units.combine([_flat(channels), vector.axis(0)], [0, 0])
    return [Labels(list(x.labels.axes)), Labels([_flat(channels)]), Labels([_flat(channels)])]


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(units: Units, x: Traced, shape: Sequence[int], *rest: Any, **options: Any) -> list[Labels]:
    units.bind(x.labels)
    rank, last = len(x.shape), len(shape)
    for vector in rest:
        if isinstance(vector, Traced):
            for k in range(last):
                dim = rank - last + k
                own = vector.axis(k)
                wide = own if isinstance(own, str) else own.reshape((1,) * (rank - own.ndim) + own.shape)
                units.combine([x.axis(dim), wide], [dim, dim])
    return [Labels(list(x.labels.axes))]


@rule(aten.native_group_norm)
def group_norm(units: Units, x: Traced, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float) -> list[Labels]:
    """Channels stay inside their groups, which may change places."""
    units.bind(x.labels)
    channels = x.axis(1)
    for vector in (weight, bias):
        if isinstance(vector, Traced):
            units.combine([_flat(channels), vector.axis(0)], [0, 0])
    if 1 < groups < c:
        _blocks(units, _flat(channels), 0, groups, c)
    return [Labels(list(x.labels.axes))]


@rule(aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_efficient_attention,
      aten._scaled_dot_product_attention_math, aten._scaled_dot_product_flash_attention)  # fmt: skip
def attention(units: Units, q: Traced, k: Traced, v: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """(batch, heads, positions, width): heads go together, q's width with k's; v's width goes on."""
    units.bind(q.labels, k.labels, v.labels)
    mask = options.get("attn_mask")
    shared = [[t.axis(d) for t in (q, k, v)] for d in (0, 1)]
    if isinstance(mask, Traced):
        units.bind(mask.labels)
        extra = len(mask.shape) - 4
        for d in (0, 1):
            if d + extra >= 0 and mask.shape[d + extra] > 1:
                shared[d].append(mask.axis(d + extra))
    heads = [units.combine(labels, [d] * len(labels)) for d, labels in enumerate(shared)]
    units.combine([q.axis(3), k.axis(3)], [3, 3])
    units.combine([k.axis(2), v.axis(2)], [2, 2])
    return [Labels([*heads, q.axis(2), v.axis(3)])]


@rule(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias)
def view(units: Units, x: Traced, shape: Sequence[int], *rest: Any) -> Labels:
    known = -int(np.prod(shape)) if -1 in shape else 0
    sizes = [x.tensor.numel() // known if size == -1 else size for size in shape]
    return views.reshape(units, x.labels, x.shape, sizes)


@rule(aten.t, aten.transpose, aten.permute, aten.numpy_T, aten.transpose_)
def permute(units: Units, x: Traced, *order: Any) -> Labels:
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
    sizes = [x.shape[k - (len(shape) - len(x.shape))] if size == -1 else size for k, size in enumerate(shape)]
    return views.expand(x.labels, x.shape, sizes)


@rule(aten.unsqueeze, aten.squeeze, aten.squeeze_, aten.unsqueeze_)
def resized(units: Units, x: Traced, dim: int | Sequence[int] | None = None) -> Labels:
    raise AssertionError("handled by the shape of the output")


@rule(aten.slice)
def cut(units: Units, x: Traced, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Labels:
    dim %= len(x.shape)
    return views.take(units, x.labels, dim, np.arange(x.shape[dim])[start:end:step])


@rule(aten.select)
def select(units: Units, x: Traced, dim: int, index: int) -> Labels:
    dim %= len(x.shape)
    one = views.take(units, x.labels, dim, np.array([index % x.shape[dim]]))
    found = views.remove(units, one, dim)
    gone = x.axis(dim)
    if not isinstance(gone, str):  # one part of a split: what is inside is on its own now
        parents = set(units.find(gone).ravel().tolist())
        found.pending = [p for p in found.pending if not parents.issuperset(units.find(p[1]).ravel().tolist())]
    return found


@rule(aten.unbind)
def unbind(units: Units, x: Traced, dim: int = 0) -> list[Labels]:
    return [select(units, x, dim, k) for k in range(x.shape[dim])]


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.unsafe_chunk)
def split(units: Units, x: Traced, sizes: int | Sequence[int], dim: int = 0) -> list[Labels]:
    dim %= len(x.shape)
    whole = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
    starts = np.cumsum([0, *sizes])
    return [views.take(units, x.labels, dim, np.arange(a, b)) for a, b in zip(starts, starts[1:], strict=False)]


@rule(aten.cat)
def cat(units: Units, tensors: Sequence[Traced], dim: int = 0) -> Labels:
    tensors = [t for t in tensors if t.tensor.numel()]
    return views.cat(units, [t.labels for t in tensors], [t.shape for t in tensors], dim % len(tensors[0].shape))


@rule(aten.stack)
def stack(units: Units, tensors: Sequence[Traced], dim: int = 0) -> Labels:
    dim %= len(tensors[0].shape) + 1
    wide = [(*t.shape[:dim], 1, *t.shape[dim:]) for t in tensors]
    labels = [views.reshape(units, t.labels, t.shape, shape) for t, shape in zip(tensors, wide, strict=True)]
    return views.cat(units, labels, wide, dim)


@rule(aten.flip)
def flip(units: Units, x: Traced, dims: Sequence[int]) -> Labels:
    found = x.labels
    for d in dims:
        found = views.take(units, found, d % len(x.shape), np.arange(x.shape[d])[::-1])
    return found


@rule(aten.roll)
def roll(units: Units, x: Traced, shifts: Sequence[int], dims: Sequence[int] = ()) -> Labels:
    found = x.labels
    for shift, d in zip(shifts, dims, strict=True):
        found = views.take(units, found, d % len(x.shape), np.roll(np.arange(x.shape[d]), shift))
    return found


@rule(aten.index_select)
def index_select(units: Units, x: Traced, dim: int, index: Traced) -> Labels:
    return views.take(units, x.labels, dim % len(x.shape), _constant(index))


@rule(aten.index)
def index(units: Units, x: Traced, indices: Sequence[Traced | None]) -> Labels:
    used = [k for k, i in enumerate(indices) if i is not None]
    if len(used) != 1:
        raise NotImplementedError("indexing by several tensors")
    k = used[0]
    chosen = indices[k]
    assert chosen is not None
    constant = _constant(chosen)
    if constant.dtype == bool:
        constant = constant.nonzero()[0]
    taken = views.take(units, x.labels, k, constant.ravel())
    flat = [*x.shape[:k], constant.size, *x.shape[k + 1 :]]
    return views.reshape(units, taken, flat, [*x.shape[:k], *constant.shape, *x.shape[k + 1 :]])


def _constant(index: Traced) -> np.ndarray:
    if not index.labels.constant:
        raise NotImplementedError("an index computed from inputs or parameters")
    return index.tensor.numpy()


@rule(aten.embedding)
def embedding(units: Units, weight: Traced, index: Traced, *rest: Any, **options: Any) -> Labels:
    """Rows of the table are fixed, they belong to the vocabulary; its columns go on."""
    units.pin(weight.axis(0), 0)
    last = weight.axis(1)
    rank = len(index.shape) + 1
    return Labels([*index.labels.axes, _at(last, 1, rank - 1, rank)])


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
            units.pin(label, dim)
            axes[dim] = FIXED
            continue
        wide = [1] * rank
        wide[dim] = before
        new = [units.new(*(size if d != dim else count for d, size in enumerate(wide))) for count in (before, after)]
        axes[dim] = np.concatenate([new[0], label, new[1]], dim)
    return Labels(axes, list(x.labels.pending))


@rule(aten.repeat)
def repeat(units: Units, x: Traced, times: Sequence[int]) -> Labels:
    found = views.expand(x.labels, x.shape, [1] * (len(times) - len(x.shape)) + list(x.shape))
    for dim, count in enumerate(times):
        if count > 1:
            size = ([1] * (len(times) - len(x.shape)) + list(x.shape))[dim]
            label = found.axes[dim]
            if isinstance(label, str):
                found.axes[dim] = label if size > 1 and label == FIXED else ANY
            found = Labels(
                [a if isinstance(a, str) or a.shape[dim] == 1 else np.concatenate([a] * count, dim) for a in found.axes],
                found.pending,
            )
    return found


@rule(aten.pixel_shuffle)
def pixel_shuffle(units: Units, x: Traced, factor: int) -> Labels:
    *lead, c, h, w = x.shape
    n = len(lead)
    opened = views.reshape(units, x.labels, x.shape, [*lead, c // factor**2, factor, factor, h, w])
    moved = views.permute(opened, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    shape = [*lead, c // factor**2, h, factor, w, factor]
    return views.reshape(units, moved, shape, [*lead, c // factor**2, h * factor, w * factor])


@rule(aten.glu)
def glu(units: Units, x: Traced, dim: int = -1) -> Labels:
    dim %= len(x.shape)
    half = x.shape[dim] // 2
    a, b = split(units, x, half, dim)
    shape = [half if k == dim else size for k, size in enumerate(x.shape)]
    empty = torch.empty(shape, device="meta")
    return elementwise(units, Traced(empty, a, False), Traced(empty, b, False))


@rule(aten.native_dropout)
def dropout(units: Units, x: Traced, *rest: Any) -> list[Labels]:
    return [Labels(list(x.labels.axes), list(x.labels.pending))] * 2

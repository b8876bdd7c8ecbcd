"""What each operator does to the labels of its tensors: one rule a kind of operator.

A rule gets the operator's arguments with every tensor replaced by a `Traced`, unites or pins units as the
operator demands, and returns the labels of the output (of each output, where several matter).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from weightspace.symmetry.tracing import views
from weightspace.symmetry.tracing.labels import ANY, FIXED, Label, Labels, Tie, Units

aten = torch.ops.aten


class Untraceable(Exception):
    """A use of an operator that its rule does not describe; the message says which."""


@dataclass
class Traced:
    """A tensor and its labels.

    Args:
        tensor: The tensor.
        shape: Its shape before the operator, as some operators change it in place.
        labels: Its labels.
        parameter: Whether it is a parameter or buffer of the module.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    labels: Labels
    parameter: bool

    def axis(self, dim: int) -> Label:
        """The label of an axis."""
        return self.labels.axes[dim]


Rule = Callable[..., Labels | list[Labels]]
R = TypeVar("R", bound=Rule)
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[R], R]:
    """Register a rule for some operators."""

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


# Positively homogeneous: f(s x) = s f(x) for s > 0, in each unit on its own. Odd or even, too.
@rule(aten.clone, aten.detach, aten.alias, aten.contiguous, aten._to_copy, aten.dropout, aten.neg, aten.abs,
      aten.lift_fresh, aten.zero_, aten.fill_)  # fmt: skip
def same(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Each unit on its own."""
    return Labels(list(x.labels.axes), list(x.labels.pending))


# Positively homogeneous, but neither odd nor even.
@rule(aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_)
def one_sided(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Each unit on its own, its sign in sight."""
    signed(units, x)
    return same(units, x)


@rule(aten.max_pool2d_with_indices, aten.adaptive_max_pool2d, aten.max_pool3d_with_indices)
def largest_over_space(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Each channel on its own, its sign in sight; places in space keep their order."""
    signed(units, x)
    return over_space(units, x, *rest, **options)


@rule(aten._adaptive_avg_pool2d, aten.avg_pool2d, aten.avg_pool1d, aten.avg_pool3d, aten._adaptive_avg_pool3d,
      aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa,
      aten.reflection_pad2d, aten.replication_pad2d)  # fmt: skip
def over_space(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Each channel on its own; places in space keep their order."""
    first = 1 if len(x.shape) == 3 and not _one_dimensional(rest) else 2
    for k in range(first, len(x.shape)):
        units.pin(x.axis(k), k)
    output = Labels([*x.labels.axes[:first], *[FIXED] * (len(x.shape) - first)], list(x.labels.pending))
    return [output, output]


def _one_dimensional(options: Sequence[Any]) -> bool:
    """True if a pooling operator's window has one length: three axes are then batch, channels, length."""
    return bool(options) and isinstance(options[0], list | tuple) and len(options[0]) == 1


@rule(aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_, aten.hardswish, aten.hardswish_,
      aten.hardsigmoid, aten.hardsigmoid_, aten.elu, aten.elu_, aten.softplus, aten.exp, aten.log, aten.mish,
      aten.mish_, aten.log_sigmoid_forward, aten.clamp_min, aten.clamp_max, aten.bernoulli, aten.logical_not,
      aten.nan_to_num, aten.relu6, aten.celu, aten.threshold, aten.log1p, aten.expm1)  # fmt: skip
def pointwise_signed(units: Units, x: Any, *rest: Any, **options: Any) -> Labels:
    """Each value on its own, by a function that need be neither odd nor even."""
    for t in (x, *rest, *options.values()):
        if isinstance(t, Traced):
            signed(units, t)
    return pointwise(units, x, *rest, **options)


@rule(aten.hardtanh, aten.hardtanh_, aten.clamp, aten.clamp_)
def clamped(units: Units, x: Traced, low: Any = None, high: Any = None, **options: Any) -> Labels:
    """Each value on its own, between bounds; odd between -b and b."""
    low, high = options.get("min", options.get("min_val", low)), options.get("max", options.get("max_val", high))
    default = (-1.0, 1.0) if low is None and high is None else (low, high)
    if not all(isinstance(bound, int | float) for bound in default) or default[0] != -default[1]:
        signed(units, x)
    return pointwise(units, x, low, high)


# Odd or even, or so for some arguments: as they are smooth but at 0, trying it decides.
@rule(aten.tanh, aten.tanh_, aten.pow, aten.square, aten.reciprocal, aten.cos, aten.sin, aten.erf, aten.sign,
      aten.isnan, aten.hardshrink, aten.softshrink, aten.atan, aten.asinh, aten.sinh, aten.cosh, aten.tan, aten.erfinv,
      aten.atanh, aten.asin, aten.sqrt, aten.rsqrt)  # fmt: skip
def pointwise(units: Units, x: Any, *rest: Any, **options: Any) -> Labels:
    """Each value on its own, by any function; with further tensors, index by index."""
    others = [t for t in (*rest, *options.values()) if isinstance(t, Traced)]
    if others or not isinstance(x, Traced):
        return elementwise(units, x, *others)
    inhomogeneous(units, x)
    return Labels(list(x.labels.axes), list(x.labels.pending))


@rule(aten.maximum, aten.minimum, aten.where, aten.masked_fill, aten.masked_fill_, aten.lt, aten.le, aten.gt, aten.ge,
      aten.remainder, aten.floor_divide, aten._prelu_kernel, aten.atan2)  # fmt: skip
def elementwise_signed(units: Units, *operands: Any, **options: Any) -> Labels:
    """Values at the same index together, their signs in sight."""
    for t in operands:
        if isinstance(t, Traced):
            signed(units, t)
    return elementwise(units, *operands, **options)


@rule(aten.mul, aten.mul_)
def times(units: Units, *operands: Any, **options: Any) -> Labels:
    """Values at the same index together; whether their units are mixed inversely shows where products are summed."""
    return elementwise(units, *operands, tie="no")


@rule(aten.add, aten.add_, aten.sub, aten.sub_, aten.div, aten.div_, aten.eq, aten.ne, aten.rsub,
      aten.logical_and, aten.logical_or, aten.bitwise_and, aten.bitwise_or, aten.addcmul, aten.addcdiv, aten.lerp,
      aten.lerp_, aten.copy_)  # fmt: skip
def elementwise(units: Units, *operands: Any, tie: Tie = "alike", **options: Any) -> Labels:
    """Values at the same index together, lengths of one repeated: units at the same index are one."""
    tensors = [t for t in operands if isinstance(t, Traced)]
    for t in tensors:
        if len(tensors) > 1 and not t.parameter:
            inhomogeneous(units, t)
    if sum(not t.labels.plain for t in tensors) > 1:
        units.bind(*(t.labels for t in tensors))
    shape = np.broadcast_shapes(*(t.shape for t in tensors))
    wide = [in_front(t, len(shape)) for t in tensors]
    units.follow(wide)
    axes: list[Label] = []
    for k in range(len(shape)):
        labels = [one[k] for one in wide if not isinstance(one[k], str) or one[k] != _NONE]
        axes.append(units.combine(labels, [k] * len(labels), tie=tie) if labels else ANY)
    return Labels(axes, [link for t in tensors for link in t.labels.pending])


_NONE = "none"  # an axis that a tensor does not have


def in_front(x: Traced, rank: int) -> list[Label]:
    """The labels of a tensor's axes as those of the last axes of a tensor of this rank."""
    extra = rank - len(x.shape)
    return [_NONE] * extra + [
        _NONE
        if size == 1
        else label
        if isinstance(label, str)
        else label.reshape((1,) * (rank - label.ndim) + label.shape)
        for label, size in zip(x.labels.axes, x.shape, strict=True)
    ]


def inhomogeneous(units: Units, x: Traced) -> None:
    """Remember that these units cannot be rescaled."""
    for label in x.labels.axes:
        if not isinstance(label, str):
            units.unscalable.update(np.unique(label).tolist())


def signed(units: Units, x: Traced) -> None:
    """Remember that these units cannot change sign."""
    for label in x.labels.axes:
        if not isinstance(label, str):
            units.unflippable.update(np.unique(label).tolist())


@rule(aten.amax, aten.amin)
def extreme(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """The largest or the smallest value over whole axes."""
    signed(units, x)
    return reduction(units, x, *rest, **options)


def reduced(x: Traced, *rest: Any, **options: Any) -> set[int]:
    """The axes that a reduction with these arguments goes over."""
    axes = [r for r in [*rest, options.get("dim")] if isinstance(r, list | tuple | int) and not isinstance(r, bool)]
    first = axes[0] if axes else []
    one = [first] if isinstance(first, int) else list(first)
    return {d % len(x.shape) for d in one} if one else set(range(len(x.shape)))


@rule(aten.sum, aten.mean, aten.var, aten.std, aten.linalg_vector_norm, aten.logsumexp, aten.any,
      aten.all, aten.norm)  # fmt: skip
def reduction(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Sums and the like over whole axes: the order of what is summed does not matter."""
    units.bind(x.labels)
    dims = reduced(x, *rest, **options)
    for d in dims:
        if not isinstance(x.axis(d), str):
            inhomogeneous(units, x)
    keep = options.get("keepdim", True in [r for r in rest if isinstance(r, bool)])
    output = x.labels
    for d in sorted(dims, reverse=True):
        output = views.remove(units, output, d)
    if keep:
        kept = iter(output.axes)
        output = Labels([ANY if d in dims else next(kept) for d in range(len(x.shape))])
        output.axes = [a if isinstance(a, str) else np.expand_dims(a, tuple(sorted(dims))) for a in output.axes]
    return output


@rule(aten.max, aten.min, aten.var_mean, aten.std_mean)
def two_reductions(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Two results of a reduction over the same axes."""
    signed(units, x)
    output = reduction(units, x, *rest, **options)
    return [output, Labels(list(output.axes))]


@rule(aten._softmax, aten._safe_softmax, aten._log_softmax, aten.softmax, aten.log_softmax)
def softmax(units: Units, x: Traced, *rest: Any, **options: Any) -> Labels:
    """Units keep their places in the output, and cannot be rescaled."""
    units.bind(x.labels)
    inhomogeneous(units, x)
    signed(units, x)
    return Labels(list(x.labels.axes))


@rule(aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot)
def product(units: Units, a: Traced, b: Traced) -> Labels:
    """Matrix products: the summed axes go together, batch axes too."""
    units.bind(a.labels, b.labels)
    batch = 1 if len(a.shape) == 3 else 0
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
    ours = [left(one) for one in a.labels.axes]
    theirs = [right(one) for one in b.labels.axes]
    # The same order of dimensions for both: batch, rows, summed, columns.
    first = [*ours, *[_NONE] * columns]
    second = [*theirs[:batch], *[_NONE] * rows, *theirs[batch:]]
    units.follow([first, second])
    units.combine([first[summed], second[summed]], [summed, summed], tie="inversely")
    axes: list[Label] = []
    if batch:
        axes.append(units.combine([first[0], second[0]], [0, 0]))
    axes += first[batch:summed] + second[summed + 1 :]
    output = [units.without(axis, summed) for axis in axes]
    assert len(output) == out_rank
    return Labels(output)


@rule(aten.addmm, aten.baddbmm)
def add_product(units: Units, bias: Traced, a: Traced, b: Traced, **options: Any) -> Labels:
    """A matrix product, then a sum with the bias."""
    made = product(units, a, b)
    shape = (*a.shape[:-1], b.shape[-1])
    return elementwise(units, Traced(torch.empty(0), shape, made, True), bias)


@rule(aten.convolution)
def convolution(
    units: Units,
    x: Traced,
    weight: Traced,
    bias: Traced | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Labels:
    """Input channels go with the weight's axis that reads them; with groups both are split into blocks."""
    units.bind(x.labels, weight.labels)
    out_axis = 1 if transposed else 0
    for k in range(2, len(x.shape)):
        units.pin(x.axis(k), k)
        units.pin(weight.axis(k), k)
    space = [FIXED] * (len(x.shape) - 2)
    reads, makes = weight.axis(1 - out_axis), weight.axis(out_axis)
    channels = x.axis(1)
    if groups == 1:
        units.combine([channels, placed(reads, 1 - out_axis, 1, len(x.shape))], [1, 1], tie="inversely")
        return Labels([x.axis(0), _biased(units, placed(makes, out_axis, 1, len(x.shape)), bias), *space])
    if transposed:
        raise Untraceable("a transposed convolution with groups")
    if isinstance(makes, str) and weight.shape[0] == x.shape[1] == groups:  # a constant kernel for each channel
        return Labels([x.axis(0), channels, *space])
    outer, inner = blocks(units, channels, 1, groups, x.shape[1])
    made_outer, _ = blocks(units, makes, 0, groups, weight.shape[0])
    units.combine([flat(outer), flat(made_outer)], [0, 0])
    if not isinstance(inner, str) and not isinstance(reads, str):
        # Rows of the weight in block j read the inner units of block j.
        per_row = np.repeat(inner.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        rows = reads.reshape(reads.shape[0], reads.shape[1])
        units.combine([per_row, rows], [1, 1], tie="inversely")
    elif x.shape[1] // groups > 1:
        units.pin(reads, 1, lost=True)
        units.pin(inner, 1, lost=True)
    return Labels([x.axis(0), _biased(units, placed(makes, 0, 1, len(x.shape)), bias), *space])


def flat(label: Label) -> Label:
    """A label as one of a tensor with one axis."""
    return label if isinstance(label, str) else label.ravel()


def placed(label: Label, dim: int, to: int, rank: int) -> Label:
    """A label of one independent axis as one of another tensor's axes."""
    if isinstance(label, str):
        return label
    assert label.size == label.shape[dim], "an axis of a weight that depends on another axis"
    shape = [1] * rank
    shape[to] = label.size
    return label.reshape(shape)


def blocks(units: Units, label: Label, dim: int, groups: int, size: int) -> tuple[Label, Label]:
    """Split an axis into blocks; the split binds."""
    parts, links = units.split(label, dim, (groups, size // groups))
    units.links += links
    return parts[0], parts[1]


def _biased(units: Units, label: Label, bias: Traced | None) -> Label:
    if bias is not None and not isinstance(label, str):
        units.combine([label.ravel(), bias.axis(0)], [0, 0])
    return label

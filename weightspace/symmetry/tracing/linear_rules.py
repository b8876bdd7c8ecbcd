"""Which operators are linear along which axes of units, so that a change of the units' basis goes through them.

Beside each operator's rule for reordering units. An operator that is not mentioned here leaves the units of its tensors
one basis only; those that are say which units they leave alone, and which they spoil. Ties between units, by sums and
by products, are made by the rules themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from weightspace.symmetry.tracing.labels import ANY, Labels, Units
from weightspace.symmetry.tracing.rules import Traced, aten, in_front, reduced

# Values in other places, averages over axes without units, and products that the rules themselves tie.
_LINEAR = {
    aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.t, aten.transpose, aten.permute, aten.numpy_T,
    aten.transpose_, aten.expand, aten.as_strided_, aten.squeeze, aten.unsqueeze, aten.squeeze_, aten.unsqueeze_,
    aten.slice, aten.select, aten.unbind, aten.split, aten.split_with_sizes, aten.chunk, aten.unsafe_split,
    aten.unsafe_split_with_sizes, aten.unsafe_chunk, aten.flip, aten.roll, aten.repeat, aten.index_select, aten.index,
    aten.pixel_shuffle, aten.embedding, aten.alias, aten.detach, aten.contiguous, aten.clone, aten.lift_fresh, aten.neg,
    aten.dropout, aten.native_dropout, aten.mm, aten.mv, aten.dot, aten.vdot, aten._adaptive_avg_pool2d,
    aten._adaptive_avg_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.upsample_nearest2d,
    aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten.reflection_pad2d,
    aten.replication_pad2d,
}  # fmt: skip


def follow(
    units: Units,
    packet: Any,
    operands: Sequence[Traced],
    args: Sequence[Any],
    options: Mapping[str, Any],
    outputs: Sequence[Labels],
) -> None:
    """Spoil the units of an operator's tensors along which it is not linear.

    Args:
        units: Units of the trace.
        packet: The operator.
        operands: Its tensors.
        args: Its arguments.
        options: Its arguments by name.
        outputs: Labels of its outputs; those of products are noted there.
    """
    if all(one.labels.plain for one in operands):
        return
    if packet not in (aten.sum, aten.mean):  # products are for sums only
        for one in operands:
            for pair in one.labels.products.values():
                units.spoil(*pair)
    if packet in _LINEAR:
        return
    own = _OWN.get(packet)
    if own is not None and "out" not in options:
        try:
            own(units, outputs, *args, **options)
        except (ValueError, TypeError, AttributeError, IndexError):  # a use of the operator that is not described
            pass
        else:
            return
    for one in operands:
        units.spoil(*one.labels.axes)


Rule = Callable[..., None]
R = TypeVar("R", bound=Rule)
_OWN: dict[Any, Rule] = {}


def linear(*operators: Any) -> Callable[[R], R]:
    """Register what operators are linear along."""

    def register(function: R) -> R:
        _OWN.update(dict.fromkeys(operators, function))
        return function

    return register


def _zero(value: Any) -> bool:
    if isinstance(value, Traced):
        return value.labels.constant and not bool(value.tensor.any())
    return value is None or value == 0


@linear(aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub)
def sums(units: Units, outputs: Sequence[Labels], *terms: Any, **options: Any) -> None:
    """Each term has the units, or is zero."""
    tensors = [t for t in terms[:2] if isinstance(t, Traced) and not _zero(t)]
    if any(not isinstance(t, Traced) and not _zero(t) for t in terms[:2]):
        for t in tensors:
            units.spoil(*t.labels.axes)
    rank = max((len(t.shape) for t in tensors), default=0)
    for labels in zip(*(in_front(t, rank) for t in tensors), strict=True):
        if any(isinstance(label, str) for label in labels):
            units.spoil(*labels)


@linear(aten.mul)
def products(units: Units, outputs: Sequence[Labels], a: Any, b: Any) -> None:
    """One factor has the units; where both have, the sum of the product is an inner product."""
    if not isinstance(a, Traced) or not isinstance(b, Traced):
        return
    rank = max(len(a.shape), len(b.shape))
    for k, (first, second) in enumerate(zip(in_front(a, rank), in_front(b, rank), strict=True)):
        if not isinstance(first, str) and not isinstance(second, str):
            outputs[0].products[k] = first, second


@linear(aten.mul_)
def products_in_place(units: Units, outputs: Sequence[Labels], a: Any, b: Any) -> None:
    """One factor has the units: other tensors may share the memory, so that no product is noted."""
    made = Labels([])
    products(units, [made], a, b)
    for pair in made.products.values():
        units.spoil(*pair)


@linear(aten.div, aten.div_)
def quotients(units: Units, outputs: Sequence[Labels], a: Any, b: Any, **options: Any) -> None:
    """The numerator has the units, the denominator has none; without rounding."""
    if isinstance(b, Traced):
        units.spoil(*b.labels.axes)
    if isinstance(a, Traced) and options.get("rounding_mode") is not None:
        units.spoil(*a.labels.axes)
    if isinstance(a, Traced) and isinstance(b, Traced):
        rank = max(len(a.shape), len(b.shape))
        for first, second in zip(in_front(a, rank), in_front(b, rank), strict=True):
            if not isinstance(second, str):
                units.spoil(first)


@linear(aten.pow, aten.square)
def squares(units: Units, outputs: Sequence[Labels], x: Any, exponent: Any = 2) -> None:
    """The sum of squares is an inner product of units with themselves."""
    if isinstance(x, Traced) and not isinstance(exponent, Traced) and exponent == 2:
        for k, label in enumerate(x.labels.axes):
            if not isinstance(label, str):
                outputs[0].products[k] = label, label
        return
    for t in (x, exponent):
        if isinstance(t, Traced):
            units.spoil(*t.labels.axes)


@linear(aten.sum, aten.mean)
def totals(units: Units, outputs: Sequence[Labels], x: Traced, *rest: Any, **options: Any) -> None:
    """Sums over axes without units are linear along the others; sums of products are inner products."""
    over = reduced(x, *rest, **options)
    for k, label in enumerate(x.labels.axes):
        if k in over and k in x.labels.products:
            first, second = x.labels.products[k]
            units.ties.append((first, second, True))
        elif k in over or k in x.labels.products:
            units.spoil(label, *x.labels.products.get(k, ()))


@linear(aten.linalg_vector_norm, aten.norm)
def norms(units: Units, outputs: Sequence[Labels], x: Traced, order: Any = 2, *rest: Any, **options: Any) -> None:
    """A length is the root of an inner product of units with themselves."""
    over = reduced(x, *rest, **options)
    for k, label in enumerate(x.labels.axes):
        if k in over and order == 2 and not isinstance(label, str):
            units.ties.append((label, label, True))
        else:
            units.spoil(label)


@linear(aten._fused_rms_norm)
def root_mean_square(
    units: Units, outputs: Sequence[Labels], x: Traced, shape: Sequence[int], weight: Any = None, *rest: Any
) -> None:
    """Divided by the units' length; a gain is in the units' own basis."""
    first = len(x.shape) - len(shape)
    for k, label in enumerate(x.labels.axes):
        if k >= first and weight is None and not isinstance(label, str):
            units.ties.append((label, label, True))
        else:
            units.spoil(label)
    if isinstance(weight, Traced):
        units.spoil(*weight.labels.axes)


@linear(aten.bmm)
def batches(units: Units, outputs: Sequence[Labels], a: Traced, b: Traced) -> None:
    """Batch axes with units in both are multiplied unit by unit."""
    if not isinstance(a.axis(0), str) and not isinstance(b.axis(0), str):
        units.spoil(a.axis(0), b.axis(0))


@linear(aten.addmm, aten.baddbmm)
def affine(units: Units, outputs: Sequence[Labels], bias: Traced, a: Traced, b: Traced, **options: Any) -> None:
    """A product and a bias that has the same units."""
    if len(a.shape) == 3:
        batches(units, outputs, a, b)
    if _zero(bias):
        return
    made = [*a.labels.axes[:-1], b.labels.axes[-1]]
    for first, second in zip(made, in_front(bias, len(made)), strict=True):
        if isinstance(first, str) or isinstance(second, str):
            units.spoil(first, second)


@linear(aten.convolution)
def channels(
    units: Units, outputs: Sequence[Labels], x: Traced, weight: Traced, bias: Traced | None, *rest: Any
) -> None:
    """Channels in one group, with a bias for each output channel."""
    transposed, groups = rest[3], rest[5]
    makes = weight.axis(1 if transposed else 0)
    single = x.shape[1] == groups or weight.shape[0] == groups  # channels that are not summed over or made alone
    if groups > 1 and single and not (isinstance(makes, str) and makes == ANY):
        units.spoil(x.axis(1), makes)
    if bias is not None and isinstance(bias.axis(0), str) and not _zero(bias):
        units.spoil(makes)


@linear(aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_attention_math, aten._scaled_dot_product_flash_attention)  # fmt: skip
def attention(
    units: Units, outputs: Sequence[Labels], q: Traced, k: Traced, v: Traced, *rest: Any, **options: Any
) -> None:
    """Widths of queries and keys are summed over, that of values goes on; heads and positions meet a softmax."""
    for t in (q, k, v):
        units.spoil(*t.labels.axes[:-1])
    for t in (*rest, *options.values()):
        if isinstance(t, Traced):
            units.spoil(*t.labels.axes)


@linear(aten.copy_)
def written(units: Units, outputs: Sequence[Labels], to: Traced, source: Traced, *rest: Any) -> None:
    """What is written has the units of what it is written into."""
    if not to.tensor.is_floating_point():
        units.spoil(*to.labels.axes, *source.labels.axes)
    for own, other in zip(to.labels.axes, in_front(source, len(to.shape)), strict=True):
        if isinstance(other, str) and not _zero(source):
            units.spoil(own)


@linear(aten._to_copy)
def cast(units: Units, outputs: Sequence[Labels], x: Traced, **options: Any) -> None:
    """To another floating point type."""
    kind = options.get("dtype")
    if kind is not None and not kind.is_floating_point:
        units.spoil(*x.labels.axes)


@linear(aten.cat, aten.stack)
def joined(units: Units, outputs: Sequence[Labels], tensors: Sequence[Traced], dim: int = 0) -> None:
    """Along the other axes each tensor has the units, or is zero."""
    used = [t for t in tensors if 0 not in t.shape and not _zero(t)]
    for k, labels in enumerate(zip(*(t.labels.axes for t in used), strict=True)):
        if k != dim % len(used[0].shape) and any(isinstance(label, str) for label in labels):
            units.spoil(*labels)


@linear(aten.constant_pad_nd)
def padded(units: Units, outputs: Sequence[Labels], x: Traced, padding: Sequence[int], value: Any = 0) -> None:
    """Zeros around."""
    if not _zero(value):
        for labels in (x.labels, *outputs):
            units.spoil(*labels.axes)


@linear(aten.where)
def chosen(units: Units, outputs: Sequence[Labels], condition: Traced, a: Any, b: Any) -> None:
    """By a condition without units, between tensors that both have them."""
    units.spoil(*condition.labels.axes)
    sums(units, outputs, a, b)


@linear(aten.masked_fill, aten.masked_fill_)
def filled(units: Units, outputs: Sequence[Labels], x: Traced, mask: Traced, value: Any) -> None:
    """Zeros at a mask without units."""
    units.spoil(*mask.labels.axes)
    if not _zero(value):
        units.spoil(*x.labels.axes)


@linear(aten.index_add, aten.index_add_)
def added_at(
    units: Units, outputs: Sequence[Labels], x: Traced, dim: int, index: Traced, source: Traced, **options: Any
) -> None:
    """Sums in which both have the units."""
    sums(units, outputs, x, source)

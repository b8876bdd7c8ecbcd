"""Rules for normalisation: scale, shift and statistics go with the units that are normalised."""

from collections.abc import Sequence
from typing import Any

from weightspace.symmetry.tracing.labels import Labels, Units
from weightspace.symmetry.tracing.rules import RULES as RULES
from weightspace.symmetry.tracing.rules import Traced, aten, blocks, elementwise, flat, inhomogeneous, rule


@rule(aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training,
      aten._batch_norm_with_update, aten._batch_norm_no_update, aten.batch_norm)  # fmt: skip
def batch_norm(units: Units, x: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """Scale, shift and running statistics go with the channels."""
    units.bind(x.labels)
    channels = x.axis(1)
    for vector in rest:
        if isinstance(vector, Traced):
            units.combine([flat(channels), vector.axis(0)], [0, 0])
    return [Labels(list(x.labels.axes)), Labels([flat(channels)]), Labels([flat(channels)])]


@rule(aten._weight_norm_interface)
def weight_norm(units: Units, v: Traced, g: Traced, *rest: Any) -> list[Labels]:
    """Directions and lengths: the lengths, of one value for each unit, go with the units of the directions."""
    units.bind(v.labels)
    for k, size in enumerate(v.shape):
        if size > 1 and g.shape[k] == 1:
            inhomogeneous(units, Traced(v.tensor, v.shape, Labels([v.axis(k)]), False))
    return [elementwise(units, v, g), Labels(list(g.labels.axes))]


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(units: Units, x: Traced, shape: Sequence[int], *rest: Any, **options: Any) -> list[Labels]:
    """Scale and shift go with the normalised axes."""
    units.bind(x.labels)
    rank, last = len(x.shape), len(shape)
    for vector in rest:
        if isinstance(vector, Traced):
            for k in range(last):
                dim = rank - last + k
                label = vector.axis(k)
                wide = label if isinstance(label, str) else label.reshape((1,) * (rank - label.ndim) + label.shape)
                units.combine([x.axis(dim), wide], [dim, dim])
    return [Labels(list(x.labels.axes))]


@rule(aten.native_group_norm)
def group_norm(
    units: Units, x: Traced, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[Labels]:
    """Channels stay inside their groups, which may change places."""
    units.bind(x.labels)
    channels = x.axis(1)
    for vector in (weight, bias):
        if isinstance(vector, Traced):
            units.combine([flat(channels), vector.axis(0)], [0, 0])
    if 1 < groups < c:
        blocks(units, flat(channels), 0, groups, c)
    return [Labels(list(x.labels.axes))]

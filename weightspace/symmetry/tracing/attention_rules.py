"""The rule of fused attention, with as many heads of keys and values as of queries, or fewer."""

from typing import Any

from weightspace.symmetry.tracing import views
from weightspace.symmetry.tracing.labels import Labels, Units
from weightspace.symmetry.tracing.order_rules import RULES as RULES  # complete once this file is imported
from weightspace.symmetry.tracing.rules import Traced, aten, rule


@rule(aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_efficient_attention,
      aten._scaled_dot_product_attention_math, aten._scaled_dot_product_flash_attention)  # fmt: skip
def attention(units: Units, q: Traced, k: Traced, v: Traced, *rest: Any, **options: Any) -> list[Labels]:
    """(batch, heads, positions, width): heads go together, q's width with k's; v's width goes on.

    Where there are fewer heads of keys and values than of queries, each is repeated for its queries.
    """
    k, v = (_repeated(units, t, q.shape[-3]) for t in (k, v))
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
    units.combine([q.axis(3), k.axis(3)], [3, 3], tie="inversely")
    units.combine([k.axis(2), v.axis(2)], [2, 2])
    return [Labels([*heads, q.axis(2), v.axis(3)])]


def _repeated(units: Units, x: Traced, heads: int) -> Traced:
    """A tensor with as many heads, each repeated in its place."""
    *lead, own, positions, width = x.shape
    if own == heads:
        return x
    apart, whole = [*lead, own, 1, positions, width], [*lead, own, heads // own, positions, width]
    labels = views.expand(views.reshape(units, x.labels, x.shape, apart), apart, whole)
    shape = (*lead, heads, positions, width)
    return Traced(x.tensor, shape, views.reshape(units, labels, whole, shape), False)

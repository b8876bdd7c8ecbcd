"""Rules for operators in which the order along an axis counts: sorting, the largest few, running sums, experts."""

from typing import Any

import numpy as np

from weightspace.symmetry.tracing.index_rules import RULES as RULES  # complete once this file is imported
from weightspace.symmetry.tracing.labels import FIXED, Labels, Units
from weightspace.symmetry.tracing.rules import Traced, Untraceable, aten, inhomogeneous, reduction, rule, signed


@rule(aten.topk)
def largest_few(units: Units, x: Traced, k: int, dim: int = -1, *rest: Any, **options: Any) -> list[Labels]:
    """The largest values along an axis, and where they were: experts that are chosen stay in place."""
    units.pin(x.axis(dim % len(x.shape)), dim % len(x.shape), lost=True)
    chosen = Labels([FIXED if k == dim % len(x.shape) else a for k, a in enumerate(x.labels.axes)])
    inhomogeneous(units, x)
    signed(units, x)
    units.bind(x.labels)
    return [_in_order(units, Traced(x.tensor, x.shape, chosen, False), dim)] * 2


@rule(aten.sort, aten.cummax, aten.cummin)
def ordered(units: Units, x: Traced, dim: int = -1, *rest: Any, **options: Any) -> list[Labels]:
    """Values in the order of their size, and where they were."""
    return [_in_order(units, x, options.get("dim", dim))] * 2


@rule(aten.argsort)
def places_in_order(units: Units, x: Traced, dim: int = -1, *rest: Any, **options: Any) -> Labels:
    """Where the values were, in the order of their size."""
    return _in_order(units, x, options.get("dim", dim))


@rule(aten.argmax, aten.argmin)
def place_of_largest(units: Units, x: Traced, dim: int | None = None, keepdim: bool = False) -> Labels:
    """Where the largest value along an axis is."""
    if dim is None and not x.labels.plain:
        raise Untraceable("a search through units")
    if dim is None:
        return reduction(units, x)
    return reduction(units, Traced(x.tensor, x.shape, _in_order(units, x, dim), False), dim, keepdim)


@rule(aten.cumsum, aten.cumprod, aten.logcumsumexp, aten.cumsum_)
def running(units: Units, x: Traced, dim: int, *rest: Any, **options: Any) -> Labels:
    """Sums so far along an axis."""
    return _in_order(units, x, dim)


@rule(aten._grouped_mm)
def grouped_product(units: Units, rows: Traced, weights: Traced, ends: Traced | None = None, *rest: Any) -> Labels:
    """Rows (tokens, inputs) times the weights (experts, inputs, outputs) of the expert that each row was sent to.

    Which rows those are depends on data: experts keep their order, and all of them one order of their units.
    """
    if len(rows.shape) != 2 or len(weights.shape) != 3 or not isinstance(rows.axis(0), str):
        raise Untraceable("another product by experts than of rows with one matrix an expert")
    units.bind(rows.labels, weights.labels)
    units.pin(weights.axis(0), 0, lost=True)
    reads, makes = (units.without(weights.axis(k), 0) for k in (1, 2))
    units.combine([rows.axis(1), reads if isinstance(reads, str) else reads.reshape(1, -1)], [1, 1])
    return Labels([FIXED, makes if isinstance(makes, str) else np.reshape(makes, (1, -1))])


def _in_order(units: Units, x: Traced, dim: int) -> Labels:
    """Values along an axis without units; units of other axes are each on their own."""
    dim %= max(1, len(x.shape))
    units.bind(x.labels)
    inhomogeneous(units, x)
    signed(units, x)
    if not x.shape:
        return Labels([])
    if not isinstance(x.axis(dim), str):
        raise Untraceable("an order of units")
    if any(not isinstance(a, str) and a.shape[dim] > 1 for k, a in enumerate(x.labels.axes) if k != dim):
        raise Untraceable("an order of units that others lie in")
    return Labels([FIXED if k == dim else axis for k, axis in enumerate(x.labels.axes)])

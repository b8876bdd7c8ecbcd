"""Means over seeds, with their 95 % intervals."""

import statistics
from collections.abc import Sequence

from weightspace.report.intervals import half_width


def grouped(rows: Sequence[dict[str, str]], by: Sequence[str]) -> list[tuple[tuple[str, ...], list[dict[str, str]]]]:
    """Rows with the same values.

    Args:
        rows: Rows.
        by: Columns of the values.
    """
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return list(groups.items())


def interval(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> dict[str, object]:
    """Number of seeds, means, and half of their 95 % intervals.

    Args:
        rows: A row for each seed.
        columns: The figures.
    """
    made: dict[str, object] = {"n": len(rows)}
    for name in columns:
        values = [float(row[name]) for row in rows]
        made |= {name: statistics.fmean(values), f"{name} ±": half_width(values) if len(values) > 1 else None}
    return made

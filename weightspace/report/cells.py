"""Cells and explanations that tables of all reports share."""

from weightspace.report.results import ShiftResult

DISTANCE = (
    "distance",
    "median distance to the nearest training network, after alignment, relative to that among training networks "
    "(1 = as far as another one)",
)
"""Explanation of the column of distances."""

ANGLE = (
    "angle",
    "the same by angle, seen from zero weights, whatever the norms are; verdicts take the smaller of the two",
)
"""Explanation of the column of angles."""

SPREAD = (
    ("dispersion", "spread around the own mean relative to the training networks' (below 0.8: drawn together)"),
    (
        "mask overlap",
        "shared non-zeros over non-zeros, between networks of the row, before or after alignment, whichever is more; "
        "and by chance at their densities",
    ),
)
"""Explanations of the columns on variety."""


def number(value: float | None, shown: str = ".2f") -> str:
    """A figure in a cell, or a dash where there is none.

    Args:
        value: The figure.
        shown: How it is formatted.
    """
    return "-" if value is None else format(value, shown)


def shift_name(shift: ShiftResult) -> str:
    """Kind and severity of a shift."""
    return f"{shift.kind} {shift.severity}" if shift.severity else shift.kind

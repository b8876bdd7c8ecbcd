"""One look for all figures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:  # matplotlib takes as long to import as PyTorch: it waits until something is drawn
    Axes = Figure = Any

ACCENT = "#c2410c"  # the networks that are judged
TRAINING = "#1d4ed8"  # what they were learned from
OTHER = "#64748b"
_PALETTE = (
    "#0ea5e9",
    "#a16207",
    "#7c3aed",
    "#ec4899",
    "#15803d",
    "#14b8a6",
    "#78716c",
    "#111827",
    "#facc15",
    "#64a30d",
    "#94a3b8",
    "#be123c",
    "#0f766e",
    "#9333ea",
    "#854d0e",
    "#0369a1",
    "#f472b6",
    "#4d7c0f",
    "#475569",
    "#c026d3",
    "#65a30d",
    "#b45309",
)


def colours(names: Sequence[str], samples: str, reference: str) -> dict[str, str]:
    """A colour for each group of networks, the same in every figure."""
    others = [name for name in names if name not in (samples, reference)]
    return {samples: ACCENT, reference: TRAINING} | {n: _PALETTE[i % len(_PALETTE)] for i, n in enumerate(others)}


def blank(width: float, height: float) -> Figure:
    """An empty figure, not tied to pyplot's global state.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def new(width: float = 8.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, not tied to pyplot's global state."""
    figure = blank(width, height)
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    """No frame above and on the right, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> None:
    """Write a figure; an SVG has the same bytes in every run.

    Args:
        figure: The figure.
        path: The file to write; its suffix, .png or .svg, is the format.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "weightspace"}):  # otherwise names of elements are random
        content = io.BytesIO()
        kind = path.suffix.removeprefix(".")
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, content.getvalue())

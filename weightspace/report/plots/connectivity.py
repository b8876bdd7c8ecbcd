"""Figures of mode connectivity: lines between networks, barriers of all pairs, instability."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np

from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, Figure, blank, new

_COLOURS = (OTHER, ACCENT, TRAINING, "#15803d", "#7c3aed", "#a16207")


def lines(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], what: str, *, logarithmic: bool = False
) -> Figure:
    """Loss or accuracy along the lines between networks.

    Args:
        curves: Positions and values of each pair, by name such as "as trained" and "aligned"; pairs are thin lines,
            their mean a thick one.
        what: Label of the vertical axis.
        logarithmic: Whether the vertical axis is logarithmic, for losses that differ by orders of magnitude.
    """
    figure, axes = new()
    for colour, (name, pairs) in zip(cycle(_COLOURS), curves.items(), strict=False):
        for positions, values in pairs:
            axes.plot(positions, values, color=colour, alpha=0.18, linewidth=0.8)
        mean = np.mean([values for _, values in pairs], axis=0)
        axes.plot(pairs[0][0], mean, color=colour, linewidth=2.2, label=name)
    axes.set_xlabel("position t on the line (1 - t) A + t B")
    axes.set_ylabel(what)
    if logarithmic:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def matrices(values: Mapping[str, np.ndarray], what: str, *, divide: int | None = None) -> Figure:
    """Barriers (or overlaps) of all pairs of networks, one matrix a way of aligning them, one colour scale.

    Args:
        values: Matrices by the name of the way of aligning.
        what: Label of the colour scale.
        divide: Number of networks after which a cross is drawn, where another group begins.
    """
    count = len(values)
    figure = blank(3.4 * count + 0.8, 3.4)
    high = max(float(np.nanmax(m)) for m in values.values())
    low = min(0.0, *(float(np.nanmin(m)) for m in values.values()))
    every = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    image = None
    for axes, (name, matrix) in zip(every, values.items(), strict=True):
        image = axes.imshow(matrix, vmin=low, vmax=high, cmap="magma_r")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("network")
        if divide is not None:
            axes.axhline(divide - 0.5, color="white", linewidth=1.5)
            axes.axvline(divide - 0.5, color="white", linewidth=1.5)
    every[0].set_ylabel("network")
    assert image is not None
    figure.colorbar(image, ax=every, shrink=0.85, label=what)
    return figure


def bars(rows: Mapping[str, Mapping[str, float]], what: str) -> Figure:
    """Groups of bars: for each row its named values, such as mask overlap before and after, and by chance."""
    figure, axes = new(height=3.6)
    names = list(next(iter(rows.values())))
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        x = np.arange(len(rows)) + (k - (len(names) - 1) / 2) * width
        axes.bar(x, [row[name] for row in rows.values()], width * 0.9, label=name, color=_COLOURS[k % len(_COLOURS)])
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylabel(what)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def instability(starts: Sequence[str], barriers: Sequence[Sequence[float]], what: str = "test-loss barrier") -> Figure:
    """Barrier between copies of one network against the step at which they parted."""
    figure, axes = new()
    x = range(len(starts))
    for k, values in enumerate(barriers):
        axes.plot([k] * len(values), values, ".", color=OTHER, alpha=0.6)
    axes.plot(x, [float(np.mean(v)) for v in barriers], "o-", color=ACCENT)
    axes.axhline(0, color=OTHER, linewidth=0.8, linestyle="--")
    axes.set_xticks(x, list(starts))
    axes.set_xlabel("copies part after")
    axes.set_ylabel(what)
    return figure

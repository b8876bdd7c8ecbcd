"""What do samples gain by polishing, for which cost?

    python -m experiments.generator.figures          (seconds; writes docs/figures/polish.svg)

Draws generator/polish.csv, a line of panels for each kind of tickets: accuracy, Z_U and the NLL of ensembles over the
cost, which is a fraction of a ticket's training; means over seeds, and 95 % intervals over networks of the accuracy.
"""

import statistics
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.generator.polish import CHOSEN, CHOSEN_THEN, LAST_LAYER, MEAN, SAMPLES, TICKETS
from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, save, tidy

COLOURS = {SAMPLES: ACCENT, TICKETS: TRAINING, MEAN: OTHER}
PANELS = {"accuracy": "test accuracy", "Z_U": "Z_U (below -2: copies)", "ensemble nll": "NLL of the ensemble"}
NEAR = 0.0025  # costs below it are drawn on a linear scale
LOWEST = {"accuracy": 0.84, "ensemble nll": None, "Z_U": None}
HIGHEST = {"accuracy": None, "ensemble nll": 0.40, "Z_U": None}


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Draw polish.svg.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    figures.mkdir(parents=True, exist_ok=True)
    save(polish(tables.read(results / "generator/polish.csv")), figures / "polish.svg")


def polish(rows: list[dict[str, str]]) -> Figure:
    """The frontier of polishing.

    Args:
        rows: Rows of generator/polish.csv.
    """
    kinds = sorted({(row["hidden"], float(row["density"])) for row in rows}, key=_largest_first)
    figure = Figure(figsize=(11, 0.6 + 3 * len(kinds)), layout="constrained", dpi=130, facecolor="white")
    grid = figure.subplots(len(kinds), len(PANELS), squeeze=False)
    for line, (hidden, density) in zip(grid, kinds, strict=True):
        of_kind = [row for row in rows if (row["hidden"], float(row["density"])) == (hidden, density)]
        for axes, column in zip(line, PANELS, strict=True):
            _panel(axes, of_kind, column)
        line[0].set_title(f"784-{hidden}-10 at density {density:.2f}", loc="left", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("cost, % of a ticket's training")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), fontsize=8, ncols=7, frameon=False, loc="outside lower center"
    )
    return figure


def _largest_first(kind: tuple[str, float]) -> tuple[int, float]:
    """Order of the kinds of tickets."""
    hidden, density = kind
    return -int(hidden.split("-")[0]), -density


def _panel(axes: Axes, rows: list[dict[str, str]], column: str) -> None:
    """One column of the table over the cost."""
    tidy(axes)
    axes.axvline(1, color=OTHER, linewidth=1, linestyle=(0, (1, 3)))
    for arm, colour in COLOURS.items():
        if column != "Z_U" or arm == SAMPLES:
            _line(axes, [row for row in rows if row["arm"] == arm], column, arm, colour)
    if column == "Z_U":
        axes.axhline(-2, color=OTHER, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(LOWEST[column], HIGHEST[column])
    axes.set_xscale("symlog", linthresh=100 * NEAR)
    axes.set_xticks([0, 0.3, 1, 3, 9], ["0", "0.3", "1", "3", "9"])
    axes.set_ylabel(PANELS[column])
    axes.set_xlim(-100 * NEAR / 5, None)


def _line(axes: Axes, rows: list[dict[str, str]], column: str, arm: str, colour: str) -> None:
    """Steps as a line, the last layer as a diamond, chosen samples as stars."""
    found = {row["polish"] for row in rows}
    points = [[row for row in rows if row["polish"] == way] for way in sorted(filter(str.isdigit, found), key=int)]
    x = [100 * _mean(point, "cost") for point in points]
    y = [_mean(point, column) for point in points]
    half = [_mean(point, "gain ±") for point in points] if column == "accuracy" else None
    axes.errorbar(x, y, yerr=half, fmt="o-", markersize=4, color=colour, capsize=2, label=arm)
    last = [row for row in rows if row["polish"] == LAST_LAYER]
    axes.plot(
        100 * _mean(last, "cost"), _mean(last, column), "D", color=colour, markersize=7, label=f"{arm}, last layer"
    )
    chosen = [[row for row in rows if row["polish"] == way] for way in (CHOSEN, CHOSEN_THEN) if way in found]
    if chosen:
        x, y = [100 * _mean(point, "cost") for point in chosen], [_mean(point, column) for point in chosen]
        axes.plot(x, y, "*:", color=colour, markersize=9, label=f"{arm}, the best of 4")


def _mean(rows: list[dict[str, str]], column: str) -> float:
    """Mean over seeds."""
    return statistics.fmean(float(row[column]) for row in rows)


if __name__ == "__main__":
    tyro.cli(main)

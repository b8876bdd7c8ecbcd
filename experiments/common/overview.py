"""Are sampled networks new, and as good as tickets?

    python -m experiments.common.overview          (seconds; writes docs/figures/overview.png)

The figure of the README: test accuracy of single networks over their distance to the nearest training ticket, from
generator/digits.csv.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import tables
from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, save, tidy

SETTING = {"network": "64-128-64-10", "density": "0.1", "components": "16", "radius": "0.9"}


@dataclass(frozen=True)
class Point:
    """A group of networks in the figure.

    Args:
        text: Label beside the point.
        at: Where the label goes, in points from the point's centre.
        align: Side of the label that is next to the point, "left", "right" or "center".
        colour: Colour of the point and its label.
    """

    text: str
    at: tuple[float, float]
    align: str = "left"
    colour: str = OTHER


POINTS = {
    "samples": Point("sampled networks", (0, 13), "center", ACCENT),
    "training tickets": Point("tickets", (11, 7), "left", TRAINING),
    "random decoder": Point("control: refined without\nthe training tickets", (0, -33), "center"),
    "tickets trained on": Point("tickets, trained further", (-8, 11)),
    "interpolation": Point("interpolation of two tickets", (10, -4)),
    "noise, equal errors": Point("tickets + noise", (-10, -4), "right"),
    "flow alone": Point("flow matching alone", (10, -4)),
}


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Draw overview.png.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figure.
    """
    rows = [row for row in tables.read(results / "generator/digits.csv") if SETTING.items() <= row.items()]
    figure = Figure(figsize=(8, 4.3), layout="constrained", dpi=200, facecolor="white")
    axes = figure.add_subplot()
    tidy(axes)
    axes.grid(visible=False)
    axes.set(xlim=(0, 3.05), ylim=(93.6, 97.95))
    ticket = middle(rows, "training tickets", "accuracy")[0]
    axes.axvspan(1, 3.05, color=ACCENT, alpha=0.07, linewidth=0)
    axes.axhline(100 * ticket, color=TRAINING, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.text(1.06, 97.68, "farther from the training tickets than new tickets are", fontsize=10.5, color=ACCENT)
    for name, point in POINTS.items():
        draw(axes, rows, name, point)
    axes.set_xlabel("distance to the nearest training ticket (1: that between training tickets)", fontsize=11.5)
    axes.set_ylabel("test accuracy, %", fontsize=11.5)
    axes.tick_params(labelsize=11)
    axes.set_title("Sampled networks are new, and as accurate as tickets", fontsize=14, loc="left", weight="bold")
    note = "digits, MLP 64-128-64-10, 10 % of the weights;\nmean ± standard deviation over three seeds"
    axes.text(3.02, 93.7, note, fontsize=10, color=OTHER, ha="right")
    figures.mkdir(parents=True, exist_ok=True)
    save(figure, figures / "overview.png")


def draw(axes: Axes, rows: list[dict[str, str]], name: str, point: Point) -> None:
    """A point with its standard deviation over seeds, and its label."""
    (x, x_std), (y, y_std) = (middle(rows, name, column) for column in ("distance", "accuracy"))
    large = name in ("samples", "training tickets")
    axes.errorbar(x, 100 * y, 100 * y_std, x_std, fmt="o", color=point.colour, markersize=10 if large else 7, capsize=2)
    axes.annotate(
        point.text,
        (x, 100 * y),
        point.at,
        textcoords="offset points",
        ha=point.align,
        fontsize=12 if large else 11,
        weight="bold" if large else "normal",
        color=point.colour,
    )


def middle(rows: list[dict[str, str]], name: str, column: str) -> tuple[float, float]:
    """Mean over seeds and its standard deviation."""
    values = [float(row[column]) for row in rows if row["networks"] == name]
    return statistics.fmean(values), statistics.stdev(values)


if __name__ == "__main__":
    tyro.cli(main)

"""What do sparse changes forget, how well do they merge, and how good are sampled adapters?

    python -m experiments.adapt.figures     (seconds; writes forgetting.svg, merging.svg, adapters.svg)

Draws adapt/interference.csv, adapt/merging.csv, adapt/adapter_spectrum.csv and adapt/adapter_collection.csv, with 95 %
intervals.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import tables
from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, colours, new, save, tidy

FORMS = {"canonical": ACCENT, "as trained": TRAINING}


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Draw forgetting.svg, merging.svg and adapters.svg.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    figures.mkdir(parents=True, exist_ok=True)
    save(forgetting(tables.read(results / "adapt/interference.csv")), figures / "forgetting.svg")
    save(merging(tables.read(results / "adapt/merging.csv")), figures / "merging.svg")
    spectrum, rows = (tables.read(results / f"adapt/adapter_{name}.csv") for name in ("spectrum", "collection"))
    save(sampled(spectrum, rows), figures / "adapters.svg")


def forgetting(rows: Sequence[dict[str, str]]) -> Figure:
    """What each way forgets of the first task, over the accuracy of the second, along its rates.

    Args:
        rows: Rows of adapt/interference.csv.
    """
    figure, axes = new(8, 4)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    colour = colours(ways, "LoTA 0.1", "full")
    axes.axhline(0, color=OTHER, linewidth=1, linestyle=(0, (4, 3)))
    for way in ways:
        own = [row for row in rows if row["way"] == way]
        x, wide, y, high = (
            [100 * float(row[name]) for row in own]
            for name in ("second test", "second test ±", "forgotten", "forgotten ±")
        )
        axes.errorbar(x, y, xerr=wide, yerr=high, fmt="o-", markersize=4, color=colour[way], capsize=2, label=way)
    axes.set_xlabel("test accuracy of fiction, %, at three rates")
    axes.set_ylabel("points of sentiment lost")
    axes.legend(fontsize=8, frameon=False)
    return figure


def merging(rows: Sequence[dict[str, str]]) -> Figure:
    """Both accuracies of merged changes.

    Args:
        rows: Rows of adapt/merging.csv.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=130, facecolor="white")
    kinds = list(dict.fromkeys(row["vectors"] for row in rows))
    panels = figure.subplots(1, len(kinds), sharey=True, sharex=True, squeeze=False)[0]
    names = list(dict.fromkeys(row["merger"] for row in rows))
    colour = colours(names, "TIES", "alone")
    for axes, kind in zip(panels, kinds, strict=True):
        tidy(axes)
        for row in (row for row in rows if row["vectors"] == kind):
            x, wide, y, high = (100 * float(row[name]) for name in ("first", "first ±", "second", "second ±"))
            own = colour[row["merger"]]
            axes.errorbar(x, y, xerr=wide, yerr=high, fmt="o", color=own, capsize=2, label=row["merger"])
        axes.set_title(f"changes by {kind}", fontsize=11, loc="left")
        axes.set_xlabel("test accuracy of sentiment, %")
    panels[0].set_ylabel("of fiction, %")
    panels[-1].legend(fontsize=8, frameon=False)
    return figure


def sampled(spectrum: Sequence[dict[str, str]], rows: Sequence[dict[str, str]]) -> Figure:
    """Variance in principal components, and accuracies of adapters and of samples.

    Args:
        spectrum: Rows of adapt/adapter_spectrum.csv.
        rows: Rows of adapt/adapter_collection.csv.
    """
    figure = Figure(figsize=(8.5, 3.6), layout="constrained", dpi=130, facecolor="white")
    left, right = figure.subplots(1, 2)
    tidy(left)
    for form, colour in FORMS.items():
        own = list(accumulate(100 * float(row["share"]) for row in spectrum if row["form"] == form))
        left.plot(range(1, len(own) + 1), own, color=colour, label=form)
    left.set_xlabel("principal components")
    left.set_ylabel("share of the variance, %")
    left.legend(fontsize=8, frameon=False)
    accuracies(right, rows)
    return figure


def accuracies(axes: Axes, rows: Sequence[dict[str, str]]) -> None:
    """One line for each kind of network, and a mark for each form.

    Args:
        axes: Where to draw.
        rows: Rows of adapt/adapter_collection.csv.
    """
    tidy(axes)
    names = [n for n in dict.fromkeys(row["networks"] for row in rows) if "mask" not in n and "pruned" not in n][::-1]
    rows = [row for row in rows if row["networks"] in names]
    for k, (form, colour) in enumerate(FORMS.items()):
        for row in (row for row in rows if row["form"] == form):
            mean, half = (100 * float(row[name] or 0) for name in ("accuracy", "accuracy ±"))
            y = names.index(row["networks"]) + 0.15 * (1 - 2 * k)
            axes.errorbar(mean, y, xerr=half, fmt="o", markersize=4, color=colour, capsize=2)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("test accuracy, %")


if __name__ == "__main__":
    tyro.cli(main)

"""How far above their controls are tickets of pre-trained BERT?

    python -m experiments.language.figures          (seconds; writes docs/figures/bert_tickets.svg)

Draws language/bert_tickets.csv: test accuracy of each arm, with its 95 % interval over seeds.
"""

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.common import tables
from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, save, tidy


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Draw bert_tickets.svg.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figure.
    """
    rows = tables.read(results / "language/bert_tickets.csv")
    dense = next(row for row in rows if row["networks"] == "dense")
    densities = list(dict.fromkeys(row["density"] for row in rows if row is not dense))
    figure = Figure(figsize=(8, 3.2), layout="constrained", dpi=130, facecolor="white")
    panels = figure.subplots(1, len(densities), sharey=True, sharex=True, squeeze=False)[0]
    for axes, density in zip(panels, densities, strict=True):
        tidy(axes)
        arms = [row for row in rows if row["density"] == density][::-1]
        axes.axvline(100 * float(dense["accuracy"]), color=TRAINING, linewidth=1, linestyle=(0, (4, 3)))
        for y, row in enumerate(arms):
            colour = ACCENT if row["networks"] == "ticket" else OTHER
            mean, half = (100 * float(row[name]) for name in ("accuracy", "accuracy ±"))
            axes.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=2)
        axes.set_yticks(range(len(arms)), [row["networks"] for row in arms])
        axes.set_title(f"{100 * float(density):.0f} % of the encoder's weights", fontsize=11, loc="left")
        axes.set_xlabel("test accuracy, % (dashed: dense)")
    figures.mkdir(parents=True, exist_ok=True)
    save(figure, figures / "bert_tickets.svg")


if __name__ == "__main__":
    tyro.cli(main)

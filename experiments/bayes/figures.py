"""How do accuracy and uncertainty of Bayesian tickets on MNIST change with density?

    python -m experiments.bayes.figures          (seconds)

Draws the figures from the table of mnist.py.
"""

import csv
import statistics
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.common import tables
from weightspace.bayes.study import pages
from weightspace.bayes.study.results import StudyResult, StudyRow
from weightspace.report.plots.style import save, tidy

# Strength of each score in the family |mu| - lambda sigma; all prune the same posteriors, those of the levels by |mu|.
FAMILY = {
    "lambda -1": -1.0, "|mu|": 0.0, "lambda 0.25": 0.25, "lambda 0.5": 0.5, "lambda 0.75": 0.75,
    "lambda 1.5": 1.5, "lambda 2": 2.0,
}  # fmt: skip


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Write bayes_tickets_mnist.png and bayes_tickets_lambda.png, and print the tables.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    with open(results / "bayes/mnist.csv", newline="", encoding="utf-8") as file:
        rows = [StudyRow.from_cells(cells) for cells in csv.DictReader(file)]
    levels = [row for row in rows if row.method == "|mu|" or row.method not in FAMILY]
    result = StudyResult("mnist", 10_000, levels)
    save(pages.curves(result).figure, figures / "bayes_tickets_mnist.png")
    save(sweep(rows), figures / "bayes_tickets_lambda.png")
    for table in (pages.over_densities(result, "accuracy"), pages.at_the_end(result), pages.differences(result)):
        print(f"\n{table.heading}\n{table.text()}")


def sweep(rows: list[StudyRow]) -> Figure:
    """Accuracy over the strength of the penalty, first seed."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained", dpi=130)
    densities = sorted({r.density for r in rows if r.method in FAMILY and r.method != "|mu|"}, reverse=True)
    for i, density in enumerate(densities):
        axes = figure.add_subplot(1, len(densities), i + 1)
        tidy(axes)
        near = [r for r in rows if abs(r.density / density - 1) < 1e-3]
        points = {
            strength: r.accuracy
            for name, strength in FAMILY.items()
            for r in near
            if r.method == name and r.network == 0
        }
        axes.plot(list(points), list(points.values()), "o-", color="#c2410c")
        accuracies = [r.accuracy for r in near if r.method == "|mu|"]
        axes.axhspan(
            min(accuracies), max(accuracies), color="#1d4ed8", alpha=0.12, label=f"|mu|, {len(accuracies)} seeds: range"
        )
        axes.axhline(statistics.fmean(accuracies), color="#1d4ed8", linewidth=1)
        axes.set_xlabel("strength of the penalty on sigma\n(0: |mu|, 1 would be |mu| / sigma)")
        axes.set_ylabel("test accuracy")
        axes.set_title(f"density {density:.3g}")
        axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    tyro.cli(main)

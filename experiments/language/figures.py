"""How far above their controls are tickets of language models?

    python -m experiments.language.figures          (seconds; writes four figures)

Draws language/bert_tickets.csv, test accuracy of each arm; language/lstm.csv and transformer.csv, bits a character over
density; and language/copies.csv, test accuracy of sampled copies. All with 95 % intervals.
"""

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.common import tables
from weightspace.report.plots.style import ACCENT, OTHER, TRAINING, colours, new, save, tidy

NOT_ALONE = "ticket, trained like its controls"  # the ticket again


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Draw bert_tickets.svg, lstm.svg, transformer.svg and copies.svg.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    figures.mkdir(parents=True, exist_ok=True)
    save(pretrained(tables.read(results / "language/bert_tickets.csv")), figures / "bert_tickets.svg")
    for network in ("lstm", "transformer"):
        save(from_scratch(tables.read(results / f"language/{network}.csv")), figures / f"{network}.svg")
    save(sampled(tables.read(results / "language/copies.csv")), figures / "copies.svg")


def pretrained(rows: list[dict[str, str]]) -> Figure:
    """Accuracy of tickets of BERT and their controls.

    Args:
        rows: Rows of language/bert_tickets.csv.
    """
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
    return figure


def sampled(rows: list[dict[str, str]]) -> Figure:
    """Accuracy of the mean of copies of BERT, and of samples, above the copies' own.

    Args:
        rows: Rows of language/copies.csv.
    """
    heads = list(dict.fromkeys(row["heads"] for row in rows))
    figure = Figure(figsize=(8, 2.2), layout="constrained", dpi=130, facecolor="white")
    panels = figure.subplots(1, len(heads), sharey=True, sharex=True, squeeze=False)[0]
    for axes, head in zip(panels, heads, strict=True):
        tidy(axes)
        arms = [row for row in rows if row["heads"] == head and row["networks"] not in ("copies", "before tuning")]
        axes.axvline(0, color=TRAINING, linewidth=1, linestyle=(0, (4, 3)))
        for y, row in enumerate(arms[::-1]):
            colour = ACCENT if row["networks"] == "flow" else OTHER
            mean, low, high = (100 * float(row[f"above copies{end}"]) for end in ("", " low", " high"))
            axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=2)
        axes.set_yticks(range(len(arms)), [row["networks"] for row in arms[::-1]])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.set_title(f"head: {head}", fontsize=11, loc="left")
        axes.set_xlabel("test accuracy above copies, points")
    return figure


def from_scratch(rows: list[dict[str, str]]) -> Figure:
    """Bits a character of tickets of an LSTM or transformer and their controls.

    Args:
        rows: Rows of language/lstm.csv or transformer.csv.
    """
    figure, axes = new(8, 4)
    dense = float(next(row["bits"] for row in rows if row["arm"] == "dense"))
    axes.axhline(dense, color=TRAINING, linewidth=1, linestyle=(0, (4, 3)), label="dense")
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm not in ("dense", NOT_ALONE)]
    colour = colours(arms, "ticket, rewound to 100", "dense")
    for i, arm in enumerate(arms):
        own = [row for row in rows if row["arm"] == arm]
        x = [float(row["density"]) * 1.02 ** (i - len(arms) / 2) for row in own]  # side by side
        bits, low, high = ([float(row[name]) for row in own] for name in ("bits", "low", "high"))
        below, above = ([abs(b - e) for b, e in zip(bits, end, strict=True)] for end in (low, high))
        axes.errorbar(x, bits, yerr=[below, above], fmt="o-", markersize=4, color=colour[arm], capsize=2, label=arm)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.16, 0.25, 0.4, 0.63], ["0.10", "0.16", "0.25", "0.40", "0.63"])
    axes.minorticks_off()
    axes.set_xlabel("density")
    axes.set_ylabel("test bits a character")
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    tyro.cli(main)

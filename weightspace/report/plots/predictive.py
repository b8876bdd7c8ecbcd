"""Figures of predictions: reliability, confusion, behaviour under shift."""

from collections.abc import Mapping, Sequence

import numpy as np

from weightspace.report.plots.style import OTHER, Figure, blank, colours, new, tidy
from weightspace.report.results import GroupResult, PredictiveResult


def reliability(
    groups: Sequence[GroupResult],
    samples: str,
    reference: str,
    right: str = "accuracy",
    confidence: str = "confidence",
) -> Figure:
    """Accuracy against confidence of each ensemble, and how its confidences are spread.

    Args:
        groups: Groups of networks.
        samples: Name of the group that is judged.
        reference: Name of the training networks.
        right: Label of the vertical axis.
        confidence: What the horizontal axis shows of the ensemble.
    """
    figure = blank(6.0, 6.2)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    top, low = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    tidy(top)
    tidy(low)
    palette = colours([group.name for group in groups], samples, reference)
    top.plot([0, 1], [0, 1], color=OTHER, linewidth=0.8, linestyle="--", label="calibrated")
    for group in groups:
        bins = [one for one in group.reliability if one.count]
        counts = np.array([one.count for one in bins])
        x, y = np.array([one.confidence for one in bins]), np.array([one.accuracy for one in bins])
        total = counts.sum()
        top.scatter(x, y, s=12 + 120 * counts / total, color=palette[group.name], label=group.name, alpha=0.8)
        low.plot(x, counts / total, ".-", color=palette[group.name], alpha=0.8)
    top.set_ylabel(right)
    top.legend(frameon=False, fontsize=8)
    low.set_xlabel(f"{confidence} of the ensemble")
    low.set_ylabel("share of samples")
    return figure


def confusion(matrices: Mapping[str, Sequence[Sequence[int]]]) -> Figure:
    """Samples of each class that an ensemble takes for another; right answers are on the diagonal."""
    count = len(matrices)
    size = len(next(iter(matrices.values())))
    figure = blank(4.6 * count, 4.6)
    for k, (name, matrix) in enumerate(matrices.items()):
        axes = figure.add_subplot(1, count, k + 1)
        values = np.asarray(matrix, dtype=float)
        errors = values - np.diag(np.diag(values))  # the diagonal would drown them
        most = max(1.0, float(errors.max()))
        axes.imshow(errors, cmap="Oranges", vmin=0, vmax=most)
        if size <= 20:
            for i, j in np.argwhere(values > 0):
                dark = i != j and values[i, j] > 0.6 * most
                axes.text(
                    j,
                    i,
                    f"{int(values[i, j])}",
                    ha="center",
                    va="center",
                    fontsize=7 if size <= 10 else 5,
                    color="white" if dark else "black",
                )
            axes.set_xticks(range(size))
            axes.set_yticks(range(size))
        axes.set_title(f"ensemble of {name}", fontsize=10)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("class")
    return figure


def shift(ensembles: Sequence[PredictiveResult], samples: str, reference: str, metric: str = "nll") -> Figure:
    """NLL (or another metric) of each ensemble as the inputs drift away, a panel a kind of shift."""
    kinds = list(dict.fromkeys(shift.kind for shift in ensembles[0].shifts if shift.severity))
    figure = blank(3.0 * len(kinds) + 2.4, 3.4)
    palette = colours([p.name for p in ensembles], samples, reference)
    for k, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), k + 1)
        tidy(axes)
        for ensemble in ensembles:
            y = [shift.scores[metric] for shift in ensemble.shifts if shift.kind == kind or not shift.severity]
            axes.plot(range(len(y)), y, ".-", color=palette[ensemble.name], label=ensemble.name if k == 0 else None)
        axes.set_title(kind, fontsize=10)
        axes.set_xticks(range(4))
        axes.set_xlabel("severity")
    figure.axes[0].set_ylabel(f"{'NLL' if metric == 'nll' else metric} of the ensemble")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def comparison(
    rows: Mapping[str, tuple[float, float, float, float | None]], what: str, metric: str = "accuracy"
) -> Figure:
    """Runs side by side: accuracy (or another metric) with its standard deviation against distance.

    Args:
        rows: Distance, metric, its standard deviation and the metric of the ensemble, by name of the run.
        what: Label of the horizontal axis.
        metric: Name of the metric.
    """
    figure, axes = new(height=5.0)
    palette = colours(list(rows), "", "")
    for name, (distance, score, std, ensemble) in rows.items():
        axes.errorbar(distance, score, yerr=std, fmt="o", color=palette[name], label=name, capsize=3)
        if ensemble is not None:
            axes.plot(distance, ensemble, "^", color=palette[name], markersize=7, markeredgecolor="white")
    axes.set_xlabel(what)
    axes.set_ylabel(f"test {metric} (triangle: ensemble)")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

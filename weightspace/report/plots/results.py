"""Figures of evaluation results."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from weightspace.report.plots.style import OTHER, TRAINING, colours, new, tidy
from weightspace.report.results import CurveResult, GroupResult

_VIOLIN = 5  # networks from which a density is drawn
_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))


def accuracy(groups: Sequence[GroupResult], samples: str, reference: str) -> Figure:
    """Test accuracy of every network, a violin for each group."""
    figure, axes = new(height=0.42 * len(groups) + 1.2)
    palette = colours([group.name for group in groups], samples, reference)
    jitter = np.random.default_rng(0)
    for row, group in enumerate(reversed(groups)):
        values = np.asarray(group.per_network["accuracy"])
        if len(values) >= _VIOLIN and np.ptp(values) > 0:
            parts = axes.violinplot(values, [row], orientation="horizontal", widths=0.85, showextrema=False)
            (body,) = cast("list[PolyCollection]", parts["bodies"])
            body.set(facecolor=palette[group.name], alpha=0.25, edgecolor="none")
        axes.plot(values, row + jitter.uniform(-0.15, 0.15, len(values)), ".", color=palette[group.name], alpha=0.4,
                  markersize=3)  # fmt: skip
        axes.plot(values.mean(), row, "|", color="black", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(groups)), [group.name for group in reversed(groups)])
    axes.set_xlabel("test accuracy of each network (bar: mean)")
    axes.set_xlim(None, 1.0)
    return figure


def plane(
    groups: Sequence[GroupResult],
    points: Sequence[CurveResult],
    samples: str,
    reference: str,
    threshold: float,
    test_samples: int,
) -> Figure:
    """Accuracy against distance and against overlap of errors; good and new is the upper right of both."""
    figure = Figure(figsize=(12.5, 5.8), layout="constrained", dpi=130)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    band = next(group for group in groups if group.name == reference)
    unit = band.median("nearest distance")
    palette = colours([group.name for group in groups], samples, reference)
    floor = 0.5 / test_samples  # where a network without errors is drawn on the logarithmic axis

    def height(accuracy: np.ndarray) -> np.ndarray:
        return np.maximum(1 - accuracy, np.full_like(accuracy, floor))

    for axes, metric, scale in ((left, "nearest distance", unit), (right, "max error IoU", 1.0)):
        tidy(axes)
        low, high = np.quantile(np.asarray(band.per_network[metric]) / scale, [0.05, 0.95])
        axes.axvspan(low, high, color=TRAINING, alpha=0.08)
        for group in groups:
            x = np.asarray(group.per_network[metric]) / scale
            y = np.asarray(group.per_network["accuracy"])
            judged = group.name == samples
            axes.plot(x, height(y), ".", color=palette[group.name], alpha=0.5 if judged else 0.15, markersize=4,
                      zorder=4 if judged else 2)  # fmt: skip
            centre = np.median(x, keepdims=True), height(y.mean(keepdims=True))
            axes.plot(*centre, "o" if group.count > 1 else "*", color=palette[group.name], markersize=11 if judged else 7,
                      markeredgecolor="white", zorder=6 if judged else 5,
                      label=group.name if axes is left else None)  # fmt: skip
        for style, family in zip(_STYLES, dict.fromkeys(p.family for p in points), strict=False):
            some = [p for p in points if p.family == family]
            x = [p.distance / unit if axes is left else p.error_iou for p in some]
            axes.plot(x, height(np.array([p.accuracy for p in some])), linestyle=style, color="#334155", linewidth=1.1,
                      zorder=3, label=f"{family} (curve)" if axes is left else None)  # fmt: skip
        axes.axhline(1 - threshold, color=OTHER, linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.invert_yaxis()
        axes.yaxis.set_major_locator(FixedLocator([0.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{1 - error:.4g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("test accuracy (logarithmic in the error)")
    farthest = max(group.median("nearest distance") for group in groups) / unit
    left.set_xlim(-0.04, 1.15 * max(1.5, min(farthest, 20.0)))
    left.set_xlabel("distance to the nearest training network\n/ median among training networks")
    right.set_xlabel("largest overlap of errors with a training network\n(new is to the right)")
    right.invert_xaxis()
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def layer_density(groups: Sequence[GroupResult], samples: str, reference: str) -> Figure:
    """Mean density of each layer: whether samples spread their weights as tickets do."""
    sparse = [group for group in groups if min(group.layer_density.values()) < 1]
    palette = colours([group.name for group in groups], samples, reference)
    layers = list(sparse[0].layer_density)
    figure, axes = new(width=max(8.0, 0.9 * len(layers)))
    width = 0.8 / len(sparse)
    for i, group in enumerate(sparse):
        x = np.arange(len(layers)) + (i - (len(sparse) - 1) / 2) * width
        axes.bar(x, [group.layer_density[layer] for layer in layers], width * 0.9, label=group.name,
                 color=palette[group.name])  # fmt: skip
    axes.set_xticks(
        range(len(layers)), layers, rotation=30 if len(layers) > 6 else 0, ha="right" if len(layers) > 6 else "center"
    )
    axes.set_ylabel("density")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

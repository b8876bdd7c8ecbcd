"""Figures of evaluation results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from weightspace.report.plots.style import OTHER, TRAINING, Axes, Figure, blank, colours, new, tidy
from weightspace.report.results import CurveResult, GroupResult

_VIOLIN = 5  # networks from which a density is drawn
_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))


def accuracy(groups: Sequence[GroupResult], samples: str, reference: str) -> Figure:
    """Test accuracy of every network, a violin for each group."""
    figure, axes = new(height=0.42 * len(groups) + 1.2)
    palette = colours([group.name for group in groups], samples, reference)
    jitter = np.random.default_rng(0)
    for row, group in enumerate(reversed(groups)):
        values = np.asarray(group.per_network.accuracy)
        if len(values) >= _VIOLIN and np.ptp(values) > 0:
            parts = axes.violinplot(values, [row], orientation="horizontal", widths=0.85, showextrema=False)
            (body,) = cast("list[Any]", parts["bodies"])
            body.set(facecolor=palette[group.name], alpha=0.25, edgecolor="none")
        heights = row + jitter.uniform(-0.15, 0.15, len(values))
        axes.plot(values, heights, ".", color=palette[group.name], alpha=0.4, markersize=3)
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
    """Accuracy against distance and against overlap of errors; good and new is the upper right of both.

    Args:
        groups: Groups of networks.
        points: Points of the baselines' curves.
        samples: Name of the group that is judged.
        reference: Name of the training networks.
        threshold: Accuracy from which a network counts as performing.
        test_samples: Size of the test split.
    """
    figure = blank(12.5, 5.8)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    training = next(group for group in groups if group.name == reference)
    unit = training.median("nearest_distance")
    palette = colours([group.name for group in groups], samples, reference)
    least = 0.5 / test_samples  # where a network without errors is drawn on the logarithmic axis
    metrics: tuple[tuple[Axes, str, float], ...] = ((left, "nearest_distance", unit), (right, "max_error_iou", 1.0))
    for axes, metric, scale in metrics:
        tidy(axes)
        low, high = np.quantile(np.asarray(training.values(metric)) / scale, [0.05, 0.95])
        axes.axvspan(low, high, color=TRAINING, alpha=0.08)
        for group in groups:
            _cloud(axes, group, metric, scale, least, palette[group.name], highlighted=group.name == samples)
        _curves(axes, points, metric, unit, least)
        axes.axhline(1 - threshold, color=OTHER, linewidth=0.8, linestyle=":")
        _accuracy_axis(axes)
    by_angle(left, groups, training, lambda group: _error(np.array([group.mean("accuracy")]), least), palette)
    farthest = max(group.median("nearest_distance") for group in groups) / unit
    left.set_xlim(-0.04, 1.15 * max(1.5, min(farthest, 20.0)))
    left.set_xlabel("distance to the nearest training network\n/ median among training networks")
    right.set_xlabel("largest overlap of errors with a training network\n(new is to the right)")
    right.invert_xaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _cloud(
    axes: Axes, group: GroupResult, metric: str, scale: float, least: float, colour: str, *, highlighted: bool
) -> None:
    """Every network as a dot, the group as a circle (a star for a single network)."""
    x, accuracies = np.asarray(group.values(metric)) / scale, np.asarray(group.per_network.accuracy)
    alpha, order = (0.5, 4) if highlighted else (0.15, 2)
    axes.plot(x, _error(accuracies, least), ".", color=colour, alpha=alpha, markersize=4, zorder=order)
    axes.plot(
        np.median(x, keepdims=True),
        _error(accuracies.mean(keepdims=True), least),
        "o" if group.count > 1 else "*",
        color=colour,
        markersize=11 if highlighted else 7,
        markeredgecolor="white",
        zorder=6 if highlighted else 5,
        label=group.name,
    )


def by_angle(
    axes: Axes,
    groups: Sequence[GroupResult],
    training: GroupResult,
    height: Callable[[GroupResult], np.ndarray],
    palette: Mapping[str, str],
) -> None:
    """A hollow circle for each group where it lies by angle instead of distance, if angles were measured.

    Args:
        axes: Where to draw.
        groups: Groups of networks.
        training: The training networks, which give the unit.
        height: Where a group is drawn.
        palette: Colour of each group.
    """
    unit = 0.0 if training.per_network.nearest_angle is None else training.median("nearest_angle")
    known = [group for group in groups if unit > 0 and group.per_network.nearest_angle is not None]
    for group in known:
        axes.plot(
            [group.median("nearest_angle") / unit],
            height(group),
            "o",
            markerfacecolor="none",
            markeredgecolor=palette[group.name],
            markersize=7,
            zorder=5,
            label="by angle (hollow)" if group is known[0] else None,
        )


def _curves(axes: Axes, points: Sequence[CurveResult], metric: str, unit: float, least: float) -> None:
    for style, family in zip(_STYLES, dict.fromkeys(point.family for point in points), strict=False):
        curve = [point for point in points if point.family == family]
        x = [p.distance / unit if metric == "nearest_distance" else p.error_iou for p in curve]
        y = _error(np.array([point.score for point in curve]), least)
        axes.plot(x, y, linestyle=style, color="#334155", linewidth=1.1, zorder=3, label=f"{family} (curve)")


def _error(accuracy: np.ndarray, least: float) -> np.ndarray:
    return np.maximum(1 - accuracy, np.full_like(accuracy, least))


def _accuracy_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.invert_yaxis()
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.yaxis.set_major_locator(FixedLocator([0.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{1 - error:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("test accuracy (logarithmic in the error)")


def layer_density(groups: Sequence[GroupResult], samples: str, reference: str) -> Figure:
    """Mean density of each layer: whether samples spread their weights as tickets do."""
    sparse = [group for group in groups if group.sparse]
    palette = colours([group.name for group in groups], samples, reference)
    layers = [layer.name for layer in sparse[0].layer_density]
    figure, axes = new(width=max(8.0, 0.9 * len(layers)))
    width = 0.8 / len(sparse)
    for i, group in enumerate(sparse):
        x = np.arange(len(layers)) + (i - (len(sparse) - 1) / 2) * width
        heights = [layer.density for layer in group.layer_density]
        axes.bar(x, heights, width * 0.9, label=group.name, color=palette[group.name])
    many = len(layers) > 6
    axes.set_xticks(range(len(layers)), layers, rotation=30 if many else 0, ha="right" if many else "center")
    axes.set_ylabel("density")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

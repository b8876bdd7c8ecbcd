"""Figures of networks by a metric other than accuracy: better is up or to the right, far worse is at the edge."""

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np

from weightspace.report.metrics import ReportedMetric
from weightspace.report.plots.results import by_angle
from weightspace.report.plots.style import OTHER, TRAINING, Axes, Figure, blank, colours, new, tidy
from weightspace.report.results import CurveResult, GroupResult

_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))
_BELOW = 6.0  # the edge is so many times as far below the best networks as the threshold is


def scores(
    groups: Sequence[GroupResult], samples: str, reference: str, threshold: float, metric: ReportedMetric
) -> Figure:
    """A metric of every network, a row for each group.

    Args:
        groups: Groups of networks.
        samples: Name of the group that is judged.
        reference: Name of the training networks.
        threshold: Value from which a network counts as performing.
        metric: The metric.
    """
    figure, axes = new(height=0.42 * len(groups) + 1.2)
    palette = colours([group.name for group in groups], samples, reference)
    shown = _clipped(groups, threshold, metric)
    jitter = np.random.default_rng(0)
    for row, group in enumerate(reversed(groups)):
        values = np.asarray(group.values(metric.name))
        heights = row + jitter.uniform(-0.15, 0.15, len(values))
        axes.plot(shown(values), heights, ".", color=palette[group.name], alpha=0.4, markersize=3)
        axes.plot(shown(values.mean(keepdims=True)), row, "|", color="black", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(groups)), [group.name for group in reversed(groups)])
    axes.axvline(threshold, color=OTHER, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"test {metric.label} of each network (bar: mean)")
    if not metric.higher_is_better:
        axes.invert_xaxis()
    return figure


def plane_of(
    groups: Sequence[GroupResult],
    points: Sequence[CurveResult],
    samples: str,
    reference: str,
    threshold: float,
    metric: ReportedMetric,
    errors: str,
) -> Figure:
    """A metric against distance and against likeness of errors; good and new is the upper right of both.

    Args:
        groups: Groups of networks.
        points: Points of the baselines' curves.
        samples: Name of the group that is judged.
        reference: Name of the training networks.
        threshold: Value from which a network counts as performing.
        metric: The metric.
        errors: How errors of two networks are compared.
    """
    figure = blank(12.5, 5.8)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    training = next(group for group in groups if group.name == reference)
    unit = training.median("nearest_distance")
    palette = colours([group.name for group in groups], samples, reference)
    shown = _clipped(groups, threshold, metric)
    sides: tuple[tuple[Axes, str, float], ...] = ((left, "nearest_distance", unit), (right, "max_error_iou", 1.0))
    for axes, what, scale in sides:
        tidy(axes)
        axes.axvspan(*np.quantile(np.asarray(training.values(what)) / scale, [0.05, 0.95]), color=TRAINING, alpha=0.08)
        for group in groups:
            judged = group.name == samples
            x, y = np.asarray(group.values(what)) / scale, np.asarray(group.values(metric.name))
            axes.plot(x, shown(y), ".", color=palette[group.name], alpha=0.5 if judged else 0.15, markersize=4)
            axes.plot(
                np.median(x, keepdims=True),
                shown(y.mean(keepdims=True)),
                "o" if group.count > 1 else "*",
                color=palette[group.name],
                markersize=11 if judged else 7,
                markeredgecolor="white",
                zorder=6 if judged else 5,
                label=group.name,
            )
        for style, family in zip(cycle(_STYLES), dict.fromkeys(point.family for point in points), strict=False):
            curve = [point for point in points if point.family == family]
            x = [p.distance / unit if axes is left else p.error_iou for p in curve]
            y = shown(np.array([point.score for point in curve]))
            axes.plot(x, y, linestyle=style, color="#334155", linewidth=1.1, zorder=3, label=f"{family} (curve)")
        axes.axhline(threshold, color=OTHER, linewidth=0.8, linestyle=":")
        axes.set_ylabel(f"test {metric.label}")
        if not metric.higher_is_better:
            axes.invert_yaxis()
    by_angle(left, groups, training, lambda group: shown(np.array([group.mean(metric.name)])), palette)
    farthest = max(group.median("nearest_distance") for group in groups) / unit
    left.set_xlim(-0.04, 1.15 * max(1.5, min(farthest, 20.0)))
    left.set_xlabel("distance to the nearest training network\n/ median among training networks")
    right.set_xlabel(f"largest {errors} with a training network\n(new is to the right)")
    right.invert_xaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _clipped(
    groups: Sequence[GroupResult], threshold: float, metric: ReportedMetric
) -> Callable[[np.ndarray], np.ndarray]:
    """Draws values that are far worse than the threshold at the edge: broken networks would hide all others."""
    values = [value for group in groups for value in group.values(metric.name)]
    best = max(values) if metric.higher_is_better else min(values)
    edge = best + _BELOW * (threshold - best)
    return lambda y: np.maximum(y, edge) if metric.higher_is_better else np.minimum(y, edge)

"""Figures of evaluation results."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from weightspace.plots.style import OTHER, TRAINING, colours, new
from weightspace.results import ArmResult


def accuracy(arms: Sequence[ArmResult], samples: str, reference: str) -> Figure:
    """Test accuracy of every network, a row for each group."""
    figure, axes = new(height=0.42 * len(arms) + 1.2)
    palette = colours([arm.name for arm in arms], samples, reference)
    spread = np.random.default_rng(0)
    for row, arm in enumerate(reversed(arms)):
        values = np.asarray(arm.per_network["accuracy"])
        jitter = spread.uniform(-0.22, 0.22, len(values))
        axes.plot(values, row + jitter, ".", color=palette[arm.name], alpha=0.35, markersize=4)
        axes.plot(values.mean(), row, "|", color="black", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), [arm.name for arm in reversed(arms)])
    axes.set_xlabel("test accuracy of each network (bar: mean)")
    axes.set_xlim(None, 1.0)
    return figure


def plane(arms: Sequence[ArmResult], samples: str, reference: str) -> Figure:
    """Accuracy against distance from the training networks; good and new is the upper right."""
    figure, axes = new(height=5.0)
    band = np.asarray(next(arm for arm in arms if arm.name == reference).per_network["nearest distance"])
    unit = np.median(band)
    low, high = np.quantile(band / unit, [0.05, 0.95])
    axes.axvspan(low, high, color=TRAINING, alpha=0.08, label="90 % of training tickets")
    palette = colours([arm.name for arm in arms], samples, reference)
    for arm in arms:
        x = np.asarray(arm.per_network["nearest distance"]) / unit
        y = np.asarray(arm.per_network["accuracy"])
        single = arm.count == 1
        axes.plot(x, y, "*" if single else ".", color=palette[arm.name], alpha=1.0 if single else 0.35,
                  markersize=12 if single else 5, label=arm.name, zorder=3 if arm.name == samples else 2)  # fmt: skip
    axes.axvline(1.0, color=OTHER, linewidth=0.8, linestyle="--")
    axes.set_xlabel("distance to the nearest training ticket / median among training tickets")
    axes.set_ylabel("test accuracy")
    legend = figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    return figure


def layer_density(arms: Sequence[ArmResult], samples: str, reference: str) -> Figure:
    """Mean density of each layer: whether samples spread their weights as tickets do."""
    sparse = [arm for arm in arms if min(arm.layer_density.values()) < 1]
    palette = colours([arm.name for arm in arms], samples, reference)
    figure, axes = new()
    layers = list(sparse[0].layer_density)
    width = 0.8 / len(sparse)
    for i, arm in enumerate(sparse):
        x = np.arange(len(layers)) + (i - (len(sparse) - 1) / 2) * width
        axes.bar(x, [arm.layer_density[layer] for layer in layers], width * 0.9, label=arm.name,
                 color=palette[arm.name])  # fmt: skip
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylabel("density")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

"""Figures of weight space: spectrum, codes, filters."""

from collections.abc import Mapping, Sequence

import numpy as np

from weightspace.report.plots.style import TRAINING, Figure, blank, colours, new


def spectrum(ratio: Sequence[float]) -> Figure:
    """Cumulative share of the total variance that the leading components explain."""
    figure, axes = new()
    cumulative = np.cumsum(ratio)
    axes.plot(np.arange(1, len(cumulative) + 1), cumulative, color=TRAINING)
    axes.set_xlabel("principal components")
    axes.set_ylabel("share of the total variance")
    axes.set_ylim(0, 1)
    return figure


def codes(groups: Mapping[str, Sequence[Sequence[float]]], samples: str, reference: str) -> Figure:
    """The two leading components of groups of networks, in standard deviations of the training networks."""
    figure, axes = new(width=5.5, height=5.0)
    palette = colours(list(groups), samples, reference)
    for name in sorted(groups, key=lambda name: name == samples):  # samples on top
        x, y = np.asarray(groups[name]).T
        axes.plot(x, y, ".", color=palette[name], alpha=0.5, label=name)
    axes.set_xlabel("component 1 (standard deviations)")
    axes.set_ylabel("component 2 (standard deviations)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False)
    return figure


def filters(images: np.ndarray, labels: Sequence[str]) -> Figure:
    """Incoming weights of first-layer units as images (networks, units, height, width), a row for each network."""
    rows, columns = images.shape[:2]
    figure = blank(0.55 * columns + 1.5, 0.55 * rows + 0.3)
    limit = float(np.quantile(np.abs(images), 0.995)) or 1.0
    for row in range(rows):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            axes.imshow(images[row, column], cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(labels[row], rotation=0, ha="right", va="center", fontsize=8)
    return figure


def rows_of_pictures(rows: Mapping[str, Sequence[Sequence[Sequence[Sequence[int]]]]]) -> Figure:
    """Pictures (columns, height, width, channels) with brightness from 0 to 255, a named row for each kind."""
    most = max(map(len, rows.values()))
    figure = blank(0.5 * most + 2.0, 0.55 * len(rows) + 0.2)
    grid = figure.subplots(len(rows), most, squeeze=False)
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        for one in axes:
            one.set_axis_off()
        for one, image in zip(axes, images, strict=False):
            pixels = np.asarray(image, np.uint8)
            if pixels.shape[2] in (3, 4):
                one.imshow(pixels)
            else:
                one.imshow(pixels.mean(2), cmap="gray", vmin=0, vmax=255)
        axes[0].text(-0.15, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=8)
    return figure

"""Figures of weight space: spectrum, codes, filters."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from weightspace.plots.style import ACCENT, TRAINING, new


def spectrum(ratio: Float[Tensor, " k"]) -> Figure:
    """Cumulative share of the total variance that the leading components explain."""
    figure, axes = new()
    cumulative = ratio.cumsum(0).numpy()
    axes.plot(np.arange(1, len(cumulative) + 1), cumulative, color=TRAINING)
    axes.set_xlabel("principal components")
    axes.set_ylabel("share of the total variance")
    axes.set_ylim(0, 1)
    return figure


def codes(training: Float[Tensor, "n k"], samples: Float[Tensor, "m k"], spread: Float[Tensor, " k"]) -> Figure:
    """The two leading components of training networks and samples, in standard deviations."""
    figure, axes = new(width=5.5, height=5.0)
    for points, colour, label in ((training, TRAINING, "training tickets"), (samples, ACCENT, "samples")):
        x, y = (points[:, :2] / spread[:2]).T.numpy()
        axes.plot(x, y, ".", color=colour, alpha=0.5, label=label)
    axes.set_xlabel("component 1 (standard deviations)")
    axes.set_ylabel("component 2 (standard deviations)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False)
    return figure


def filters(weights: Float[Tensor, "networks units height width"], labels: list[str]) -> Figure:
    """Incoming weights of first-layer units as images, a row for each network."""
    rows, columns = weights.shape[:2]
    figure = Figure(figsize=(0.55 * columns + 1.5, 0.55 * rows + 0.3), layout="constrained", dpi=130)
    limit = weights.abs().quantile(0.995).item()
    for row in range(rows):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            axes.imshow(weights[row, column].numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(labels[row], rotation=0, ha="right", va="center", fontsize=8)
    return figure

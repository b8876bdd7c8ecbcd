"""Figures of a collection."""

from collections.abc import Sequence
from statistics import median

from jaxtyping import Float
from torch import Tensor

from weightspace.report.plots.style import TRAINING, Figure, new

_LONGEST = 28  # letters of a tensor's name beside an axis


def histogram(values: Sequence[float], name: str) -> Figure:
    """A histogram of one number of each network.

    Args:
        values: The numbers.
        name: What they are.
    """
    figure, axes = new(height=3.2)
    axes.hist(values, bins=min(40, max(5, len(values) // 5)), color=TRAINING, alpha=0.7)
    axes.axvline(median(values), color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(name.replace("_", " "))
    axes.set_ylabel("networks")
    return figure


def by_layer(names: Sequence[str], kept: Float[Tensor, "n layers"]) -> Figure:
    """The share of each layer that networks keep.

    Args:
        names: Names of the layers.
        kept: Share of each network and layer.
    """
    figure, axes = new(height=0.34 * len(names) + 1.3)
    rows = list(range(len(names)))
    low, mean, high = (part.tolist() for part in (kept.min(0).values, kept.mean(0), kept.max(0).values))
    axes.barh(rows, [b - a for a, b in zip(low, high, strict=True)], left=low, height=0.6, color=TRAINING, alpha=0.25)
    axes.plot(mean, rows, "|", color=TRAINING, markersize=12, markeredgewidth=2.5)
    axes.set_yticks(rows, [name if len(name) <= _LONGEST else "…" + name[-_LONGEST:] for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max(high) * 1.05 or 1.0)
    axes.set_xlabel("share of the weights that is kept")
    return figure


def matrix(values: Float[Tensor, "n n"]) -> Figure:
    """A matrix of numbers between networks.

    Args:
        values: The numbers.
    """
    figure, axes = new(width=5.4, height=4.6)
    axes.grid(visible=False)
    shown = values.clone()
    shown.fill_diagonal_(float("nan"))
    image = axes.imshow(shown.numpy(), cmap="viridis", vmin=0)
    figure.colorbar(image, ax=axes, shrink=0.85, label="shared weights")
    axes.set_xlabel("network")
    axes.set_ylabel("network")
    return figure

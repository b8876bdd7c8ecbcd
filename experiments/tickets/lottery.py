"""Does the lottery ticket hypothesis hold for LeNet-300-100, with the settings of the paper of 2019?

    python -m experiments.tickets.lottery --data-root data          (about two hours on one core; resumable)

arXiv 1803.03635, section 2. MNIST, 55,000 training and 5,000 validation images: Adam 1.2e-3, batches of 60, 50,000
iterations at a constant rate, Glorot normal weights; 20 % of each layer pruned at each level, 10 % of the output layer;
survivors put back to their initialisation. Fashion-MNIST beside it with 8,000 iterations. The validation loss is read
every 200 iterations: its smallest value says when a network has learned. Test accuracy is read once, at the end of
training. Controls train a level's mask on a new initialisation, and as many weights of each layer at random.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tyro
from matplotlib.figure import Figure
from torch import nn

import weightspace as ws
from experiments.common import accuracy, tables
from weightspace.models import MLP
from weightspace.report.plots.style import save, tidy

LEVELS, CONTROLLED = 16, (7, 11, 15)


def network() -> nn.Module:
    """LeNet-300-100 with Glorot normal weights and zero biases."""
    module = MLP([784, 300, 100, 10])
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def main(
    data_root: Path | None = None,
    networks: int = 3,
    mnist: int = 50_000,
    fashion: int = 8_000,
    out: Path = Path("runs/lottery"),
    results: Path = tables.RESULTS,
    figures: Path = tables.FIGURES,
) -> None:
    """Write one row for each data set, level and kind of network to tickets/lottery.csv; draw them.

    Args:
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        networks: Number of networks of each kind; network i has seed i.
        mnist: Iterations of one training on MNIST; 0 leaves it out.
        fashion: Iterations of one training on Fashion-MNIST; 0 leaves it out.
        out: Folder where networks are kept; the same command continues there.
        results: Folder of the result tables.
        figures: Folder of the figure.
    """
    rows: list[dict[str, object]] = []
    datasets = ((ws.tasks.mnist, mnist), (ws.tasks.fashion_mnist, fashion))
    for load, iterations in datasets:
        if not iterations:
            continue
        length = ws.Step(iterations=iterations)
        recipe = ws.Recipe(length, batch_size=60, optimizer=ws.Adam(lr=1.2e-3), watch=ws.Step(iterations=200))
        task = replace(load(data_root=data_root), architecture=ws.Architecture.of(network), recipe=recipe)
        here = out / task.name
        dense = ws.collect(task, networks, folder=here / "dense")
        imp = ws.tickets.IMP(pattern=ws.LayerRates(LEVELS))
        rungs = imp.find_levels(dense, task, folder=here)
        for level, tickets in enumerate(rungs):
            groups = {"tickets" if level else "dense": tickets}
            if level in CONTROLLED:
                controls = ws.tickets.TicketControls()
                for name, start in (
                    ("re-initialised", controls.reinitialised(tickets)),
                    ("shuffled", controls.shuffled(tickets)),
                ):
                    groups[name] = ws.train(start, task, length, folder=here / f"{name}-{level:02}")
            for name, group in groups.items():
                rows.append({"data": task.name, "level": level, "networks": name} | measured(group, dense, task))
                print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            tables.add(results / "tickets/lottery.csv", rows, ("data", "level", "networks"))
    draw(rows, figures / "lottery.png")


def measured(networks: ws.Collection, dense: ws.Collection, task: ws.Task) -> dict[str, object]:
    """Test accuracy at the end and its difference to the dense networks' (paired, 95 %); when the loss was smallest."""
    accuracies, base = accuracy.as_list(networks, task.test), accuracy.as_list(dense, task.test)
    match = ws.tickets.matching(accuracies, base)
    prunable = networks.layout.prunable
    curves = [record["curve"] for record in networks.records]
    steps = [curve["best_step"] for curve in curves]
    best = [curve["best_validation_accuracy"] for curve in curves]
    return {
        "density": networks.masks[:, prunable].double().mean().item(),
        "seeds": len(accuracies),
        "accuracy": statistics.fmean(accuracies),
        "accuracy std": statistics.stdev(accuracies),
        "minus dense": match.difference,
        "half width": match.half_width,
        "matches": match.matches,
        "stops at": statistics.fmean(steps),
        "stops at std": statistics.stdev(steps),
        "validation accuracy there": statistics.fmean(best),
        "validation std": statistics.stdev(best),
        "smallest validation loss": statistics.fmean(curve["best_validation_loss"] for curve in curves),
    }


def draw(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """When networks stop and how accurate they are, over the density."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(4.4 * len(data), 6), layout="constrained", dpi=130)
    axes = figure.subplots(2, len(data), squeeze=False, sharex=True)
    for column, name in enumerate(data):
        here = [row for row in rows if row["data"] == name]
        for kind in ("tickets", "re-initialised", "shuffled"):
            group = [
                row for row in here if row["networks"] == kind or (row["networks"] == "dense" and kind == "tickets")
            ]
            for axis, value in ((0, "accuracy"), (1, "stops at")):
                x, y, spread = ([float(str(row[key])) for row in group] for key in ("density", value, f"{value} std"))
                axes[axis][column].errorbar(x, y, spread, marker="o", markersize=3, capsize=2, label=kind)
        low = min(float(str(row["accuracy"])) for row in here)
        axes[0][column].set(title=name, ylim=(math.floor(100 * low) / 100, None))
        axes[1][column].set(xscale="log", xlabel="density")
        for axis in axes[:, column]:
            tidy(axis)
    axes[1][0].invert_xaxis()
    axes[0][0].set_ylabel("test accuracy at the end")
    axes[1][0].set_ylabel("iteration of the smallest validation loss")
    axes[0][0].legend()
    save(figure, path)


if __name__ == "__main__":
    tyro.cli(main)

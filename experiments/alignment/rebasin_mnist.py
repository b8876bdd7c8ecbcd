"""How high are the barriers between networks of a population that nobody aligned to each other?

    python -m experiments.alignment.rebasin_mnist --data-root data          (about 15 minutes on two cores)

Git Re-Basin on MNIST: 784-512-512-512-10, ReLU, LeCun-normal weights, pixels in [0, 1], Adam 1e-3, batches of 500,
5 epochs; eight networks a population, three populations. Barriers are of the test loss, at the midpoint.

The sparse part prunes each population's first two networks to 90, 95 and 98 % by magnitude over the whole network,
trains both under their masks for 360 steps, and aligns them through their dense parents, through their sparse
weights, and through both.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tyro
from torch import nn

import weightspace as ws
from experiments.common import tables
from weightspace.align import GrowingMean, MergeMany, Star, WeightCost, WeightMatching
from weightspace.evaluation import connectivity
from weightspace.masks.overlap import overlap_within
from weightspace.models import MLP
from weightspace.report import plots
from weightspace.report.plots.style import save

SIZES = (784, 512, 512, 512, 10)


def network() -> nn.Module:
    """LeCun-normal weights and zero biases, as the figures of Git Re-Basin's MNIST experiment."""
    module = MLP(SIZES)
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return module


def main(
    data_root: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    networks: int = 8,
    out: Path = Path("runs/rebasin_mnist"),
    results: Path = tables.RESULTS,
    figures: Path = tables.FIGURES,
) -> None:
    """Write the tables alignment/rebasin_mnist.csv and alignment/rebasin_mnist_tickets.csv, and draw the figures.

    Args:
        data_root: Folder with MNIST/raw; None looks where the library looks.
        seeds: Seeds of the populations; the figures show that of seed 0.
        networks: Number of networks in each population.
        out: Folder where trained networks are kept; the same command continues there.
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    task = ws.tasks.mnist(data_root=data_root)
    unscaled = {
        name: ws.Split(split.x * 0.3081 + 0.1307, split.y)
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test))
    }
    recipe = ws.Recipe(ws.Step(epochs=5), batch_size=500, optimizer=ws.Adam(lr=1e-3), schedule="constant")
    task = replace(task, architecture=ws.Architecture.of(network), recipe=recipe, **unscaled)
    dense: list[dict[str, object]] = []
    sparse: list[dict[str, object]] = []
    for population in seeds:
        trained = ws.collect(task, networks, seed=population, folder=out / f"population-{population}")
        dense += [{"population": population, **row} for row in schemes(trained, task)]
        sparse += [{"population": population, **row} for row in tickets(trained[:2], task)]
        if population == 0:
            draw(trained, task, figures)
    tables.add(results / "alignment/rebasin_mnist.csv", dense, ("population", "alignment"))
    tables.add(results / "alignment/rebasin_mnist_tickets.csv", sparse, ("population", "sparsity", "alignment"))
    print("\npopulations of dense networks, mean ± standard deviation over populations")
    summary(dense, ("alignment",))
    print("\npairs of tickets, mean ± standard deviation over populations")
    summary(sparse, ("sparsity", "alignment"))


def schemes(trained: ws.Collection, task: ws.Task) -> list[dict[str, object]]:
    """One row for each way to align a population."""
    ways: dict[str, WeightMatching | None] = {
        "none": None,
        "star": WeightMatching(balance=False, population=Star()),
        "star, balanced": WeightMatching(population=Star()),
        "MergeMany": WeightMatching(balance=False, population=MergeMany()),
        "growing mean": WeightMatching(balance=False),
        "growing mean, balanced (default)": WeightMatching(population=GrowingMean()),
        "MergeMany, balanced": WeightMatching(population=MergeMany()),
    }
    rows: list[dict[str, object]] = []
    for name, matching in ways.items():
        began = time.perf_counter()
        aligned = trained if matching is None else matching.fit(trained).transform(trained)
        seconds = time.perf_counter() - began
        table = connectivity.barriers(aligned, task, points=1)
        to_first = [b.loss for b in table if 0 in b.pair]
        others = [b.loss for b in table if 0 not in b.pair]
        mean = connectivity.mean_network(aligned, task)
        rows.append(
            {
                "alignment": name,
                "barrier to network 0": statistics.mean(to_first),
                "barrier of other pairs": statistics.mean(others),
                "largest barrier": max(to_first + others),
                "mean network accuracy": mean.accuracy,
                "mean network loss": mean.loss,
                "residual share": connectivity.residual_share(aligned),
                "seconds": seconds,
            }
        )
    return rows


def draw(trained: ws.Collection, task: ws.Task, folder: Path) -> None:
    """Lines between the networks of one population that are not the star's centre, and the means."""
    ways = {"as trained": None, "star": WeightMatching(balance=False, population=Star()), "default": WeightMatching()}
    pairs = [(1, 2), (3, 4), (5, 6), (2, 5), (4, 7), (1, 7)]
    curves: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {}
    shares: dict[str, dict[str, float]] = {}
    for name, matching in ways.items():
        aligned = trained if matching is None else matching.fit(trained).transform(trained)
        curves[name] = [(b.positions, b.losses) for b in connectivity.barriers(aligned, task, pairs=pairs, points=11)]
        shares[name] = {
            "mean network, test accuracy": connectivity.mean_network(aligned, task).accuracy,
            "residual share": connectivity.residual_share(aligned),
        }
    folder.mkdir(parents=True, exist_ok=True)
    save(plots.lines(curves, "test loss", logarithmic=True), folder / "rebasin_mnist.png")
    save(plots.bars(shares, "fraction"), folder / "rebasin_mnist_means.png")


def tickets(pair: ws.Collection, task: ws.Task) -> list[dict[str, object]]:
    """Two tickets of independent networks, aligned in several ways."""
    rows: list[dict[str, object]] = []
    for sparsity in (0.9, 0.95, 0.98):
        rule = ws.Unstructured(1 - sparsity)
        masks = rule.mask(pair.weights.abs(), pair.layout)
        pruned = pair.replace(weights=pair.weights * masks, masks=masks)
        trained = ws.train(pruned, task, ws.Step(iterations=360)).replace(extras={"parent": pair.weights})
        ways: Mapping[str, WeightMatching | None] = {
            "none": None,
            "dense parents": WeightMatching(cost=WeightCost(("parent",), rescaled=("parent",)), balance=False),
            "sparse weights": WeightMatching(balance=False),
            "sparse weights, balanced": WeightMatching(),
            "both": WeightMatching(cost=WeightCost(("weights", "parent"), rescaled=("parent",)), balance=False),
        }
        for name, matching in ways.items():
            aligned = (
                trained if matching is None else replace(matching, population=Star()).fit(trained).transform(trained)
            )
            (barrier,) = connectivity.barriers(aligned, task, points=1)
            overlap = overlap_within(aligned)
            rows.append(
                {
                    "sparsity": sparsity,
                    "alignment": name,
                    "barrier": barrier.loss,
                    "midpoint accuracy": barrier.midpoint_accuracy,
                    "ticket accuracy": connectivity.measure(trained, task).accuracy,
                    "mask IoU": overlap.iou,
                    "chance": overlap.chance_iou,
                }
            )
    return rows


def summary(rows: Sequence[Mapping[str, object]], keys: tuple[str, ...]) -> None:
    """Mean and spread over populations."""
    for kind in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        group = [row for row in rows if tuple(row[k] for k in keys) == kind]
        parts: list[str] = []
        for name in group[0]:
            values = [row[name] for row in group]
            if name not in (*keys, "population") and all(isinstance(v, float) for v in values):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0  # pyright: ignore[reportArgumentType]
                parts.append(f"{name} {statistics.mean(values):.4f} ± {spread:.4f}")  # pyright: ignore[reportArgumentType]
        print(f"{', '.join(map(str, kind))}: {'; '.join(parts)}")


if __name__ == "__main__":
    tyro.cli(main)

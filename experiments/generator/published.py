"""Does this library reproduce DeepWeightFlow (arXiv 2601.05052), and are its samples new networks?

    python -m experiments.generator.published --data-root data          (about two hours on one core)

Networks as published: 100 MLPs, Kaiming-uniform weights, zero biases, pixels in [0, 1], Adam 1e-3 with batches of
64 for 5 epochs (MNIST, 784-32-32-10), AdamW with batches of 128 for 10 epochs (Fashion-MNIST, 784-128-128-10;
published: up to 25 with early stopping on the test split); 40 more, which no flow sees, for the evaluation. Aligned
to the first network by weight matching without scale balancing, or not at all. Networks and flows are kept under
--out and continued. Published figures are copied from the paper's tables, for comparison alone.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from torch import nn

import weightspace as ws
from experiments.common import tables
from weightspace.align import Star
from weightspace.models import MLP
from weightspace.runtime import allocator

NETWORKS, HELD_OUT = 100, 40


@dataclass(frozen=True)
class Row:
    """One row of the published tables: accuracy in percent, as printed there; None where it is not given."""

    zoo: str
    width: int
    aligned: bool
    published: str | None
    components: int | None = None


ROWS = (
    Row("mnist", 512, True, None, components=99),
    Row("mnist", 64, True, "57.80±9.85"),
    Row("mnist", 64, False, "25.54±12.90"),
    Row("mnist", 512, True, "96.17±0.31"),
    Row("fashion_mnist", 64, True, "77.76±3.72"),
    Row("fashion_mnist", 64, False, "53.35±30.49"),
    Row("mnist", 512, False, "96.19±0.27"),
)


def network(hidden: Sequence[int]) -> nn.Module:
    """An MLP with Kaiming-uniform weights and zero biases."""
    module = MLP([784, *hidden, 10])
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return module


def small() -> nn.Module:
    """The network for MNIST."""
    return network((32, 32))


def large() -> nn.Module:
    """The network for Fashion-MNIST."""
    return network((128, 128))


def task_of(zoo: str, data_root: Path | None) -> ws.Task:
    """The task with pixels in [0, 1] and the published recipe."""
    if zoo == "mnist":
        task, mean, std, build = ws.tasks.mnist(data_root=data_root), 0.1307, 0.3081, small
        recipe = ws.Recipe(ws.Step(epochs=5), batch_size=64, optimizer=ws.Adam(lr=1e-3), schedule="constant")
    else:
        task, mean, std, build = ws.tasks.fashion_mnist(data_root=data_root), 0.2860, 0.3530, large
        adamw = ws.Adam(lr=1e-3, weight_decay=1e-2, decoupled=True)
        recipe = ws.Recipe(ws.Step(epochs=10), batch_size=128, optimizer=adamw, schedule="constant")
    splits = {
        name: ws.Split(split.x * std + mean, split.y)
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test))
    }
    return replace(task, architecture=ws.Architecture.of(build), recipe=recipe, ood=None, **splits)


def main(
    data_root: Path | None = None,
    rows: tuple[int, ...] = (),
    steps: int = 30_000,
    out: Path = Path("runs/generator_published"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each configuration to generator/published.csv.

    Args:
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        rows: Numbers of the configurations to run; none given runs all.
        steps: Training steps of each flow; fewer only to try the script.
        out: Folder where networks and flows are kept; the same command continues there.
        results: Folder of the result tables.
    """
    allocator.keep()
    table: list[dict[str, object]] = []
    for i in rows or range(len(ROWS)):
        row = ROWS[i]
        task = task_of(row.zoo, data_root)
        zoo = ws.collect(task, NETWORKS + HELD_OUT, folder=out / row.zoo)
        training, held_out = zoo.split(NETWORKS, HELD_OUT)
        model = ws.TicketGenerator(
            align=ws.WeightMatching(balance=False, population=Star()) if row.aligned else None,
            compress=ws.PCA(row.components) if row.components else None,
            generate=ws.DeepWeightFlow(width=row.width, steps=steps),
        )
        began = time.perf_counter()
        fitted = model.fit(training, folder=out / f"flow-{i}-{steps}")
        fitting = time.perf_counter() - began
        began = time.perf_counter()
        samples = fitted.sample(100, density=1.0, seed=1)
        sampling = time.perf_counter() - began
        report = ws.evaluate(samples, task, training=training, held_out=held_out, dropout=None)
        table.append({"row": i, **measured(row, report), "fit seconds": fitting, "sample seconds": sampling})
        tables.add(results / "generator/published.csv", table, ("row",))
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in table[-1].items()}, flush=True)


def measured(row: Row, report: ws.Report) -> dict[str, object]:
    """Figures of one configuration."""
    samples, training = report["samples"], report["training networks"]
    assert samples.variety is not None, "samples are several"
    return {
        "zoo": row.zoo,
        "space": f"PCA-{row.components}" if row.components else "raw",
        "width": row.width,
        "aligned": row.aligned,
        "published accuracy": row.published or "",
        "accuracy": 100 * samples.mean("accuracy"),
        "accuracy std": 100 * samples.std("accuracy"),
        "training accuracy": 100 * training.mean("accuracy"),
        "training std": 100 * training.std("accuracy"),
        "Z_U": math.nan if samples.novelty.z_u is None else samples.novelty.z_u,
        "relative distance": report.relative_distance(samples),
        "dispersion": samples.variety.dispersion,
        "max error IoU": samples.median("max_error_iou"),
        "training max error IoU": training.median("max_error_iou"),
        "verdicts": "; ".join(f"{v.claim}: {v.outcome}" for v in report.verdicts),
    }


if __name__ == "__main__":
    tyro.cli(main)

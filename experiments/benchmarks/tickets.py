"""What do training side by side, live weights, packed files and compact modules save?

    python -m experiments.benchmarks.tickets --data-root data                       (a few minutes on one core)

1. IMP to density 0.10 of eight seeds on digits, at once and in eight runs: wall-clock, medians of turns.
2. A training step of LeNet-300-100 (Adam, batches of 60) under masks of several densities: as masked matrices and as
   the live weights alone, in turns of 100 steps.
3. Bytes of a collection of tickets on disk over its kept weights (4 bytes each), and over the dense collection.
4. Units left by `compact` and its speed-up of a forward pass.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import Execution


def main(data_root: Path | None = None, turns: int = 3, results: Path = tables.RESULTS) -> None:
    """Write one row for each measurement to benchmarks/tickets.csv.

    Args:
        data_root: Folder with MNIST/raw; None looks where the library looks.
        turns: Number of repetitions; medians are taken.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    rows = [*ladders(turns), *steps(data_root, turns), *files(), *compacted(turns)]
    for row in rows:
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    tables.write(results / "benchmarks/tickets.csv", rows)


def row(what: str, ours: float, other: float, unit: str) -> dict[str, object]:
    """A row of the table."""
    return {"what": what, "ours": ours, "other": other, "unit": unit, "other / ours": other / ours}


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of some work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ladders(turns: int) -> list[dict[str, object]]:
    """IMP of eight seeds, at once and one after another."""
    task = replace(ws.tasks.digits(), recipe=ws.Recipe(ws.Step(epochs=10), optimizer=ws.Adam(lr=3e-3)))
    dense = ws.collect(task, 8)
    imp = ws.tickets.IMP(0.10)
    imp.find_levels(dense[:1], replace(task, recipe=task.recipe))  # measures once how many to train side by side
    together: list[float] = []
    apart: list[float] = []
    for _ in range(turns):
        together.append(seconds(lambda: imp.find_levels(dense, task)))
        apart.append(seconds(lambda: [imp.find_levels(dense[i : i + 1], task) for i in range(8)]))
    return [
        row(
            "IMP ladder of 8 seeds, digits: at once, 8 runs", statistics.median(together), statistics.median(apart), "s"
        )
    ]


def steps(data_root: Path | None, turns: int) -> list[dict[str, object]]:
    """Training steps under masks, live weights against masked matrices."""
    recipe = ws.Recipe(ws.Step(epochs=5), batch_size=60, optimizer=ws.Adam(lr=1.2e-3))
    task = replace(ws.tasks.mnist(data_root=data_root), recipe=recipe)
    start = initial(task.architecture, [{"seed": 0}])
    table: list[dict[str, object]] = []
    for density in (0.2, 0.1, 0.05, 0.02, 0.01):
        masks = ws.Unstructured(density, "layer").mask(start.weights.abs(), start.layout)
        sparse = start.replace(weights=start.weights * masks, masks=masks)
        live, whole = (trainer_for(sparse, task, execution=Execution(1, 1, 0.0)) for _ in range(2))
        whole.use_dense_kernels()
        times: dict[str, list[float]] = {"live": [], "whole": []}
        for turn in range(turns + 1):
            for name, trainer in (("live", live), ("whole", whole)):
                took = seconds(lambda t=trainer: t.run(t.step + 100)) / 100
                times[name] += [took] if turn else []
        what = f"training step of LeNet-300-100 at density {density}: live weights, masked matrices"
        ours, other = (1000 * statistics.median(times[name]) for name in ("live", "whole"))
        table.append(row(what, ours, other, "ms"))
    return table


def files() -> list[dict[str, object]]:
    """Sizes of collections on disk."""
    start = initial(ws.Architecture("LeNet300"), [{"seed": i} for i in range(20)])
    masks = ws.Unstructured(0.05).mask(start.weights.abs(), start.layout)
    sparse = start.replace(weights=start.weights * masks, masks=masks)
    with tempfile.TemporaryDirectory() as place:
        size = {
            name: sum(f.stat().st_size for f in networks.save(Path(place) / name).iterdir())
            for name, networks in (("sparse", sparse), ("dense", start))
        }
    kept = 4.0 * int(masks.sum())
    return [
        row(
            "20 LeNet-300-100 of density 0.05 on disk: packed, kept weights alone",
            size["sparse"] / 1e6,
            kept / 1e6,
            "MB",
        ),
        row("the same: packed, dense collection", size["sparse"] / 1e6, size["dense"] / 1e6, "MB"),
    ]


def compacted(turns: int) -> list[dict[str, object]]:
    """What compacting a ticket saves."""
    task = replace(ws.tasks.digits(), recipe=ws.Recipe(ws.Step(epochs=10), optimizer=ws.Adam(lr=3e-3)))
    module = ws.tickets.IMP(0.02, 0.5).find(ws.collect(task, 1), task).module(0).eval().requires_grad_(False)
    small = ws.compact(module, task.train.x[:4])
    x = task.test.x.repeat(10, 1, 1, 1) if task.test.x.ndim == 4 else task.test.x.repeat(10, 1)
    assert torch.allclose(small(x), module(x), atol=1e-4)
    size, before = (float(sum(p.numel() for p in m.parameters())) for m in (small, module))
    times = [[seconds(lambda m=m: m(x)) for m in (small, module)] for _ in range(20 * turns)]
    fast, slow = (1000 * statistics.median(seconds_each) for seconds_each in zip(*times, strict=True))
    what = "IMP ticket of density 0.02 on digits (MLP 64-128-64-10)"
    return [
        row(f"{what}: parameters, compact and before", size, before, "parameters"),
        row(f"{what}: forward pass of {len(x)} inputs, compact and before", fast, slow, "ms"),
    ]


if __name__ == "__main__":
    tyro.cli(main)

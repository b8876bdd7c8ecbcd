"""How long does a full evaluation take, with all baselines?

    python -m experiments.benchmarks.evaluation --data-root data          (half an hour on two cores)

Two sizes: digits (MLP 64-128-64-10; 100 samples against 300 training and 60 held-out networks) and Fashion-MNIST
(LeNet-300-100; 100 against 100, or `--fashion` of each). Time does not depend on how good the networks are, so the
sparse networks are trained for a few epochs on 5,000 images only. Each is measured in one process with PyTorch's
threads; by two workers (`executor=`); and in one process with dense products, where `evaluate` multiplies large sparse
layers as compressed rows. Freed memory stays with the process, as on the command line. Also prints the peak memory of
this process.
"""

import math
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.runtime import allocator
from weightspace.sparse import predicting


def main(
    data_root: Path | None = None,
    fashion: int = 100,
    repeats: int = 3,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each case to benchmarks/evaluation.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None measures digits alone.
        fashion: Number of samples, and of training networks, of Fashion-MNIST; 0 measures digits alone.
        repeats: Number of runs of each case; the median counts.
        results: Folder of the result tables.
    """
    allocator.keep()
    cases = [("digits, MLP 64-128-64-10", ws.tasks.digits(), 300, 60, 100)]
    if data_root is not None and fashion:
        task = ws.tasks.fashion_mnist(data_root=data_root)
        cases.append(("Fashion-MNIST, LeNet-300-100", task, fashion, 0, fashion))
    for name, task, training, unseen, n in cases:
        few = ws.Split(task.train.x[:5_000], task.train.y[:5_000])
        short = replace(task, train=few, recipe=replace(task.recipe, length=ws.Step(epochs=1)))
        networks = ws.collect(short, training + unseen + n)
        tickets = ws.tickets.GradualPruning(density=0.1, length=ws.Step(epochs=3), every=5).find(networks, short)

        measured = partial(
            timed,
            tickets[:training],
            tickets[training : training + unseen] if unseen else None,
            tickets[training + unseen :],
        )
        runs = [measured(task) for _ in range(repeats)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        by_workers = [with_workers(partial(measured, task)) for _ in range(repeats)]
        with mock.patch.object(predicting, "_WORK", math.inf):  # no networks have so much work
            _, dense = measured(task)
        seconds, cpu = (sorted(part) for part in zip(*runs, strict=True))
        row: dict[str, object] = {
            "case": name,
            "training": training,
            "held_out": unseen,
            "samples": n,
            "seconds": round(seconds[len(seconds) // 2], 1),
            "slowest": round(seconds[-1], 1),
            "seconds_two_workers": round(sorted(by_workers)[repeats // 2], 1),
            "cpu_seconds": round(cpu[len(cpu) // 2], 1),
            "cpu_seconds_dense": round(dense, 1),
            "threads": torch.get_num_threads(),
            "peak_gib": round(peak, 2),
        }
        tables.add(results / "benchmarks/evaluation.csv", [row], ("case", "training"))
        print(", ".join(f"{what}: {value}" for what, value in row.items()))


def timed(
    training: ws.Collection, unseen: ws.Collection | None, samples: ws.Collection, task: ws.Task, **settings: Any
) -> tuple[float, float]:
    """Seconds and processor seconds of an evaluation.

    Args:
        training: The training networks.
        unseen: Networks for comparison, if there are any.
        samples: The networks to judge.
        task: The task.
        settings: Further settings of `evaluate`.
    """
    started, used = time.perf_counter(), time.process_time()
    ws.evaluate(samples, task, training=training, held_out=unseen, **settings)
    return time.perf_counter() - started, time.process_time() - used


def with_workers(measured: Callable[..., tuple[float, float]]) -> float:
    """Seconds of an evaluation by two workers, their start included.

    Args:
        measured: Measures an evaluation.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ws.processes(2) as pool:
        measured(folder=Path(folder) / "parts", executor=pool)
    return time.perf_counter() - started


if __name__ == "__main__":
    tyro.cli(main)

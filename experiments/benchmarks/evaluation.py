"""How long does a full evaluation take, with all baselines?

    python -m experiments.benchmarks.evaluation --data-root data          (half an hour on two cores)

Two sizes: digits (MLP 64-128-64-10; 100 samples against 300 training and 60 held-out networks) and Fashion-MNIST
(LeNet-300-100; 100 against 100, or `--fashion` of each). Time does not depend on how good the networks are, so the
sparse networks are trained for a few epochs on 5,000 images only. Each is measured with sparse layers as compressed
rows, as `evaluate` multiplies large ones on the CPU, and with dense products. Also prints the peak memory of the
process.
"""

import math
import resource
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import tyro

import weightspace as ws
from experiments.common import tables
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
    cases = [("digits, MLP 64-128-64-10", ws.tasks.digits(), 300, 60, 100)]
    if data_root is not None and fashion:
        task = ws.tasks.fashion_mnist(data_root=data_root)
        cases.append(("Fashion-MNIST, LeNet-300-100", task, fashion, 0, fashion))
    for name, task, training, unseen, n in cases:
        few = ws.Split(task.train.x[:5_000], task.train.y[:5_000])
        short = replace(task, train=few, recipe=replace(task.recipe, length=ws.Step(epochs=1)))
        networks = ws.collect(short, training + unseen + n)
        tickets = ws.tickets.GradualPruning(density=0.1, length=ws.Step(epochs=3), every=5).find(networks, short)

        def evaluate(
            tickets: ws.Collection = tickets, task: ws.Task = task, training: int = training, unseen: int = unseen
        ) -> tuple[float, float]:
            started, used = time.perf_counter(), time.process_time()
            ws.evaluate(
                tickets[training + unseen :],
                task,
                training=tickets[:training],
                held_out=tickets[training : training + unseen] if unseen else None,
            )
            return time.perf_counter() - started, time.process_time() - used

        runs = [evaluate() for _ in range(repeats)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        with mock.patch.object(predicting, "_WORK", math.inf):  # no networks have so much work
            _, dense = evaluate()
        seconds, cpu = (sorted(part) for part in zip(*runs, strict=True))
        row: dict[str, object] = {
            "case": name,
            "training": training,
            "held_out": unseen,
            "samples": n,
            "seconds": round(seconds[len(seconds) // 2], 1),
            "slowest": round(seconds[-1], 1),
            "cpu_seconds": round(cpu[len(cpu) // 2], 1),
            "cpu_seconds_dense": round(dense, 1),
            "threads": torch.get_num_threads(),
            "peak_gib": round(peak, 2),
        }
        tables.add(results / "benchmarks/evaluation.csv", [row], ("case", "training"))
        print(", ".join(f"{what}: {value}" for what, value in row.items()))


if __name__ == "__main__":
    tyro.cli(main)

"""How long does a full evaluation take, with all baselines?

    python -m experiments.benchmarks.evaluation --data-root data          (half an hour on two cores)

Two sizes: digits (MLP 64-128-64-10; 100 samples against 300 training and 60 held-out networks) and Fashion-MNIST
(LeNet-300-100; 100 against 100). Time does not depend on how good the networks are, so the sparse networks are
trained for a few epochs on 5,000 images only. Also prints the peak memory of the process.
"""

import resource
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables


def main(
    data_root: Path | None = None,
    repeats: int = 3,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each case to benchmarks/evaluation.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None measures digits alone.
        repeats: Number of runs of each case; the median counts.
        results: Folder of the result tables.
    """
    cases = [("digits, MLP 64-128-64-10", ws.tasks.digits(), 300, 60, 100)]
    if data_root is not None:
        cases.append(("Fashion-MNIST, LeNet-300-100", ws.tasks.fashion_mnist(data_root=data_root), 100, 0, 100))
    rows: list[dict[str, object]] = []
    for name, task, training, unseen, n in cases:
        few = ws.Split(task.train.x[:5_000], task.train.y[:5_000])
        short = replace(task, train=few, recipe=replace(task.recipe, length=ws.Step(epochs=1)))
        networks = ws.collect(short, training + unseen + n)
        tickets = ws.tickets.GradualPruning(density=0.1, length=ws.Step(epochs=3), every=5).find(networks, short)
        seconds: list[float] = []
        for _ in range(repeats):
            started = time.perf_counter()
            ws.evaluate(
                tickets[training + unseen :],
                task,
                training=tickets[:training],
                held_out=tickets[training : training + unseen] if unseen else None,
            )
            seconds.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        middle = sorted(seconds)[len(seconds) // 2]
        rows.append(
            {
                "case": name,
                "training": training,
                "held_out": unseen,
                "samples": n,
                "seconds": round(middle, 1),
                "slowest": round(max(seconds), 1),
                "peak_gib": round(peak, 2),
            }
        )
        print(
            f"{name}: {middle:.1f} s (slowest {max(seconds):.1f}), peak memory {peak:.2f} GiB, "
            f"{torch.get_num_threads()} threads"
        )
    tables.add(results / "benchmarks/evaluation.csv", rows, ("case",))


if __name__ == "__main__":
    tyro.cli(main)

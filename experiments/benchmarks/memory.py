"""How much time does it save to keep freed memory with the process?

    python -m experiments.benchmarks.memory                               (three minutes on one core)

The C library hands large freed blocks back to the system, unless `weightspace.runtime.allocator.keep()` forbids it.
Each measurement in a process of its own, turn by turn, median CPU time of three: a step of refinement of a
LeNet-300-100 generator (64 components, 16 networks), of the flow on raw weights as published (784-32-32-10, width
512), and of dense LeNet-300-100 training (8 networks side by side). Data are random: only time is measured.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.models import MLP
from weightspace.runtime import allocator

TURNS = 3


def task(steps: int) -> ws.Task:
    """Random data for LeNet-300-100."""
    x, y = torch.randn(2048, 784), torch.arange(2048) % 10
    digits = ws.tasks.digits()
    split, recipe = ws.Split(x, y), replace(digits.recipe, length=ws.Step(iterations=steps))
    return replace(
        digits,
        name="random",
        architecture=ws.Architecture("LeNet300"),
        train=split,
        validation=split,
        test=split,
        recipe=recipe,
        ood=None,
    )


def refinement() -> float:
    """CPU seconds of a step of refinement."""
    random_task = task(1)
    dense = ws.collect(random_task, 66)
    mask = ws.Unstructured(0.1).mask(dense.weights.abs(), dense.layout)
    tickets = dense.replace(weights=dense.weights * mask, masks=mask)
    fits = [0.0, 0.0]
    for i, steps in enumerate((5, 25)):
        model = ws.TicketGenerator(
            align=None,
            compress=ws.PCA(64),
            generate=ws.FlowMatching(steps=5),
            refine=ws.TaskRefinement(steps=steps, networks=16, batch_size=64, lr=1e-5, lr_mean=1e-5),
        )
        began = time.process_time()
        model.fit(tickets, task=random_task)
        fits[i] = time.process_time() - began
    return (fits[1] - fits[0]) / 20


def published() -> float:
    """CPU seconds of a step of the flow on raw weights."""
    codes = torch.randn(100, ws.Layout.of(MLP([784, 32, 32, 10])).size)
    fits = [0.0, 0.0]
    for i, steps in enumerate((2, 22)):
        began = time.process_time()
        ws.DeepWeightFlow(width=512, steps=steps).fit(codes)
        fits[i] = time.process_time() - began
    return (fits[1] - fits[0]) / 20


def training() -> float:
    """CPU seconds of a step of dense training."""
    fits = [0.0, 0.0]
    for i, steps in enumerate((5, 45)):
        began = time.process_time()
        ws.collect(task(steps), 8)
        fits[i] = time.process_time() - began
    return (fits[1] - fits[0]) / 40


WORK: dict[str, Callable[[], float]] = {
    "refinement, LeNet-300-100": refinement, "raw flow, width 512": published, "training, 8 x LeNet-300-100": training,
}  # fmt: skip


def main(results: Path = tables.RESULTS, one: str = "", keep: bool = False) -> None:
    """Write one row for each kind of work to benchmarks/memory.csv.

    Args:
        results: Folder of the result tables.
        one: Name of one kind of work to do in this process, which prints its seconds a step; empty does all.
        keep: Freed memory stays with the process; only together with `one`.
    """
    if one:
        torch.set_num_threads(1)
        if keep:
            allocator.keep()
        print(WORK[one]())
        return
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    rows: list[dict[str, object]] = []
    for work in WORK:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(TURNS):
            for kept, times in seconds.items():
                words = [
                    sys.executable,
                    "-m",
                    "experiments.benchmarks.memory",
                    "--one",
                    work,
                    *(["--keep"] if kept else []),
                ]
                run = subprocess.run(words, capture_output=True, text=True, env=clean, check=True)
                times.append(float(run.stdout.split()[-1]))
        slow, fast = (statistics.median(times) for times in seconds.values())
        rows.append({"work": work, "CPU seconds a step": slow, "with keep()": fast, "ratio": slow / fast})
        print({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    tables.write(results / "benchmarks/memory.csv", rows)


if __name__ == "__main__":
    tyro.cli(main)

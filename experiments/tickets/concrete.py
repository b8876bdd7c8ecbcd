"""Concrete Ticket Search in several ways, on LeNet-300-100 and Fashion-MNIST at a high sparsity.

    python -m experiments.tickets.concrete --data-root data                        (about ten minutes on one core)

As in tickets_fashion.py: three seeds, Adam 1.2e-3, batches of 128, 4 epochs of training after the search. Every objective with a
search of 2 epochs at initialisation; the published best one (KL to the dense outputs) also with 8 epochs, and after one epoch
of dense training. Validation and test accuracy; IMP is in tickets_fashion.csv.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import tyro

import weightspace as ws
from experiments.common import tables
from weightspace import bayes
from weightspace.bayes.gates import Objective
from weightspace.training.conversion import initial


def main(
    data_root: Path | None = None, density: float = 0.01, seeds: int = 3,
    out: Path = Path("docs/results/tickets_concrete.csv"),
) -> None:  # fmt: skip
    """Print and write a row for each way.

    Args:
        data_root: folder with FashionMNIST/raw.
        density: of the tickets.
        seeds: networks.
        out: CSV to write.
    """
    recipe = ws.Recipe(ws.Step(epochs=4), batch_size=128, optimizer=ws.Adam(lr=1.2e-3), schedule="cosine")
    task = replace(ws.tasks.fashion_mnist(data_root=data_root), recipe=recipe)
    start = initial(task.architecture, [{"seed": seed} for seed in range(seeds)])
    objectives: tuple[Objective, ...] = get_args(Objective)
    more: list[tuple[Objective, int, int]] = [("dense", 8, 0), ("dense", 2, 1), ("gradients", 2, 1), ("labels", 2, 1)]
    rows: list[dict[str, object]] = []
    for objective, length, rewind in [*((objective, 2, 0) for objective in objectives), *more]:
        began = time.process_time()
        networks = ws.train(start, task, ws.Step(epochs=rewind)) if rewind else start
        search = bayes.GateSearch.concrete(density, objective, length=ws.Step(epochs=length))
        found = ws.train(search.find(networks.replace(extras={}), task), task, task.recipe.length)
        row: dict[str, object] = {
            "objective": objective,
            "search epochs": length,
            "dense epochs before": rewind,
            "density": density,
        }
        for name, data in (("validation", task.validation), ("test", task.test)):
            right = (found.ensemble().logits(data.x).argmax(-1) == data.y).double().mean(1).tolist()
            row |= {name: statistics.fmean(right), f"{name} std": statistics.stdev(right)}
        rows.append(row | {"cpu seconds": time.process_time() - began})
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
        tables.write(out, rows)


if __name__ == "__main__":
    tyro.cli(main)

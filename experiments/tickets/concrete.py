"""In which way does Concrete Ticket Search find the best tickets at high sparsity?

    python -m experiments.tickets.concrete --data-root data                        (about ten minutes on one core)

LeNet-300-100 and Fashion-MNIST as in fashion.py: three seeds, Adam 1.2e-3, batches of 128, 4 epochs of training after
the search. Every objective with a search of 2 epochs at initialisation; the published best one (KL to the dense
outputs) also with 8 epochs, and after one epoch of dense training. Validation and test accuracy; IMP is in
tickets/fashion.csv.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import tyro

import weightspace as ws
from experiments.common import accuracy, tables
from weightspace import bayes
from weightspace.bayes.gates import Objective
from weightspace.training.conversion import initial

# Columns of the table that say what a row was measured with.
SETTINGS = ("objective", "search epochs", "dense epochs before", "density")


def main(
    data_root: Path | None = None,
    density: float = 0.01,
    networks: int = 3,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each way to tickets/concrete.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        density: Density of the tickets.
        networks: Number of networks of each kind; network i has seed i.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(ws.Step(epochs=4), batch_size=128, optimizer=ws.Adam(lr=1.2e-3), schedule="cosine")
    task = replace(ws.tasks.fashion_mnist(data_root=data_root), recipe=recipe)
    start = initial(task.architecture, [{"seed": seed} for seed in range(networks)])
    objectives: tuple[Objective, ...] = get_args(Objective)
    more: list[tuple[Objective, int, int]] = [("dense", 8, 0), ("dense", 2, 1), ("gradients", 2, 1), ("labels", 2, 1)]
    rows: list[dict[str, object]] = []
    for objective, length, rewind in [*((objective, 2, 0) for objective in objectives), *more]:
        began = time.process_time()
        dense = ws.train(start, task, ws.Step(epochs=rewind)) if rewind else start
        search = bayes.GateSearch.concrete(density, objective, length=ws.Step(epochs=length))
        trained = ws.train(search.find(dense.replace(extras={}), task), task, task.recipe.length)
        row: dict[str, object] = {
            "objective": objective,
            "search epochs": length,
            "dense epochs before": rewind,
            "density": density,
        }
        for name, data in (("validation", task.validation), ("test", task.test)):
            accuracies = accuracy.as_list(trained, data)
            row |= {name: statistics.fmean(accuracies), f"{name} std": statistics.stdev(accuracies)}
        rows.append(row | {"cpu seconds": time.process_time() - began})
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
        tables.add(results / "tickets/concrete.csv", rows, SETTINGS)


if __name__ == "__main__":
    tyro.cli(main)

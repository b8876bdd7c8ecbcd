"""Which ticket finder is best on handwritten digits, at which density, and what does it cost?

    python -m experiments.tickets.digits                 (about six minutes on two cores; or: make tickets)

MLP 64-128-64-10, five seeds side by side. Weights are trained with Adam 3e-3 and cosine decay for 30 epochs; what
trains masks alone uses SGD 0.1 with momentum. Cost: whole trainings of a network that one ticket takes, the dense one
included where it is needed. Nothing was tuned, and nothing is chosen on the test split.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.tickets import study


def main(networks: int = 5, results: Path = tables.RESULTS) -> None:
    """Write one row for each method and density to tickets/digits.csv.

    Args:
        networks: Number of networks of each kind, trained side by side; network i has seed i.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(ws.Step(epochs=30), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    task = replace(ws.tasks.digits(), recipe=recipe)
    searching = replace(task, recipe=replace(recipe, optimizer=ws.SGD(lr=0.1, momentum=0.9)))
    study.study(task, networks, (0.1, 0.05, 0.02, 0.01), results / "tickets/digits.csv", None, searching=searching)


if __name__ == "__main__":
    tyro.cli(main)

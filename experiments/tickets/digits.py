"""Every ticket finder on handwritten digits: accuracy at each density, and what it costs.

    make tickets                                         (about six minutes on two cores)

MLP 64-128-64-10, five seeds side by side. Weights are trained with Adam 3e-3 and cosine decay for 30 epochs;
what trains masks alone uses SGD 0.1 with momentum. Cost: whole trainings of a network that one ticket takes, the dense one
included where it is needed. Nothing was tuned, and nothing is chosen on the test split.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.tickets import study


def main(seeds: int = 5, out: Path = Path("docs/results/tickets_digits.csv")) -> None:
    """Print and write a row for each method and density.

    Args:
        seeds: networks, trained side by side.
        out: CSV to write.
    """
    recipe = ws.Recipe(ws.Step(epochs=30), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    task = replace(ws.tasks.digits(), recipe=recipe)
    searching = replace(task, recipe=replace(recipe, optimizer=ws.SGD(lr=0.1, momentum=0.9)))
    study.study(task, seeds, (0.1, 0.05, 0.02, 0.01), out, None, searching=searching)


if __name__ == "__main__":
    tyro.cli(main)

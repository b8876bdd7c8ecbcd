"""How do the returns of tickets and of their controls fall with density?

    python -m experiments.control.figures          (seconds)

Draws the figure from the tables of cartpole.py and lunar_lander.py.
"""

from pathlib import Path

import tyro

from experiments.common import tables
from experiments.control.arms import draw


def main(results: Path = tables.RESULTS, figures: Path = tables.FIGURES) -> None:
    """Write policies.svg.

    Args:
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    found = {"CartPole": results / "control/cartpole.csv", "LunarLander": results / "control/lunar_lander.csv"}
    draw({name: table for name, table in found.items() if table.exists()}, figures / "policies.svg")


if __name__ == "__main__":
    tyro.cli(main)

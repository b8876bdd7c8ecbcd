"""Do policies of LunarLander have tickets?

    python -m experiments.control.lunar_lander      (about 20 minutes on one core; the same command continues)

As experiments.control.cartpole, with the extra `control` (Gymnasium and Box2D), two levels of 60 % of which the second
is compared, and three policies of each kind. A return of 200 is a landing.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.control.arms import Design, show, study
from weightspace import control


def main(
    policies: int = 3,
    updates: int = 60,
    levels: int = 2,
    out: Path = Path("runs/lunar_lander"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density and kind of start to control/lunar_lander.csv.

    Args:
        policies: Number of policies of each kind.
        updates: Number of updates of each training, of 2,048 steps each.
        levels: Number of prunings, by 60 % each.
        out: Folder of the policies; the same command continues there.
        results: Folder of the result tables.
    """
    settings = replace(control.lunar_lander().ppo, updates=updates)
    design = Design(levels, rate=0.6, episodes=30, good=200.0, first=levels)
    rows = study(control.lunar_lander(ppo=settings), policies, design, out)
    tables.write(results / "control/lunar_lander.csv", rows)
    show(rows)


if __name__ == "__main__":
    tyro.cli(main)

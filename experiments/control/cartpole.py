"""Do policies of CartPole have tickets?

    python -m experiments.control.cartpole          (about 10 minutes on one core; the same command continues)
    make control                                    (a small one, two minutes)

After Yu et al. 2020 (arXiv 1906.02768), with PPO in the place of A2C. The hidden layers are pruned by 40 % a level, put
back to where they were after 5 % of the training, and trained again; output layers are left alone. Controls have as
many weights in each layer: shuffled masks, the tickets' masks on new weights, and shuffled masks on new weights.
Returns are those of 100 test starts, which chose nothing.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.control.arms import Design, rows_of, show, study
from weightspace import control


def main(
    policies: int = 8,
    updates: int = 128,
    levels: int = 5,
    out: Path = Path("runs/cartpole"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density and kind of start to control/cartpole.csv.

    Args:
        policies: Number of policies of each kind.
        updates: Number of updates of each training, of 256 steps each.
        levels: Number of prunings, by 40 % each.
        out: Folder of the policies; the same command continues there.
        results: Folder of the result tables.
    """
    settings = replace(control.cartpole().ppo, updates=updates)
    rows = rows_of([study(control.cartpole(ppo=settings), policies, Design(levels), out)], Design(levels))
    tables.write(results / "control/cartpole.csv", rows)
    show(rows)


if __name__ == "__main__":
    tyro.cli(main)

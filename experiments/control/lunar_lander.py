"""Do policies of LunarLander have tickets?

    python -m experiments.control.lunar_lander      (about 20 minutes on one core; the same command continues)
    python -m experiments.control.lunar_lander --levels 2 --seeds 0 --random        (0.16, with random masks)

As experiments.control.cartpole, with the extra `control` (Gymnasium and Box2D), and levels of 60 %, of which the last
is compared. A return of 200 is a landing. The table is written after each seed; rows of other densities stay in it.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.control.arms import DENSE, KINDS, Design, Returns, rows_of, show, study
from weightspace import control


def main(
    policies: int = 3,
    updates: int = 60,
    levels: int = 1,
    seeds: tuple[int, ...] = (0, 1, 2),
    random: bool = False,
    out: Path = Path("runs/lunar_lander"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density and kind of start to control/lunar_lander.csv.

    Args:
        policies: Number of policies of each kind and seed.
        updates: Number of updates of each training, of 2,048 steps each.
        levels: Number of prunings, by 60 % each; the last is compared.
        seeds: Seeds of the policies.
        random: Whether random masks on new weights are compared, too.
        out: Folder of the policies; the same command continues there.
        results: Folder of the result tables.
    """
    task = control.lunar_lander(ppo=replace(control.lunar_lander().ppo, updates=updates))
    kinds = tuple(kind for kind in KINDS if random or kind != "random")
    design = Design(levels, rate=0.6, episodes=30, good=200.0, first=levels, kinds=kinds)
    path = results / "control/lunar_lander.csv"
    studies: list[Returns] = []
    for seed in seeds:
        studies.append(study(task, policies, design, out / f"levels-{levels}-seed-{seed}", seed))
        rows = rows_of(studies, design)
        own = {f"{row['density']:.5f}" for row in rows if row["policies"] != DENSE}
        others = tables.read(path) if path.exists() else []
        tables.write(path, [*rows, *(row for row in others if row["density"] not in own and row["policies"] != DENSE)])
        show(rows)


if __name__ == "__main__":
    tyro.cli(main)

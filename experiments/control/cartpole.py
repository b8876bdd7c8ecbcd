"""Do policies of CartPole have tickets?

    python -m experiments.control.cartpole          (about 20 minutes on one core; the same command continues)

After Yu et al. 2020 (arXiv 1906.02768), with PPO in the place of A2C. Policies are pruned by 40 % a level, put back to
where they were after 5 % of their training, and trained again. Controls have as many weights in each layer: shuffled
masks, and the tickets' masks on new weights. Returns are those of 100 test starts, which chose nothing.
"""

import statistics
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from weightspace import control

REWIND = 0.05


def main(
    policies: int = 8,
    updates: int = 192,
    levels: int = 5,
    out: Path = Path("runs/cartpole"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density and kind of start to control/cartpole.csv.

    Args:
        policies: Number of policies of each kind.
        updates: Number of updates of each training.
        levels: Number of prunings, by 40 % each.
        out: Folder of the policies; the same command continues there.
        results: Folder of the result tables.
    """
    task = control.cartpole(ppo=control.PPO(updates=updates))
    rewind = ws.Step(iterations=round(REWIND * updates))
    dense = ws.collect(task, policies, seed=0, folder=out / "dense")
    finder = ws.tickets.IMP(0.6**levels, 0.4, rewind=rewind, scope="layer")
    found = finder.find_levels(dense, task, folder=out / "imp")
    rows = [row(1.0, "dense", dense, task)]
    for level, tickets in enumerate(found[1:], 1):
        density = tickets.densities.mean().item()
        starts = ws.tickets.TicketControls(seed=level)
        kinds = {"shuffled in layers": starts.shuffled(tickets), "mask on new weights": starts.reinitialised(tickets)}
        rows.append(row(density, "ticket", tickets, task))
        for kind, start in kinds.items():
            length = f"{updates - rewind.iterations}it" if kind == "shuffled in layers" else f"{updates}it"
            trained = ws.train(start, task, length, folder=out / f"{kind.replace(' ', '-')}-{level}")
            rows.append(row(density, kind, trained, task))
            print(rows[-1], flush=True)
    tables.write(results / "control/cartpole.csv", rows)


def row(density: float, kind: str, policies: ws.Collection, task: control.PolicyTask) -> dict[str, object]:
    """One row of the table.

    Args:
        density: Density of the policies.
        kind: What they are.
        policies: Trained policies.
        task: Their task.
    """
    returns = task.returns(policies, episodes=100).mean(1).tolist()
    return {
        "density": density,
        "policies": kind,
        "n": len(returns),
        "return": statistics.mean(returns),
        "std": statistics.stdev(returns),
        "at 450 or more": sum(value >= 450 for value in returns) / len(returns),
    }


if __name__ == "__main__":
    tyro.cli(main)

"""Tickets of policies and what they are compared with, level by level."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

import weightspace as ws
from experiments.common import tables
from weightspace import control
from weightspace.report.intervals import half_width
from weightspace.report.plots import style

KINDS = {"ticket": "rewound", "shuffled": "shuffled", "mask on new weights": "reinitialised", "random": "random"}
COLOURS = {"ticket": style.ACCENT, "shuffled": "#0ea5e9", "mask on new weights": "#7c3aed", "random": style.OTHER}
DENSE = "dense"


@dataclass(frozen=True)
class Design:
    """How policies are pruned.

    Args:
        levels: Number of prunings.
        rate: Share of the weights of each hidden layer that a level removes; output layers are left alone.
        rewind: Share of the training after which weights are put back to.
        episodes: Test episodes of a policy.
        good: Return that is good.
        first: First level that is compared; tickets of earlier ones are only pruned further.
        kinds: Kinds of starts that are compared, the ticket first.
    """

    levels: int
    rate: float = 0.4
    rewind: float = 0.05
    episodes: int = 100
    good: float = 450.0
    first: int = 1
    kinds: tuple[str, ...] = tuple(KINDS)


Returns = Mapping[tuple[int, str], Sequence[float]]
"""Returns of policies by level and kind."""


def study(task: control.PolicyTask, policies: int, design: Design, out: Path, seed: int = 0) -> Returns:
    """Returns of dense policies, and at each level of the tickets and their controls, on the test starts.

    Tickets and controls of a level are trained alike: from their starts, in a new order of chances, for what the rewind
    point leaves of the training, or from new weights for the whole of it.

    Args:
        task: Task of the policies.
        policies: Number of policies of each kind.
        design: How they are pruned.
        out: Folder of the runs; the same command continues there.
        seed: Seed of the policies.
    """
    updates = task.ppo.updates
    rewind = ws.Step(iterations=round(design.rewind * updates))
    dense = ws.collect(task, policies, seed=seed, folder=out / "dense")
    density = (1 - design.rate) ** design.levels
    goal = ws.Except(ws.Unstructured(density, "layer"), *task.output_layers)
    finder = ws.tickets.IMP(rate=design.rate, rewind=rewind, pattern=goal)
    found = finder.find_levels(dense, task, folder=out / "imp")
    trained: dict[tuple[int, str], ws.Collection] = {(0, DENSE): dense}
    for level, tickets in list(enumerate(found))[design.first :]:
        controls = ws.tickets.TicketControls(seed=level + 100 * seed)
        starts = {kind: getattr(controls, KINDS[kind])(tickets) for kind in design.kinds}
        for early in (True, False):  # from the rewind point, or from new weights
            kinds = [kind for kind in design.kinds if (kind in ("ticket", "shuffled")) == early]
            together = ws.Collection.concatenate([starts[kind] for kind in kinds])
            length = updates - rewind.iterations if early else updates
            folder = out / f"level-{level}-{'early' if early else 'new'}"
            done = ws.train(together, task, ws.Step(iterations=length), folder=folder)
            trained |= {
                (level, kind): part for kind, part in zip(kinds, done.split(*[policies] * len(kinds)), strict=True)
            }
    return {key: task.returns(policies, episodes=design.episodes).mean(1).tolist() for key, policies in trained.items()}


def rows_of(studies: Sequence[Returns], design: Design) -> list[dict[str, object]]:
    """A row for each density and kind of start.

    Args:
        studies: What `study` found with each seed.
        design: How the policies were pruned.
    """
    returns = {key: [value for one in studies for value in one[key]] for key in studies[0]}
    rows: list[dict[str, object]] = []
    for (level, kind), own in returns.items():
        row: dict[str, object] = {
            "density": (1 - design.rate) ** level,
            "policies": kind,
            "n": len(own),
            "return": statistics.mean(own),
            "half width": half_width(own),
            "good": sum(value >= design.good for value in own) / len(own),
        }
        if kind not in (DENSE, "ticket"):
            ahead = [ticket - other for ticket, other in zip(returns[level, "ticket"], own, strict=True)]
            row |= {"ticket ahead": statistics.mean(ahead), "ahead half width": half_width(ahead)}
        rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """Print the table.

    Args:
        rows: Rows of `rows_of`.
    """
    print(f"\n{'density':>7}  {'policies':<20} {'n':>2}  {'return (95 % interval)':<26} {'good':>5}")
    for row in rows:
        mean, half = float(str(row["return"])), float(str(row["half width"]))
        interval = f"{mean:.0f} ({mean - half:.0f} to {mean + half:.0f})"
        share = float(str(row["good"]))
        print(f"{row['density']:7.2f}  {row['policies']:<20} {row['n']:>2}  {interval:<26} {share:5.0%}")


def draw(ways: Mapping[str, Path], path: Path) -> None:
    """Draw the returns over the density, with intervals, from tables.

    Args:
        ways: Table of each environment.
        path: Figure to write.
    """
    figure = Figure(figsize=(4.6 * len(ways), 3.8), layout="constrained", dpi=130)
    for i, (name, table) in enumerate(ways.items()):
        axes = figure.add_subplot(1, len(ways), i + 1)
        style.tidy(axes)
        rows = tables.read(table)
        (dense,) = (row for row in rows if row["policies"] == DENSE)
        mean, half = float(dense["return"]), float(dense["half width"])
        axes.axhspan(mean - half, mean + half, color="#e2e8f0", zorder=0)
        axes.axhline(mean, color="#475569", linewidth=1, label="dense")
        for j, kind in enumerate(COLOURS):
            own = [row for row in rows if row["policies"] == kind]
            x = [float(row["density"]) * 1.03 ** (j - 1.5) for row in own]  # side by side
            y, halves = ([float(row[part]) for row in own] for part in ("return", "half width"))
            axes.errorbar(x, y, halves, fmt="o-", color=COLOURS[kind], label=kind, markersize=4, capsize=2)
        axes.set_xscale("log")
        ticks = sorted({round(float(row["density"]), 2) for row in rows if row["policies"] != DENSE})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(1.4 * ticks[-1], ticks[0] / 1.4)
        axes.set(title=name, xlabel="density of the hidden layers")
        if not i:
            axes.set_ylabel("return on test starts")
            axes.legend(frameon=False, fontsize=8)
    style.save(figure, path)

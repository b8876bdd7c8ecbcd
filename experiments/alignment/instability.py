"""When do copies of a network stay in one basin?

    python -m experiments.alignment.instability          (about a minute on two cores)

Instability analysis (Frankle et al. 2020, arXiv 1912.05671) on digits, MLP 64-128-64-10. One network is trained to
each start; three copies go on from there with different data orders. The barrier is the largest test loss on the
line between two copies above the straight line between theirs. Five seeds.
"""

import statistics
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.evaluation import connectivity
from weightspace.report import plots
from weightspace.report.plots.style import save

STARTS = ("0it", "5it", "1ep", "2ep", "5ep", "10ep", "20ep")


def main(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    copies: int = 3,
    results: Path = tables.RESULTS,
    figures: Path = tables.FIGURES,
) -> None:
    """Write one row for each start to alignment/instability.csv, and draw instability.png.

    Args:
        seeds: Seeds of the ancestors of each start.
        copies: Number of copies that part from each ancestor.
        results: Folder of the result tables.
        figures: Folder of the figure.
    """
    task = ws.tasks.digits()
    losses: dict[str, list[float]] = {start: [] for start in STARTS}
    drops: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in seeds:
        analysed = connectivity.instability(task, [ws.Step.of(s) for s in STARTS], copies=copies, seed=seed)
        for start, barriers in analysed:
            losses[str(start)] += [b.loss for b in barriers]
            drops[str(start)] += [b.accuracy for b in barriers]
    rows: list[dict[str, object]] = []
    for start in STARTS:
        row: dict[str, object] = {"copies part after": start, "pairs": len(losses[start])}
        for name, values in (("loss barrier", losses[start]), ("largest drop of accuracy", drops[start])):
            row |= {name: f"{statistics.mean(values):.4f}", f"{name} std": f"{statistics.stdev(values):.4f}"}
        rows.append(row)
        print(row)
    tables.write(results / "alignment/instability.csv", rows)
    save(plots.instability(STARTS, [losses[start] for start in STARTS]), figures / "instability.png")


if __name__ == "__main__":
    tyro.cli(main)

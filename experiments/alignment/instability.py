"""Instability analysis (Frankle et al. 2020, arXiv 1912.05671): when do copies of a network stay in one basin?

    python -m experiments.alignment.instability          (about a minute on two cores)

Digits, MLP 64-128-64-10. One network is trained to each start; three copies go on from there with
different data orders; the barrier is the largest test loss on the line between two copies above the
straight line between theirs. Five seeds. Writes docs/results/instability.csv and the figure.
"""

import csv
import statistics
from pathlib import Path

import tyro

import weightspace as ws
from weightspace.evaluation import connectivity
from weightspace.report import plots

STARTS = ("0it", "5it", "1ep", "2ep", "5ep", "10ep", "20ep")


def main(
    seeds: int = 5, copies: int = 3, out: Path = Path("docs/results/instability.csv"),
    figure: Path = Path("docs/figures/instability.png"),
) -> None:  # fmt: skip
    """Print and write the table.

    Args:
        seeds: ancestors for each start.
        copies: networks that part from each ancestor.
        out: CSV file to write.
        figure: PNG to write.
    """
    task = ws.tasks.digits()
    found: dict[str, list[float]] = {start: [] for start in STARTS}
    drops: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in range(seeds):
        analysed = connectivity.instability(task, [ws.Step.of(s) for s in STARTS], copies=copies, seed=seed)
        for start, barriers in analysed:
            found[str(start)] += [b.loss for b in barriers]
            drops[str(start)] += [b.accuracy for b in barriers]
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["copies part after", "pairs", "loss barrier", "sd", "largest drop of accuracy", "sd"])
        for start in STARTS:
            row = [start, len(found[start])]
            row += [f"{f(v[start]):.4f}" for v in (found, drops) for f in (statistics.mean, statistics.stdev)]
            table.writerow(row)
            print(row)
    plots.instability(STARTS, [found[start] for start in STARTS]).savefig(figure)
    print(f"written to {out} and {figure}")


if __name__ == "__main__":
    tyro.cli(main)

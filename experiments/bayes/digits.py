"""Which score finds the best Bayesian tickets on handwritten digits, and how good are the controls?

    python -m experiments.bayes.digits                        (about four minutes on two cores)

MLP 64-128-64-10, three seeds; eight scores over seven densities, deterministic tickets, transplants, re-initialised
and shuffled masks, ensembles and MC dropout. The report is report.html under --out.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from weightspace import bayes


def main(out: Path = Path("runs/bayes_tickets"), networks: int = 3, seed: int = 0, epochs: int = 30) -> None:
    """Run the study and write its report.

    Args:
        out: Folder of the levels, rows.csv and report.html; the same command continues there.
        networks: Number of networks of each kind, trained side by side.
        seed: Seed of everything random but the data splits.
        epochs: Epochs of every level.
    """
    task = ws.tasks.digits()
    recipe = ws.Recipe(ws.Step(epochs=epochs), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    result = bayes.Study(replace(task, recipe=recipe), networks=networks, seed=seed).run(out)
    bayes.write_report(result, out)
    for table in bayes.pages.tables(result):
        print(f"\n{table.heading}\n{table.text()}")
    print(f"\nwritten to {out}/report.html")


if __name__ == "__main__":
    tyro.cli(main)

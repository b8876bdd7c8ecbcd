"""Does the demo's result hold over seeds, or was it luck?

    python -m experiments.demo.seeds        (about 7 minutes a seed on two cores; resumable)

Runs experiments/demo/run.py with three seeds (other networks, tickets, flow and samples on the same data
splits) and writes the mean over seeds and its spread to demo/seeds.csv.
"""

import statistics
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.demo import run

METRICS = ("accuracy", "nll", "ece", "nearest distance", "max error IoU")


def main(seeds: tuple[int, ...] = (0, 1, 2), out: Path = Path("runs"), results: Path = tables.RESULTS) -> None:
    """Write one row for each set of networks and metric to demo/seeds.csv.

    Args:
        seeds: Seeds of everything random but the data splits; at least two.
        out: Folder of the demos, one subfolder for each seed; the same command continues there.
        results: Folder of the result tables.
    """
    reports = [run.main(out / f"demo-seed-{seed}", seed=seed) for seed in seeds]
    table: list[dict[str, object]] = []
    for group in reports[0].groups:
        rows = {metric: [r[group.name].mean(metric) for r in reports] for metric in METRICS}
        unit = [r[r.reference].median("nearest distance") for r in reports]
        rows["nearest distance"] = [
            r[group.name].median("nearest distance") / u for r, u in zip(reports, unit, strict=True)
        ]
        rows["ensemble accuracy"] = [r[group.name].together["accuracy"] for r in reports]
        rows["ensemble nll"] = [r[group.name].together["nll"] for r in reports]
        for key in ("dispersion", "mask overlap", "Z_U"):
            if all(key in r[group.name].together for r in reports):
                rows[key] = [r[group.name].together[key] for r in reports]
        for metric, values in rows.items():
            row: dict[str, object] = {"networks": group.name, "n per seed": group.count, "metric": metric}
            row["mean over seeds"] = f"{statistics.fmean(values):.4f}"
            row["standard deviation over seeds"] = f"{statistics.stdev(values):.4f}"
            table.append(row | {str(seed): f"{value:.4f}" for seed, value in zip(seeds, values, strict=True)})
    for row in table:
        if row["metric"] in ("accuracy", "nearest distance", "ensemble nll"):
            mean, spread = row["mean over seeds"], row["standard deviation over seeds"]
            print(f"{row['networks']:<20}{row['metric']:<20}{mean} ± {spread}")
    tables.write(results / "demo/seeds.csv", table)


if __name__ == "__main__":
    tyro.cli(main)

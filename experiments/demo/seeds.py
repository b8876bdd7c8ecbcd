"""Does the demo's result hold over seeds, or was it luck?

    python -m experiments.demo.seeds        (about 5 minutes a seed on two cores; resumable)

Runs experiments/demo/run.py with three seeds (other networks, tickets, flow and samples on the same data
splits) and writes the mean over seeds and its spread to demo/seeds.csv.
"""

import statistics
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.demo import run

METRICS = {  # by their name in the table
    "accuracy": "accuracy",
    "nll": "nll",
    "ece": "ece",
    "nearest distance": "nearest_distance",
    "max error IoU": "max_error_iou",
}


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
        results_of = [report[group.name] for report in reports]
        rows = {name: [one.mean(metric) for one in results_of] for name, metric in METRICS.items()}
        pairs = list(zip(reports, results_of, strict=True))
        rows["nearest distance"] = [report.relative_distance(one) for report, one in pairs]
        rows["ensemble accuracy"] = [one.ensemble.accuracy for one in results_of]
        rows["ensemble nll"] = [one.ensemble.nll for one in results_of]
        optional = {
            "nearest angle": [report.relative_angle(one) for report, one in pairs],
            "dispersion": [one.variety and one.variety.dispersion for one in results_of],
            "mask overlap": [one.variety and one.variety.mask_overlap for one in results_of],
            "Z_U": [one.novelty.z_u for one in results_of],
        }
        for name, figures in optional.items():
            present = [value for value in figures if value is not None]
            if len(present) == len(reports):
                rows[name] = present
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

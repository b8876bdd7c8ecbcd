"""The demo's figures over seeds: does the result hold, or was it luck?

    python -m experiments.demo.seeds        (about 7 minutes a seed on two cores; resumable)

Runs experiments/demo/run.py with three seeds (other networks, tickets, flow and samples on the same data
splits) and writes the mean over seeds and its spread to docs/results/demo_seeds.csv.
"""

import csv
import statistics
from pathlib import Path

from experiments.demo import run

SEEDS = (0, 1, 2)
METRICS = ("accuracy", "nll", "ece", "nearest distance", "max error IoU")


def main() -> None:
    reports = [run.main(Path(f"runs/demo-seed-{seed}"), seed=seed) for seed in SEEDS]
    path = Path("docs/results/demo_seeds.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["networks", "n per seed", "metric", "mean over seeds", "standard deviation over seeds", *SEEDS])
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
                spread = statistics.stdev(values)
                figures = [f"{v:.4f}" for v in (statistics.fmean(values), spread, *values)]
                table.writerow([group.name, group.count, metric, *figures])
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        if row["metric"] in ("accuracy", "nearest distance", "ensemble nll"):
            mean, spread = row["mean over seeds"], row["standard deviation over seeds"]
            print(f"{row['networks']:<20}{row['metric']:<20}{mean} ± {spread}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()

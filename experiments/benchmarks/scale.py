"""What would a million networks take, or networks of a billion parameters?

    python -m experiments.benchmarks.scale          (seconds; reads the tables of other experiments)

Measured costs of one network, of one core, times a million; and the time and memory of the largest networks that were
run, in proportion to the parameters. Nothing is measured here, and nothing of this size was run.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

from experiments.common import tables

MILLION, BILLION = 10**6, 10**9
CORES, DAY = 16, 24 * 3600  # of one machine


def main(results: Path = tables.RESULTS) -> None:
    """Write benchmarks/scale.csv and benchmarks/scale_parameters.csv.

    Args:
        results: Folder of the result tables.
    """
    tables.write(results / "benchmarks/scale.csv", [many(*stage) for stage in stages(results)])
    tables.write(results / "benchmarks/scale_parameters.csv", list(large(results)))


def many(stage: str, source: str, core_seconds: float) -> dict[str, object]:
    """A row of what a million networks take.

    Args:
        stage: What is done to each network.
        source: Table that the cost is from.
        core_seconds: Seconds of one core for one network.
    """
    return {
        "stage": stage,
        "core s each": core_seconds,
        "core h a million": core_seconds * MILLION / 3600,
        "machines for a day": core_seconds * MILLION / (CORES * DAY),
        "from": source,
    }


def stages(results: Path) -> Iterator[tuple[str, str, float]]:
    """Stages with their table and the seconds of one core that one network takes."""
    collections = "benchmarks/collections"
    for row, count, cores in ((1, 2000, 2), (2, 100, 2)):
        found = tables.read(results / f"{collections}.csv")[row]
        what = found["networks"].split(" ", 1)[1]
        yield f"train {what}", collections, float(found["seconds"]) * cores / count
    (aligned,) = tables.read(results / "benchmarks/alignment_population.csv")
    each = float(aligned["seconds"]) * float(aligned["workers"]) / float(aligned["networks"])
    yield "align MLP 784-512-512-512-10", "benchmarks/alignment_population", each
    for row in tables.read(results / "generator/cost.csv"):
        if row["what"] in ("tickets (gradual)", "sampling"):
            stage = {"tickets (gradual)": "find tickets of MLP 64-128-64-10", "sampling": "sample MLP 64-128-64-10"}[
                row["what"]
            ]
            yield stage, "generator/cost", float(row["seconds each"])


def large(results: Path) -> Iterator[dict[str, object]]:
    """Rows of what each stage takes for the largest networks that were run, and for a billion parameters."""
    for row in tables.read(results / "generator/large.csv"):
        if row["network"] == "BERTClassifier":
            parameters, components = int(row["parameters"]), int(row["components"])
            yield {
                "stage": row["stage"],
                "networks": row["networks"],
                "parameters": parameters,
                "hours": float(row["seconds"]) / 3600,
                "hours for a billion": float(row["seconds"]) / 3600 * BILLION / parameters,
                "GiB for a billion": 4 * BILLION * (components + 6) / 2**30 + 1,
            }


if __name__ == "__main__":
    tyro.cli(main)

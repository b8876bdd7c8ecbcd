"""Do sparse changes forget less, where each task has a head of its own?

    python -m experiments.adapt.lota --data-root DATA     (about 15 minutes of one core; the same command continues)

After Panda et al. 2024 (arXiv 2406.16797): sentiment first, then genre from what sentiment left. The second and third
layer of MiniLM are adapted. The learning rate of every method and task is chosen on validation data, with seed 0, from
three; all rates are in the table, so that forgetting can be compared at equal accuracy of the second task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.adapt.intervals import grouped, interval
from experiments.adapt.texts import Adaptable, adaptable
from experiments.common import tables
from weightspace import adapt
from weightspace.tasks.data import Data
from weightspace.tasks.measuring import measure

RECIPE = ws.Recipe("60it", batch_size=16, optimizer=ws.Adam(), schedule="triangular")
CALIBRATION = replace(RECIPE, length=ws.Step(iterations=20), optimizer=ws.Adam(lr=2e-4))
BODY, HEAD = "encoder.*", "head.*"
SECOND = 1000  # seeds of the second task begin here


@dataclass(frozen=True)
class Way:
    """One way to adapt.

    Args:
        name: Its name in tables.
        rates: Learning rates to choose from.
        density: Fraction of the weights that is trained; None is all, by full tuning or LoRA.
        by: How they are chosen.
        rank: Rank of LoRA.
        apart: Whether the second task leaves alone what the first has trained.
    """

    name: str
    rates: tuple[float, ...]
    density: float | None = None
    by: str = "change"
    rank: int | None = None
    apart: bool = False


WAYS = (
    Way("full", (1e-4, 2e-4, 4e-4)),
    Way("LoTA 0.1", (3e-4, 1e-3, 3e-3), 0.1),
    Way("LoRA 8", (5e-4, 1e-3, 2e-3), rank=8),
    Way("random 0.1", (3e-4, 1e-3, 3e-3), 0.1, "random"),
    Way("LoTA 0.01", (1e-3, 3e-3, 1e-2), 0.01),
    Way("LoTTO 0.1", (3e-4, 1e-3, 3e-3), 0.1, apart=True),
)


def main(
    data_root: Path | None = None,
    seeds: tuple[int, ...] = (0, 1),
    out: Path = Path("runs/lota"),
    results: Path = tables.RESULTS,
) -> None:
    """Write adapt/lota.csv, a row for each way and rate.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        seeds: Seeds, of which the first chooses the rates.
        out: Folder of the runs; the same command continues there.
        results: Folder of the result tables.
    """
    first, second = (adaptable(name, data_root, RECIPE) for name in ("sentiment", "genre"))
    table = out / "rows.csv"
    rates: dict[tuple[str, str], float] = {}
    for seed in seeds:
        for way in WAYS:
            tried = {rate: begun(way, rate, first, seed, out) for rate in rates_of(way, "first", rates)}
            scores = {rate: accuracy(vector.on(first.base), first, "validation") for rate, vector in tried.items()}
            rate = rates.setdefault((way.name, "first"), max(scores, key=lambda one: scores[one]))
            for own in rates_of(way, "second", rates):
                row = followed(way, own, tried[rate], first, second, seed, out)
                row |= {"way": way.name, "seed": seed, "first rate": rate, "second rate": own}
                tables.add(table, [row], ("way", "seed", "first rate", "second rate"))
                print(row, flush=True)
            found = [row for row in tables.read(table) if row["way"] == way.name and row["seed"] == str(seeds[0])]
            best = max(found, key=lambda row: float(row["second validation"]))
            rates.setdefault((way.name, "second"), float(best["second rate"]))
    tables.write(results / "adapt/lota.csv", summary(tables.read(table)))


def rates_of(way: Way, task: str, chosen: dict[tuple[str, str], float]) -> tuple[float, ...]:
    """The rates to try: all of them, until one is chosen."""
    name = WAYS[1].name if way.apart and task == "first" else way.name  # LoTTO begins at LoTA's first task
    return (chosen[name, task],) if (name, task) in chosen else way.rates


def begun(way: Way, rate: float, first: Adaptable, seed: int, out: Path) -> adapt.TaskVectors:
    """The change of the first task."""
    own = WAYS[1] if way.apart else way
    return adapted(own, rate, first.starts(1, seed), first.task, None, out / f"first-{slug(own)}-{rate}-{seed}")


def followed(
    way: Way, rate: float, before: adapt.TaskVectors, first: Adaptable, second: Adaptable, seed: int, out: Path
) -> dict[str, object]:
    """The second task from where the first ended, and what is left of the first."""
    body = before.only(BODY)
    start = ws.starts(body.on(second.base), seed=SECOND + seed)
    apart = body if way.apart else None
    after = adapted(way, rate, start, second.task, apart, out / f"second-{slug(way)}-{rate}-{seed}")
    kept = before.on(first.base)  # with its own head
    changed = after.only(BODY).on(kept)
    lora = None if way.rank is None else adapt.LoRA(way.rank, on=BODY, whole=HEAD).architecture(start)
    row: dict[str, object] = {"trained": int(after.trained[0].sum()) if lora is None else lora.layout().size}
    for split in ("validation", "test"):
        row |= {
            f"first {split}": accuracy(kept, first, split),
            f"first after {split}": accuracy(changed, first, split),
            f"second {split}": accuracy(after.on(start), second, split),
        }
    own, there = after.only(BODY).weights != 0, body.changes_for(after.layout) != 0
    overlap = (own & there).sum() / own.sum()
    return row | {"overlap": float(overlap)}


def adapted(
    way: Way, rate: float, start: ws.Collection, task: ws.Task, apart: adapt.TaskVectors | None, folder: Path
) -> adapt.TaskVectors:
    """What one way changes in training on one task."""
    task = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam(lr=rate)))
    if way.rank is not None:
        adapters = adapt.LoRA(way.rank, on=BODY, whole=HEAD).find(start, task, folder=folder)
        return adapt.task_vectors(adapters, start)
    if way.density is None:
        everything = torch.ones(1, start.layout.size, dtype=torch.bool)
        return adapt.train_only(start, task, everything, folder=folder)
    calibration = CALIBRATION if way.by == "change" else None
    lota = adapt.LoTA(way.density, calibration, on=BODY, whole=HEAD, apart_from=apart, by=way.by)  # pyright: ignore[reportArgumentType]
    return lota.find(start, task, folder=folder)


def summary(rows: Sequence[dict[str, str]]) -> list[dict[str, object]]:
    """A row for each way and rate of the second task, with intervals over seeds.

    Args:
        rows: Rows of single seeds.
    """
    columns = ("first test", "first after test", "second test", "overlap")
    return [
        {"way": way, "first rate": own[0]["first rate"], "second rate": rate, "trained": int(own[0]["trained"])}
        | interval(own, columns)
        for (way, rate), own in grouped(rows, ("way", "second rate"))
    ]


def accuracy(network: ws.Collection, of: Adaptable, split: str) -> float:
    """Accuracy of one network on a split."""
    data: Data = getattr(of.task, split)
    module = network.architecture.build_seeded(0)
    return measure(of.task, module, network.layout, network.weights, network.buffers, data)["accuracy"][0]


def slug(way: Way) -> str:
    """A way's name for folders."""
    return way.name.replace(" ", "-")


if __name__ == "__main__":
    tyro.cli(main)

"""Do sparse changes forget less, and merge better, where tasks interfere?

    python -m experiments.adapt.interference --data-root DATA   (about 15 minutes of one core; rerun to continue)

After Panda et al. 2024 (arXiv 2406.16797): sentiment first, then fiction or learned prose, from what sentiment left.
The third layer of MiniLM is adapted; one random head stands still and serves both tasks, as the head of a language
model does, so that they are in each other's way. Every way has two rates for the first task, of which validation data
choose with the first seed, and three for the second, so that forgetting is compared at equal accuracy of the second.
"""

import statistics
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

FIRST, LATER = ws.Step(iterations=120), ws.Step(iterations=80)
RECIPE = ws.Recipe(FIRST, batch_size=16, optimizer=ws.Adam(), schedule="triangular")
CALIBRATION = replace(RECIPE, length=ws.Step(iterations=30), optimizer=ws.Adam(lr=2e-4))
BODY = "encoder.*"
LATER_SEED = 1000  # seeds of the second task begin here
ENOUGH = 0.8  # accuracy of the second task at which ways are compared, on validation data
SETTINGS = ("way", "seed", "second rate")


@dataclass(frozen=True)
class Way:
    """One way to adapt.

    Args:
        name: Its name in tables.
        first: Learning rates of the first task to choose from.
        later: Learning rates of the second task, from small to large.
        density: Fraction of the weights that is trained; None is all, by full tuning or LoRA.
        by: How they are chosen.
        rank: Rank of LoRA.
        apart: Whether the second task leaves alone what the first has trained.
    """

    name: str
    first: tuple[float, ...]
    later: tuple[float, ...]
    density: float | None = None
    by: str = "change"
    rank: int | None = None
    apart: bool = False


SPARSE = ((1e-3, 3e-3), (1e-4, 3e-4, 1e-3))
WAYS = (
    Way("full", (1e-4, 3e-4), (2e-5, 5e-5, 2e-4)),
    Way("LoTA 0.1", *SPARSE, 0.1),
    Way("LoTTO 0.1", *SPARSE, 0.1, apart=True),
    Way("random 0.1", *SPARSE, 0.1, "random"),
    Way("LoRA 8", (1e-3, 3e-3), (2e-4, 5e-4, 1e-3), rank=8),
)
MERGED = WAYS[:2]


def main(
    data_root: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("runs/interference"),
    results: Path = tables.RESULTS,
) -> None:
    """Write adapt/interference.csv, a row for each way and rate, and adapt/merging.csv, a row for each way to merge.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        seeds: Seeds, of which the first chooses the rates of the first task; at least two.
        out: Folder of the runs; the same command continues there.
        results: Folder of the result tables.
    """
    first, second = (shared(name, data_root) for name in ("sentiment", "fiction"))
    rates: dict[str, float] = {}
    kept, merging = out / "rows.csv", out / "merging.csv"
    for seed in seeds:
        for way in WAYS:
            before, rate = begun(way, first, seed, rates, out)
            start = ws.starts(before.on(first.base), seed=LATER_SEED + seed)
            before_it = {f"first {split}": accuracy(start, first, split) for split in ("validation", "test")}
            for own in way.later:
                at = {"way": way.name, "seed": seed, "second rate": own}
                if not there(kept, at):
                    row = followed(way, own, before, start, first, second, out / f"second-{slug(way)}-{own}-{seed}")
                    tables.add(kept, [at | {"first rate": rate} | before_it | row], SETTINGS)
        if not there(merging, {"seed": seed}):
            tables.add(merging, merged(first, second, seed, rates, out), ("vectors", "seed", "merger"))
        tables.write(results / "adapt/interference.csv", summary(tables.read(kept)))
        tables.write(results / "adapt/merging.csv", merge_summary(tables.read(merging)))


def shared(name: str, data_root: Path | None) -> Adaptable:
    """A task on the third layer, with the head of all tasks.

    Args:
        name: Name of the task.
        data_root: Folder of the unpacked packages.
    """
    return adaptable(name, data_root, RECIPE, head="shared", below=2, length=20)


def begun(way: Way, first: Adaptable, seed: int, rates: dict[str, float], out: Path) -> tuple[adapt.TaskVectors, float]:
    """The change of the first task, at the rate that the first seed has chosen, and this rate."""
    own = WAYS[1] if way.apart else way  # LoTTO begins at LoTA's first task
    tried = {
        rate: adapted(own, rate, first.starts(1, seed), first.task, out / f"first-{slug(own)}-{rate}-{seed}")
        for rate in ([rates[own.name]] if own.name in rates else own.first)
    }
    if own.name not in rates:
        scores = {rate: accuracy(vector.on(first.base), first, "validation") for rate, vector in tried.items()}
        rates[own.name] = max(scores, key=lambda rate: scores[rate])
        print(own.name, scores, flush=True)
    return tried[rates[own.name]], rates[own.name]


def followed(
    way: Way,
    rate: float,
    before: adapt.TaskVectors,
    start: ws.Collection,
    first: Adaptable,
    second: Adaptable,
    folder: Path,
) -> dict[str, object]:
    """The second task from where the first ended, and what is left of the first."""
    after = adapted(way, rate, start, lasting(second.task), folder, before if way.apart else None)
    ended = after.on(start)
    lora = None if way.rank is None else adapt.LoRA(way.rank, on=BODY).architecture(start)
    row: dict[str, object] = {"trained": int(after.trained[0].sum()) if lora is None else lora.layout().size}
    for split in ("validation", "test"):
        row |= {
            f"after {split}": accuracy(ended, first, split),
            f"second {split}": accuracy(ended, second, split),
        }
    own, earlier = after.weights != 0, before.weights != 0
    print(way.name, rate, row, flush=True)
    return row | {"overlap": float((own & earlier).sum() / own.sum())}


def merged(
    first: Adaptable, second: Adaptable, seed: int, rates: dict[str, float], out: Path
) -> list[dict[str, object]]:
    """Changes of both tasks from the same base, merged in every way."""
    rows: list[dict[str, object]] = []
    for way in MERGED:
        before, _ = begun(way, first, seed, rates, out)
        rate, start = way.later[-1], second.starts(1, LATER_SEED + seed)
        alone = adapted(way, rate, start, lasting(second.task), out / f"alone-{slug(way)}-{rate}-{seed}")
        mergers = {
            "task arithmetic": adapt.Sum(),
            "TIES": adapt.TIES(),
            "DARE": adapt.DARE(seed=seed),
            "DARE, then TIES": adapt.DARE(then=adapt.TIES(), seed=seed),
        }
        found = adapt.compare(mergers, [before, alone], [first.base], [first.task, second.task])
        figures = [(row.merger, row.scale, row.test["sentiment"][0], row.test["fiction"][0]) for row in found]
        plain = adapt.Sum().fit([before, alone]).on(first.base)
        figures.append(("sum", 1.0, accuracy(plain, first, "test"), accuracy(plain, second, "test")))
        a, b = before.weights[0], alone.weights[0]
        both = (a != 0) & (b != 0)
        signs = {
            "overlap": float(both.sum() / (a != 0).sum()),
            "signs agree": float((a[both].sign() == b[both].sign()).float().mean()),
        }
        names = ("merger", "scale", "first", "second")
        rows += [{"vectors": way.name, "seed": seed, **dict(zip(names, one, strict=True)), **signs} for one in figures]
        print(rows[-len(figures) :], flush=True)
    return rows


def adapted(
    way: Way, rate: float, start: ws.Collection, task: ws.Task, folder: Path, apart: adapt.TaskVectors | None = None
) -> adapt.TaskVectors:
    """What one way changes in training on one task."""
    task = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam(lr=rate)))
    if way.rank is not None:
        return adapt.task_vectors(adapt.LoRA(way.rank, on=BODY).find(start, task, folder=folder), start)
    if way.density is None:
        body = torch.ones(1, start.layout.size, dtype=torch.bool)
        for entry in start.layout.parameters:
            body[:, start.layout.slices[entry.name]] = entry.name.startswith("encoder.")
        return adapt.train_only(start, task, body, folder=folder)
    calibration = CALIBRATION if way.by == "change" else None
    lota = adapt.LoTA(way.density, calibration, on=BODY, apart_from=apart, by=way.by)  # pyright: ignore[reportArgumentType]
    return lota.find(start, task, folder=folder)


def lasting(task: ws.Task) -> ws.Task:
    """The second task, which is shorter."""
    return replace(task, recipe=replace(task.recipe, length=LATER))


def accuracy(network: ws.Collection, of: Adaptable, split: str) -> float:
    """Accuracy of one network on a split."""
    data: Data = getattr(of.task, split)
    module = network.architecture.build_seeded(0)
    return measure(of.task, module, network.layout, network.weights, network.buffers, data)["accuracy"][0]


def summary(rows: Sequence[dict[str, str]]) -> list[dict[str, object]]:
    """A row for each way and rate, with intervals over seeds.

    Args:
        rows: Rows of single seeds.
    """
    found: list[dict[str, object]] = []
    for (way, rate), own in grouped(rows, ("way", "second rate")):
        for row in own:
            row["forgotten"] = str(float(row["first test"]) - float(row["after test"]))
        held = statistics.fmean(float(row["second validation"]) for row in own)
        columns = ("first test", "after test", "forgotten", "second test", "overlap")
        numbers = {"trained": int(own[0]["trained"]), "first rate": float(own[0]["first rate"])}
        found.append({"way": way, "second rate": rate, **numbers, "second validation": held, **interval(own, columns)})
    for way in dict.fromkeys(row["way"] for row in found):
        enough = [row for row in found if row["way"] == way and float(str(row["second validation"])) >= ENOUGH]
        for row in found:
            if row["way"] == way:
                row["compared"] = int(bool(enough) and row is enough[0])  # the smallest rate that is enough
    return found


def merge_summary(rows: Sequence[dict[str, str]]) -> list[dict[str, object]]:
    """A row for each way to merge, with intervals over seeds.

    Args:
        rows: Rows of single seeds.
    """
    columns = ("first", "second", "overlap", "signs agree")
    return [
        {"vectors": vectors, "merger": name, "scale": statistics.fmean(float(row["scale"]) for row in own)}
        | interval(own, columns)
        for (vectors, name), own in grouped(rows, ("vectors", "merger"))
    ]


def there(path: Path, at: dict[str, object]) -> bool:
    """Whether a table has a row with these settings."""
    rows = tables.read(path) if path.exists() else []
    return any(all(row[name] == str(value) for name, value in at.items()) for row in rows)


def slug(way: Way) -> str:
    """A way's name for folders."""
    return way.name.replace(" ", "-")


if __name__ == "__main__":
    tyro.cli(main)

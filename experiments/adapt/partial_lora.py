"""Do a few rows and columns of an adapter do as well as all, and does it matter which?

    python -m experiments.adapt.partial_lora --data-root DATA   (about 10 minutes of one core; rerun to continue)
    python -m experiments.adapt.partial_lora --data-root DATA --task word_order       (about 20 minutes)

After Damirchi et al. 2025 (arXiv 2512.22495): genre of passages, on the second and third layer of MiniLM, or
whether words changed places in them, on the third. Beside LoRA of rank 8 stand five ways to train a quarter of its
numbers. The learning rate of each is chosen on validation data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro

import weightspace as ws
from experiments.adapt.intervals import grouped, interval
from experiments.adapt.texts import SIZES, Adaptable, adaptable
from experiments.common import tables
from weightspace import adapt
from weightspace.tasks.measuring import measure

STEPS = {"genre": 60, "word_order": 160}
TEXTS = {"genre": SIZES["train"], "word_order": 2 * SIZES["train"]}
BELOW = {"genre": 1, "word_order": 2}  # layers that are frozen, of three
RATES = (1e-3, 3e-3)
RANK, DENSITY = 8, 0.25
RATIOS = adapt.LayerRatios(keeps=0.9, samples=100, density=DENSITY)
WAYS: dict[str, tuple[int, adapt.PartialAdapters | None]] = {
    "LoRA 8": (RANK, None),
    "LoRA 2": (2, None),
    "uniform, random": (RANK, adapt.UniformRatio(DENSITY)),
    "ratios, random": (RANK, RATIOS),
    "ratios, scored": (RANK, replace(RATIOS, lines="scored")),
    "ratios of other layers, random": (RANK, replace(RATIOS, permuted=True)),
}


def main(
    data_root: Path | None = None,
    task: Literal["genre", "word_order"] = "genre",
    networks: int = 3,
    out: Path = Path("runs/partial-lora"),
    results: Path = tables.RESULTS,
) -> None:
    """Write adapt/partial_lora.csv, a row for each way, and adapt/layer_ratios.csv; the names of word order end so.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        task: What is learned.
        networks: Number of adapters of each way and rate.
        out: Folder of the adapters; the same command continues there.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(f"{STEPS[task]}it", batch_size=16, optimizer=ws.Adam(), schedule="triangular")
    adapted = adaptable(task, data_root, recipe, below=BELOW[task], train=TEXTS[task])
    end = "" if task == "genre" else f"_{task}"
    rows = [{"way": "head alone", "rate": 0.0, **measured(adapted.base, adapted)[0], "trained": 0}]
    for way, (rank, pattern) in WAYS.items():
        tried: dict[float, list[dict[str, object]]] = {}
        for rate in RATES:
            lora = adapt.LoRA(rank, on="encoder.*", whole="head.*", pattern=pattern)
            at_rate = replace(adapted.task, recipe=replace(recipe, optimizer=ws.Adam(lr=rate)))
            folder = out / f"{way.replace(', ', '-').replace(' ', '-')}-{rate}"
            found = lora.find(adapted.starts(networks, 0), at_rate, folder=folder)
            tried[rate] = [{"way": way, "rate": rate, **row} for row in measured(found, adapted)]
            print(tried[rate], flush=True)
            if way == "ratios, random":
                tables.write(results / f"adapt/layer_ratios{end}.csv", lines_of(found, adapted))
        rows += tried[max(RATES, key=lambda rate: sum(float(str(row["validation"])) for row in tried[rate]))]
        tables.write(results / f"adapt/partial_lora{end}.csv", summary(rows))


def measured(networks: ws.Collection, of: Adaptable) -> list[dict[str, object]]:
    """Accuracies and trained numbers of each network; test figures choose nothing."""
    module = networks.architecture.build_seeded(0)
    at = (networks.layout, networks.weights, networks.buffers)
    scores = {
        name: measure(of.task, module, *at, getattr(of.task, name))["accuracy"] for name in ("validation", "test")
    }
    return [
        {"seed": i, "trained": int(mask.sum()), **{name: values[i] for name, values in scores.items()}}
        for i, mask in enumerate(networks.masks)
    ]


def summary(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """A row for each way, with intervals over seeds.

    Args:
        rows: Rows of single seeds.
    """
    plain = [{name: str(value) for name, value in row.items()} for row in rows]
    return [
        {"way": way, "rate": float(own[0]["rate"]), "trained": int(own[0]["trained"])}
        | interval(own, ("validation", "test"))
        for (way,), own in grouped(plain, ("way",))
    ]


def lines_of(adapters: ws.Collection, of: Adaptable) -> list[dict[str, object]]:
    """The share of each layer's rows and columns that is trained."""
    shapes = {entry.name: entry.shape for entry in of.base.layout.parameters}
    return [
        {"layer": name, "rows": rows / shapes[name][0], "columns": columns / shapes[name][1]}
        for name, (rows, columns) in adapters.records[0]["lines"].items()
    ]


if __name__ == "__main__":
    tyro.cli(main)

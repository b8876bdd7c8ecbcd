"""Do a few rows and columns of an adapter do as well as all, and does it matter which?

    python -m experiments.adapt.partial_lora --data-root DATA   (about 10 minutes of one core; rerun to continue)
    python -m experiments.adapt.partial_lora --data-root DATA --task word_order --head shared       (5 minutes)

After Damirchi et al. 2025 (arXiv 2512.22495): genre of passages, on the second and third layer of MiniLM, or whether
words changed places in them, on the attention of the third. Beside LoRA of rank 8 stand five ways to train a quarter of
its numbers. The learning rate of each is chosen on validation data. The head is trained by every way; or it is random
and stands still, so that all there is to learn is learned by the adapters.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypedDict

import torch
import tyro

import weightspace as ws
from experiments.adapt.intervals import grouped, interval
from experiments.adapt.texts import SIZES, Adaptable, adaptable
from experiments.common import tables
from weightspace import adapt
from weightspace.tasks.measuring import measure


class Part(TypedDict, total=False):
    """The part of MiniLM's first three layers that is adapted; what is left out is as `adaptable` has it."""

    below: int
    attention: bool


@dataclass(frozen=True)
class GivenRatios(adapt.LayerRatios):
    """The ratios of another base, whose head was trained: one with a random head does nothing that could be kept.

    Args:
        given: Share of the rows and columns of each layer.
    """

    given: Mapping[str, float] = field(default_factory=dict)

    def ratios(self, base: ws.Collection, task: ws.Task, layers: Sequence[str], rank: int) -> dict[str, float]:  # noqa: ARG002
        """The given ratios."""
        return dict(self.given)


STEPS = {"genre": 60, "word_order": 160}
TEXTS = {"genre": SIZES["train"], "word_order": 2 * SIZES["train"]}
PART: dict[str, Part] = {"genre": {}, "word_order": {"below": 2, "attention": True}}
BODY = {"genre": "encoder.*", "word_order": "attention.*"}
RATES = (1e-3, 3e-3)
RANK, DENSITY = 8, 0.25
RATIOS = adapt.LayerRatios(keeps=0.9, samples=100, density=DENSITY)
Head = Literal["own", "shared"]


def main(
    data_root: Path | None = None,
    task: Literal["genre", "word_order"] = "genre",
    head: Head = "own",
    networks: int = 3,
    out: Path = Path("runs/partial-lora"),
    results: Path = tables.RESULTS,
) -> None:
    """Write adapt/partial_lora.csv, a row for each way, and adapt/layer_ratios.csv; their names end as settings say.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        task: What is learned.
        head: Whether each way trains a head that begins as a logistic regression ("own"), or none, and a random head
            stands still ("shared").
        networks: Number of adapters of each way and rate.
        out: Folder of the adapters; the same command continues there.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(f"{STEPS[task]}it", batch_size=16, optimizer=ws.Adam(), schedule="triangular")
    own = adaptable(task, data_root, recipe, count=TEXTS[task], **PART[task])
    adapted = own if head == "own" else replace(own, base=with_random_head(own.base))
    end = ("" if task == "genre" else f"_{task}") + ("" if head == "own" else f"_{head}")
    base = "head alone" if head == "own" else "random head"
    rows = [{"way": base, "rate": 0.0, **measured(adapted.base, adapted)[0], "trained": 0}]
    for way, (rank, pattern) in ways(own if head == "shared" else None, BODY[task]).items():
        tried: dict[float, ws.Collection] = {}
        goodness: dict[float, float] = {}
        for rate in RATES:
            lora = adapt.LoRA(rank, on=BODY[task], whole=("head.*",) if head == "own" else (), pattern=pattern)
            at_rate = replace(adapted.task, recipe=replace(recipe, optimizer=ws.Adam(lr=rate)))
            folder = out / f"{way.replace(', ', '-').replace(' ', '-')}-{rate}"
            tried[rate] = lora.find(adapted.starts(networks, 0), at_rate, folder=folder)
            goodness[rate] = statistics.fmean(accuracies(tried[rate], adapted, "validation"))
            print(way, rate, goodness[rate], flush=True)
        best = max(RATES, key=lambda rate: goodness[rate])
        rows += [{"way": way, "rate": best, **row} for row in measured(tried[best], adapted)]
        tables.write(results / f"adapt/partial_lora{end}.csv", summary(rows))
        if way == "ratios, random":
            tables.write(results / f"adapt/layer_ratios{end}.csv", lines_of(tried[best], adapted))


def ways(own: Adaptable | None, body: str) -> dict[str, tuple[int, adapt.PartialAdapters | None]]:
    """Rank and pattern of each way.

    Args:
        own: What the ratios are found on, where it is not what is adapted.
        body: Names of the weights that are adapted.
    """
    ratios: adapt.LayerRatios = RATIOS
    if own is not None:
        layers = [entry.name for entry in own.base.layout.weights if fnmatch(entry.name, body)]
        found = RATIOS.ratios(own.base, own.task, layers, RANK)
        ratios = GivenRatios(RATIOS.keeps, RATIOS.samples, density=DENSITY, given=found)
    return {
        "LoRA 8": (RANK, None),
        "LoRA 2": (2, None),
        "uniform, random": (RANK, adapt.UniformRatio(DENSITY)),
        "ratios, random": (RANK, ratios),
        "ratios, scored": (RANK, replace(ratios, lines="scored")),
        "ratios of other layers, random": (RANK, replace(ratios, permuted=True)),
    }


def with_random_head(base: ws.Collection, size: float = 0.3) -> ws.Collection:
    """The base with another head, as `with_shared_head` draws it.

    Args:
        base: One network.
        size: Standard deviation of the head's weights.
    """
    at, weights = base.layout.slices, base.weights.clone()
    drawn = torch.randn(weights[:, at["head.weight"]].shape, generator=torch.Generator().manual_seed(0))
    weights[:, at["head.weight"]], weights[:, at["head.bias"]] = size * drawn, 0.0
    return base.replace(weights=weights)


def accuracies(networks: ws.Collection, of: Adaptable, split: Literal["validation", "test"]) -> list[float]:
    """Accuracy of each network.

    Args:
        networks: Networks.
        of: Their task.
        split: What is measured on.
    """
    module = networks.architecture.build_seeded(0)
    at = (networks.layout, networks.weights, networks.buffers)
    return measure(of.task, module, *at, getattr(of.task, split))["accuracy"]


def measured(networks: ws.Collection, of: Adaptable) -> list[dict[str, object]]:
    """Accuracies and trained numbers of each network; test figures choose nothing."""
    scores = {name: accuracies(networks, of, name) for name in ("validation", "test")}
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

"""Every ticket finder on handwritten digits: accuracy at each density, and what it costs.

    make tickets                                         (about six minutes on two cores)

MLP 64-128-64-10, five seeds side by side. Weights are trained with Adam 3e-3 and cosine decay for 30 epochs;
what trains masks alone uses SGD 0.1 with momentum. Cost: whole trainings of a network that one ticket takes, the dense one
included where it is needed. Nothing was tuned, and nothing is chosen on the test split.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tables
import torch
import tyro

import weightspace as ws
from weightspace import bayes
from weightspace.bayes.controls import Controls
from weightspace.tickets.strong import fixed_weights
from weightspace.training.start import initial

DENSITIES = (0.1, 0.05, 0.02, 0.01)
Find = Callable[[ws.Collection, ws.Task], ws.Collection]


def methods(density: float, searching: ws.Task) -> dict[str, tuple[Find, float]]:
    """How each method finds tickets, and its cost in trainings.

    Args:
        searching: the task with the recipe for scores of untrained weights.
    """
    t = ws.tickets
    imp = t.IMP(density)
    start = {
        "random, same everywhere": t.AtStart(t.Random(), density, "layer"),
        "random, ERK": t.AtStart(t.Random(), pattern=ws.ERK(density)),
        "random, balanced": t.AtStart(t.Random(), pattern=ws.Balanced(density)),
        "magnitude at the start": t.AtStart(t.Magnitude(), density),
        "SNIP": t.AtStart(t.SNIP(), density),
        "GraSP": t.AtStart(t.GraSP(), density),
        "SynFlow": t.AtStart(t.SynFlow(), density, rounds=100),
        "SET": t.Dynamic(density, every=20, grow="random"),
        "RigL": t.Dynamic(density, every=20),
    }
    found: dict[str, tuple[Find, float]] = {name: (finder.find, 1.0) for name, finder in start.items()}
    found["edge-popup (untrained weights)"] = (lambda n, _task: t.EdgePopup(density).find(n, searching), 1.0)
    found["multi-prize (binary weights)"] = (lambda n, _task: t.EdgePopup(density, binary=True).find(n, searching), 1.0)
    found["supermask (untrained weights)"] = (
        lambda n, task: bayes.GateSearch(density, strength=0.05, length=ws.Step(epochs=30)).find(fixed(n, density), task), 1.0,
    )  # fmt: skip
    found["concrete ticket search"] = (concrete(density), 1.67)
    found["continuous sparsification"] = (t.ContinuousSparsification(density).find, 2.0)
    found["one-shot magnitude"] = (t.IMP(density, 1 - density).find, 2.0)
    found["gradual magnitude"] = (t.Gradual(density).find, 2.0)
    found["IMP, rewinding"] = (imp.find, 1.0 + len(imp.levels()))
    found["IMP, learning-rate rewinding"] = (replace(imp, survivors="keep").find, 1.0 + len(imp.levels()))
    return found


def concrete(density: float) -> Find:
    """Search at initialisation for 20 epochs, then train."""

    def find(networks: ws.Collection, task: ws.Task) -> ws.Collection:
        start = initial(task.architecture, networks.records)
        return ws.train(bayes.GateSearch.concrete(density).find(start, task), task, task.recipe.length)

    return find


def fixed(networks: ws.Collection, density: float) -> ws.Collection:
    """Untrained weights as edge-popup has them."""
    start = initial(networks.architecture, networks.records)
    return start.replace(weights=fixed_weights(start, "kaiming", density))


def accuracies(networks: ws.Collection, data: ws.Split) -> list[float]:
    right = networks.ensemble().logits(data.x).argmax(-1) == data.y
    return right.double().mean(1).tolist()


def main(seeds: int = 5, out: Path = Path("docs/results/tickets_digits.csv")) -> None:
    """Print and write a row for each method and density.

    Args:
        seeds: networks, trained side by side.
        out: CSV to write.
    """
    recipe = ws.Recipe(ws.Step(epochs=30), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    task = replace(ws.tasks.digits(), recipe=recipe)
    searching = replace(task, recipe=replace(recipe, optimizer=ws.SGD(lr=0.1, momentum=0.9)))
    dense = ws.collect(task, seeds)
    base = accuracies(dense, task.test)
    rows: list[dict[str, object]] = [row("dense", 1.0, base, base, 1.0, dense, 0.0)]
    for density in DENSITIES:
        for name, (find, cost) in methods(density, searching).items():
            started = time.process_time()
            found = find(dense, task)
            took = time.process_time() - started
            rows.append(row(name, density, accuracies(found, task.test), base, cost, found, took))
        best = ws.tickets.IMP(density).find(dense, task)
        controls = Controls(best, initial(task.architecture, dense.records))
        for name, start in (
            ("IMP's mask, new weights", controls.reinitialised()), ("IMP's mask shuffled in layers", controls.shuffled()),
            ("IMP's mask scattered", controls.scattered()),
        ):  # fmt: skip
            found = ws.train(start.replace(extras={}), task, recipe.length)
            rows.append(row(name, density, accuracies(found, task.test), base, 1.0, found, float("nan")))
        tables.write(out, rows)


def row(
    name: str, density: float, found: list[float], base: list[float], cost: float, networks: ws.Collection, took: float
) -> dict[str, object]:
    kept = networks.masks[:, networks.layout.prunable].sum(1)
    assert (kept == round(density * networks.layout.num_prunable)).all(), "the achieved count is the asked one"
    match = ws.tickets.matching(found, base)
    shape = (64,)
    effective = ws.tickets.effective_density(networks, shape).mean().item()
    first, second = torch.triu_indices(len(kept), len(kept), offset=1)
    masks = networks.masks[:, networks.layout.prunable].float()
    overlap = ((masks @ masks.T)[first, second] / kept[0]).mean().item()
    print(
        f"{density:<6} {name:<32} {statistics.fmean(found):.4f} ± {statistics.stdev(found):.4f}  minus dense "
        f"{100 * match.difference:+.2f} ± {100 * match.half_width:.2f}  cost {cost:.1f}  {took:.1f} s",
        flush=True,
    )
    return {
        "method": name, "density": density, "accuracy": statistics.fmean(found), "std": statistics.stdev(found),
        "minus_dense": match.difference, "half_width": match.half_width, "trainings": cost, "cpu_seconds": took,
        "effective_density": effective, "collapsed": sum(map(bool, ws.tickets.collapsed_layers(networks))),
        "mask_overlap": overlap,
    }  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)

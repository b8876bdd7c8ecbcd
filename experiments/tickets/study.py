"""Every ticket finder at one density, with its accuracy and cost: what the experiments on finders share."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

import weightspace as ws
from experiments.common import accuracy, tables
from weightspace import bayes
from weightspace.tickets.edge_popup import fixed_weights
from weightspace.training.conversion import initial

Find = Callable[[ws.Collection, ws.Task, Path | None], ws.Collection]


# The folder of a control that runs of version 0.1 have.
FOLDERS = {"IMP's mask globally shuffled": "IMP's mask scattered"}


class Finder(Protocol):
    """Any ticket finder."""

    def find(self, networks: ws.Collection, task: ws.Task, *, folder: Path | None) -> ws.Collection:
        """Tickets of dense networks."""
        ...


def methods(
    density: float, searching: ws.Task, rate: float, rewind: ws.Step, updates: int, search: ws.Step
) -> dict[str, tuple[Find, float]]:
    """How each method finds tickets, and its cost in trainings.

    The arguments are those of :func:`study`.
    """
    t = ws.tickets
    imp = t.IMP(density, rate, rewind)
    start = {
        "random, same everywhere": t.PruneAtInit(t.RandomScore(), density, "layer"),
        "random, ERK": t.PruneAtInit(t.RandomScore(), pattern=ws.ERK(density)),
        "random, balanced": t.PruneAtInit(t.RandomScore(), pattern=ws.Balanced(density)),
        "magnitude at the start": t.PruneAtInit(t.MagnitudeScore(), density),
        "SNIP": t.PruneAtInit(t.SNIP(), density),
        "GraSP": t.PruneAtInit(t.GraSP(), density),
        "SynFlow": t.PruneAtInit(t.SynFlow(), density, rounds=100),
        "SET": t.DynamicSparseTraining(density, every=updates, grow="random"),
        "RigL": t.DynamicSparseTraining(density, every=updates),
    }
    finders: dict[str, tuple[Find, float]] = {name: (plain(finder), 1.0) for name, finder in start.items()}
    finders["edge-popup (untrained weights)"] = (
        lambda n, _task, folder: t.EdgePopup(density).find(n, searching, folder=folder),
        1.0,
    )
    finders["multi-prize (binary weights)"] = (
        lambda n, _task, folder: t.EdgePopup(density, binary=True).find(n, searching, folder=folder),
        1.0,
    )
    finders["supermask (untrained weights)"] = (
        lambda n, task, folder: bayes.GateSearch(density, strength=0.05, length=task.recipe.length).find(
            fixed(n, density), task, folder=folder
        ),
        1.0,
    )
    finders["concrete ticket search"] = (
        concrete(density, search),
        1.0 + epochs(search) / epochs(searching.recipe.length),
    )
    finders["continuous sparsification"] = (plain(t.ContinuousSparsification(density)), 2.0)
    finders["one-shot magnitude"] = (plain(t.IMP(density, 1 - density)), 2.0)
    finders["gradual magnitude"] = (plain(t.GradualPruning(density, length=searching.recipe.length)), 2.0)
    finders["IMP, rewinding"] = (plain(imp), 1.0 + len(imp.levels()))
    finders["IMP, learning-rate rewinding"] = (
        plain(replace(imp, rewind=ws.Step(), after_pruning="lr_rewind")),
        1.0 + len(imp.levels()),
    )
    return finders


def plain(finder: Finder) -> Find:
    """How a finder finds tickets."""
    return lambda networks, task, folder: finder.find(networks, task, folder=folder)


def concrete(density: float, length: ws.Step) -> Find:
    """Search at initialisation, then train."""

    def find(networks: ws.Collection, task: ws.Task, folder: Path | None) -> ws.Collection:
        start = initial(task.architecture, networks.records)
        places = (None, None) if folder is None else (folder / "gates", folder / "trained")
        masked = bayes.GateSearch.concrete(density, length=length).find(start, task, folder=places[0])
        return ws.train(masked, task, task.recipe.length, folder=places[1])

    return find


def epochs(step: ws.Step) -> float:
    """A duration in epochs."""
    assert not step.iterations, "costs are counted in epochs"
    return step.epochs


def fixed(networks: ws.Collection, density: float) -> ws.Collection:
    """Untrained weights as edge-popup has them."""
    start = initial(networks.architecture, networks.records)
    return start.replace(weights=fixed_weights(start, "kaiming", density))


def study(
    task: ws.Task,
    seeds: int,
    densities: Sequence[float],
    out: Path,
    folder: Path | None,
    only: Sequence[str] = (),
    searching: ws.Task | None = None,
    rate: float = 0.2,
    updates: int = 20,
    search: ws.Step = ws.Step(epochs=20),
    rewind: ws.Step = ws.Step(),
) -> None:
    """Print and write a row for each method and density.

    Args:
        task: Task to train on.
        seeds: Number of networks, trained side by side.
        densities: Densities of the tickets.
        out: CSV file to write.
        folder: Folder where the networks of every method are kept, to go on after an interruption; None keeps nothing.
        only: Names of methods; none given does all.
        searching: Task with the recipe for scores of untrained weights; None is `task`.
        rate: Fraction of the weights that one level of iterative pruning removes.
        updates: Iterations between two moves of connections.
        search: Length of a concrete ticket search.
        rewind: Point of training that iterative pruning rewinds to.
    """
    kept = (lambda *_parts: None) if folder is None else lambda *parts: folder.joinpath(*map(str, parts))
    shape = task.train.x.shape[1:]
    dense = ws.collect(task, seeds, folder=kept("dense"))
    base = accuracy.as_list(dense, task.test)
    rows: list[dict[str, object]] = [row("dense", 1.0, base, base, 1.0, dense, 0.0, shape)]
    for density in densities:
        for name, (find, cost) in methods(density, searching or task, rate, rewind, updates, search).items():
            if only and name not in only:
                continue
            place = kept(density, name)
            before = place is not None and place.exists()
            started = time.process_time()
            tickets = find(dense, task, place)
            took = float("nan") if before else time.process_time() - started  # an earlier process did the work
            rows.append(row(name, density, accuracy.as_list(tickets, task.test), base, cost, tickets, took, shape))
            tables.add(out, rows, ("method", "density"))
            if name == "IMP, rewinding" and not only:
                controls = ws.tickets.TicketControls()
                for control, start in (
                    ("IMP's mask, new weights", controls.reinitialised(tickets)),
                    ("IMP's mask shuffled in layers", controls.shuffled(tickets)),
                    ("IMP's mask globally shuffled", controls.globally_shuffled(tickets)),
                    ("IMP's mask inverted", controls.inverted(tickets, dense.weights.abs())),
                ):
                    trained = ws.train(
                        start, task, task.recipe.length, folder=kept(density, FOLDERS.get(control, control))
                    )
                    rows.append(
                        row(
                            control,
                            density,
                            accuracy.as_list(trained, task.test),
                            base,
                            1.0,
                            trained,
                            float("nan"),
                            shape,
                        )
                    )
        tables.add(out, rows, ("method", "density"))


def row(
    name: str,
    density: float,
    accuracies: list[float],
    base: list[float],
    cost: float,
    networks: ws.Collection,
    took: float,
    shape: Sequence[int],
) -> dict[str, object]:
    """A row of the table; prints it too."""
    kept = networks.masks[:, networks.layout.prunable].sum(1)
    assert (kept == round(density * networks.layout.num_prunable)).all(), "the achieved count is the asked one"
    match = ws.tickets.matching(accuracies, base)
    effective = ws.tickets.effective_density(networks, shape).mean().item()
    first, second = torch.triu_indices(len(kept), len(kept), offset=1)
    masks = networks.masks[:, networks.layout.prunable].float()
    overlap = ((masks @ masks.T)[first, second] / kept[0]).mean().item()
    print(
        f"{density:<6} {name:<32} {statistics.fmean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f}  minus dense "
        f"{100 * match.difference:+.2f} ± {100 * match.half_width:.2f}  cost {cost:.1f}  {took:.1f} s",
        flush=True,
    )
    return {
        "method": name,
        "density": density,
        "accuracy": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies),
        "minus_dense": match.difference,
        "half_width": match.half_width,
        "trainings": cost,
        "cpu_seconds": took,
        "effective_density": effective,
        "collapsed": sum(map(bool, ws.tickets.collapsed_layers(networks))),
        "mask_overlap": overlap,
    }

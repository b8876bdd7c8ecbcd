"""The command line's verb `align`."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from weightspace.align import (
    ActivationMatching,
    Cost,
    GrowingMean,
    MergeMany,
    PopulationScheme,
    PrecisionCost,
    Star,
    StraightThrough,
    Universe,
    WassersteinCost,
    WeightCost,
    WeightMatching,
)
from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, open_collection, task_of
from weightspace.errors import InputError
from weightspace.evaluation import alignment_report
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.runtime.executor import end_with_parent
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.task import Task

_BLOCK = 64


def align(
    networks: Folder,
    *,
    out: Path,
    to: str | None = None,
    method: Literal["weights", "activations", "straight-through"] = "weights",
    population: Literal["growing-mean", "star", "merge-many", "universe"] = "growing-mean",
    reference: int = 0,
    compare: tuple[str, ...] = ("weights",),
    posterior: Literal["none", "wasserstein", "precision"] = "none",
    balance: bool = True,
    fix_unknown: bool = False,
    task: str | None = None,
    report: int = 0,
    workers: int = 1,
    common: Shared = Common(),
) -> None:
    """Bring networks into one basin by permuting their hidden units; each network's function stays the same.

    Args:
        networks: folder of networks; add @START:STOP to take a part.
        out: folder to write.
        to: align to the reference of this collection instead of to their own.
        method: what is matched: weights, activations on training data, or the loss of the midpoint.
        population: the reference: the growing mean, one network (star), the mean of all others in turn
            (merge-many), or all networks together (universe). For weights only; else a star.
        reference: number of the network in the middle of a star.
        compare: vectors to compare: "weights", or names of extras such as dense parents.
        posterior: compare diagonal posteriors, whose standard deviations are the extra "std".
        balance: give each unit equal incoming and outgoing norms first, where activations allow it.
        fix_unknown: leave units in place that meet an operator which cannot be traced.
        task: what the networks were trained on, by default what their records say; gives example inputs
            for networks that are not built in, training data, and the report's test split.
        report: measure this many networks before and after, and write a page; 0 leaves it out.
        workers: processes that match networks.
    """
    common.only_cpu("align")
    collection = open_collection(networks, common)
    target = collection if to is None else open_collection(to, common)
    if report == 1 or report < 0:
        raise InputError(f"--report counts networks: 0, or at least 2; got {report}")
    if workers < 1:
        raise InputError(f"--workers must be at least 1, got {workers}")
    _check_options(method, population, reference, compare, posterior)
    known = collection.architecture.example() is not None
    built = task_of(collection, task, common) if task or report or method != "weights" or not known else None
    scheme = _population(population, reference)
    cost = _cost(compare, posterior)
    config = {
        "method": method, "reference": reference, "population": spelled_text(scheme), "cost": spelled_text(cost),
        "balance": balance, "fix_unknown": fix_unknown, "task": _needed(built).to_json() if method != "weights" else None,
    }  # fmt: skip
    fingerprints = {"networks": collection.fingerprint(), "to": target.fingerprint()}
    with _pool(workers) as executor:
        transform: Callable[[Collection], Collection] | None = None

        def fitted() -> Callable[[Collection], Collection]:
            if method == "activations":
                activations = ActivationMatching(reference, fix_unknown=fix_unknown)
                return activations.fit(target, _needed(built).train.x[:2000]).transform
            if method == "straight-through":
                straight_through = StraightThrough(reference=reference, fix_unknown=fix_unknown)
                return straight_through.fit(target, _needed(built)).transform
            matching = WeightMatching(balance=balance, cost=cost, population=scheme, fix_unknown=fix_unknown)
            example = None if built is None else built.train.x[:8]
            fitted_matching = matching.fit(target, example=example, executor=executor)
            return lambda part: fitted_matching.transform(part, executor=executor)

        def make(rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            nonlocal transform
            transform = transform or fitted()
            aligned = transform(collection[rows])
            tick(1)
            return aligned

        aligned = in_blocks(
            make, architecture=collection.architecture, count=len(collection), block=min(_BLOCK, len(collection)),
            ticks=1, what="aligning", folder=out, stage="align", config=config, inputs=fingerprints,
        )  # fmt: skip
    report_done(aligned, out)
    if report:
        star = method != "weights" or population == "star"
        middle = f" to network {reference}" if star else ""
        settings = (
            f"Aligned by {method}{f' ({population})' if method == 'weights' else ''}{middle}, comparing "
            f"{spelled_text(cost)}, {'balanced' if balance and method == 'weights' else 'not balanced'}; {networks}"
            f"{f', to the reference of {to}' if to else ''}; {report} of {len(collection)} networks are shown."
        )
        made = alignment_report(
            collection, aligned, _needed(built), networks=report, settings=settings,
            reference=reference if star and to is None else None,
        )  # fmt: skip
        made.write(out)
        print(made)
        print(f"written to {out / 'alignment.html'}")


def _check_options(method: str, population: str, reference: int, compare: tuple[str, ...], posterior: str) -> None:
    """Refuse options that would have no effect."""
    if method != "weights" and (population != "growing-mean" or compare != ("weights",) or posterior != "none"):
        raise InputError(
            f"--method {method} matches to one network: --population, --compare and --posterior are for weights"
        )
    if reference and method == "weights" and population != "star":
        raise InputError(f"--reference is the middle of a star: add --population star, got --population {population}")


def _needed(task: Task | None) -> Task:
    assert task is not None
    return task


def _population(name: str, reference: int) -> PopulationScheme:
    if name == "star":
        return Star(reference)
    return {"growing-mean": GrowingMean(), "merge-many": MergeMany(), "universe": Universe()}[name]


def _cost(compare: tuple[str, ...], posterior: str) -> Cost:
    if posterior == "none":
        return WeightCost(compare)
    if compare != ("weights",):
        raise InputError("--posterior compares means and scales: leave --compare out")
    return WassersteinCost() if posterior == "wasserstein" else PrecisionCost()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    if workers == 1:
        yield None
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        yield pool

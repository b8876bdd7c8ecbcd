"""One table of all ways to merge, each at the scale that validation data choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weightspace.adapt.merging import Merger
from weightspace.adapt.task_vectors import TaskVectors, check_vectors
from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.tasks.arguments import check_task
from weightspace.tasks.data import Data
from weightspace.tasks.measuring import measure
from weightspace.tasks.task import Task

SCALES = (0.3, 0.5, 0.7, 1.0)
"""Factors of the merged change that are tried."""


@dataclass(frozen=True)
class MergeRow:
    """One way to merge.

    Args:
        merger: Its name.
        scale: Factor of the merged change that did best on validation data.
        validation: Main metric of each network for each task, by the task's name, on validation data.
        test: The same on test data, which chose nothing.
    """

    merger: str
    scale: float
    validation: Mapping[str, tuple[float, ...]]
    test: Mapping[str, tuple[float, ...]]


def compare(
    mergers: Mapping[str, Merger],
    vectors: Sequence[TaskVectors],
    bases: Sequence[Collection],
    tasks: Sequence[Task],
    *,
    scales: Sequence[float] = SCALES,
) -> list[MergeRow]:
    """Merge in several ways, choose the scale of each on validation data, and read the test data once.

    The first row is "alone", each task vector for its own task, and the second "base", none at all. Where tasks have
    heads of their own, give vectors of the body, such as `vector.only("encoder.*")`, and bases that have the trained
    heads, `vector.only("head.*").on(base)`.

    Args:
        mergers: Ways to merge, by the names that the rows have. Their own scale is 1, where they have one.
        vectors: A task vector for each task, as many networks in each.
        bases: What the merged vector is added to, for each task, or one for all.
        tasks: The tasks.
        scales: Factors of the merged change to choose from.

    Raises:
        InputError: Numbers of vectors, bases and tasks differ, there are no scales, or two tasks have one name.
    """
    for name, merger in checks.mapping(mergers, "mergers", "of names to ways to merge").items():
        checks.instance(merger, f"mergers[{name!r}]", Merger, "a way to merge, such as Sum()")
    checks.several(vectors, "vectors", check_vectors)
    checks.several(bases, "bases", check_networks)
    checks.several(tasks, "tasks", check_task)
    scales = checks.several(scales, "scales", checks.number)
    bases = list(bases) * len(tasks) if len(bases) == 1 else list(bases)
    if not len(vectors) == len(tasks) == len(bases) or not tasks:
        raise InputError(f"got {len(vectors)} vectors, {len(bases)} bases and {len(tasks)} tasks: give one of each")
    if not scales:
        raise InputError("give at least one scale to choose from")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InputError(f"tasks need names of their own, to tell their figures apart: got {', '.join(names)}")

    alone = [vector.on(base) for vector, base in zip(vectors, bases, strict=True)]
    rows = [_row("alone", 1.0, alone, tasks), _row("base", 0.0, bases, tasks)]
    for name, merger in mergers.items():
        merged = merger.fit(vectors)
        tried = [(scale, [merged.on(base, scale=scale) for base in bases]) for scale in scales]
        scale, best = max(tried, key=lambda pair: _goodness(pair[1], tasks))
        rows.append(_row(name, scale, best, tasks))
    return rows


def _row(name: str, scale: float, networks: Sequence[Collection], tasks: Sequence[Task]) -> MergeRow:
    pairs = list(zip(networks, tasks, strict=True))
    validation = {task.name: _values(part, task, task.validation) for part, task in pairs}
    return MergeRow(name, scale, validation, {task.name: _values(part, task, task.test) for part, task in pairs})


def _goodness(networks: Sequence[Collection], tasks: Sequence[Task]) -> float:
    """Mean of the main metrics on validation data, each such that more is better."""
    total = 0.0
    for part, task in zip(networks, tasks, strict=True):
        values = _values(part, task, task.validation)
        total += (1 if _main(task)[1] else -1) * sum(values) / len(values)
    return total / len(tasks)


def _main(task: Task) -> tuple[str, bool]:
    """Name of a task's main metric, and whether more of it is better."""
    return (task.scores[0].name, task.scores[0].higher_is_better) if task.scores else ("loss", False)


def _values(networks: Collection, task: Task, data: Data) -> tuple[float, ...]:
    figures = measure(
        task, networks.architecture.build_seeded(0), networks.layout, networks.weights, networks.buffers, data
    )
    return tuple(figures[_main(task)[0]])

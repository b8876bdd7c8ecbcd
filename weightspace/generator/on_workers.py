"""Several generators of the same tickets, fitted at the same time on an executor's workers."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from weightspace.errors import InputError
from weightspace.generator.fitted_generator import FittedGenerator
from weightspace.generator.ticket_generator import TicketGenerator
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.runtime.executor import WANTED, Executor, as_worker
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.storage.files import make_folder
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task


def fit_on(
    executor: Executor,
    generators: Mapping[str, TicketGenerator],
    tickets: Collection,
    *,
    folder: str | Path,
    task: Task | None = None,
    example: Tree | None = None,
    seed: int = 0,
) -> dict[str, FittedGenerator]:
    """As `generator.fit(tickets)` of each, on an executor's workers: settings to choose from, or controls.

    All workers must see the folder, and use one thread each. Each fit is a resumable run, which another worker goes on
    with where one is lost.

    Args:
        executor: Executor with a `map`: `weightspace.processes(2)`, `OnRay()`, or one of concurrent.futures.
        generators: The generators by name; a name is that of its folder in `folder`.
        tickets: Trained sparse networks, which are sent to the workers.
        folder: Folder of all of them.
        task: Task to refine through, as in `fit`; it must be picklable by the executor.
        example: A batch of inputs, as in `fit`.
        seed: Seed of every fit.

    Returns:
        The fitted generators by name.

    Raises:
        InputError: There is no generator, a name is no name of a folder, or tickets or the task do not suit one.
        LayoutMismatch: The tickets are not of the task's architecture.
        StorageError: A folder holds another run.
    """
    checks.having(executor, "executor", ("map",), WANTED)
    check_networks(tickets, "tickets")
    checks.given(task, "task", check_task)
    checks.given(example, "example", check_inputs)
    folder, seed = Path(checks.path(folder, "folder")).absolute(), checks.seed(seed)  # workers may be in other folders
    generators = checks.mapping(generators, "generators", "of names to TicketGenerators")
    if not generators:
        raise InputError("give at least one generator, by the name of its folder")
    for name, generator in generators.items():
        checks.instance(generator, f"generators[{name!r}]", TicketGenerator, "a TicketGenerator(...)")
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise InputError(f"each generator is written to a folder of its name: {name!r} is no name of a folder")
        generator.check(tickets, task)
    make_folder(folder)
    task = None if task is None else replace(task, ood=None)  # not needed, and often not picklable
    work = partial(_fitted, tickets, task, example, seed)
    items = [(generator, folder / name) for name, generator in generators.items()]
    for _ in progress(executor.map(work, items), "fitting generators in workers", total=len(items)):
        pass
    factory = tickets.architecture.factory
    return {name: FittedGenerator.load(folder / name, factory=factory) for name in generators}


def _fitted(
    tickets: Collection, task: Task | None, example: Tree | None, seed: int, item: tuple[TicketGenerator, Path]
) -> None:
    """Fit one, in a worker."""
    as_worker()
    generator, folder = item
    generator.fit(tickets, task=task, example=example, seed=seed, folder=folder, device="cpu")

"""Work on a collection in shards: any stage that makes one network of each, on an executor's workers."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection, writer_for
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.runtime.executor import WANTED, Executor, as_worker
from weightspace.runtime.progress import progress
from weightspace.storage.files import remove_files
from weightspace.storage.runs import open_run
from weightspace.storage.shards import MANIFEST
from weightspace.storage.spelling import spelled_text
from weightspace.storage.system_errors import exists
from weightspace.tasks.task import Task
from weightspace.training.collect import train
from weightspace.training.part_logs import FOUND, told


@runtime_checkable
class Finding(Protocol):
    """Anything that makes one network of each: a ticket finder, a Bayesian search, an adapter."""

    def find(self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto") -> Any:
        """A network of each, in their order; `weightspace.tickets.Finder` says more."""
        ...


def find_on(
    executor: Executor, finder: Finding, networks: Collection, task: Task, *, shards: int, folder: str | Path
) -> Collection:
    """As `finder.find(networks, task)`, in shards on an executor's workers, one thread each.

    All workers must see the folder. Each shard is a resumable run in `folder/parts`, which another worker does again
    where one is lost; they are merged when all are there. Networks are those that one process finds, but for rounding.

    Args:
        executor: Executor with a `map`: `weightspace.processes(2)`, `OnRay()`, or one of concurrent.futures.
        finder: Ticket finder, or anything else with such a `find` that treats networks one by one.
        networks: Networks to find tickets of, in the memory of this process or on disk.
        task: Task that is sent to the workers, so its network and loss must be picklable by the executor.
        shards: Number of parts; a few for each worker, so that all end at about the same time.
        folder: Folder to write.

    Raises:
        InputError: There are fewer networks than shards, or a network has no index in its record.
    """
    checks.having(finder, "finder", ("find",), "a ticket finder, such as IMP()")
    name = f"{type(finder).__module__}.{type(finder).__qualname__}"
    config = {"finder": name, "settings": spelled_text(finder), "task": task.to_json(), "recipe": task.recipe.to_json()}
    return in_shards(executor, partial(_found, finder, task), networks, shards=shards, folder=folder, config=config)


def train_on(
    executor: Executor, networks: Collection, task: Task, length: Step | str, *, shards: int, folder: str | Path
) -> Collection:
    """As `train`, in shards on an executor's workers; see `find_on`.

    Args:
        executor: Executor with a `map`.
        networks: Networks to train on.
        task: Task that they are trained on.
        length: How much longer they are trained, such as "5ep".
        shards: Number of parts.
        folder: Folder to write.
    """
    step = Step.of(length, "length")
    config = {"length": str(step), "task": task.to_json(), "recipe": task.recipe.to_json()}
    return in_shards(executor, partial(_trained, task, step), networks, shards=shards, folder=folder, config=config)


def in_shards(
    executor: Executor,
    work: Callable[[Collection, Path], Path],
    networks: Collection,
    *,
    shards: int,
    folder: str | Path,
    config: Mapping[str, Any],
) -> Collection:
    """Apply a stage to parts of a collection, and put what it makes together, in order.

    Args:
        executor: Executor with a `map`.
        work: Function of a part and its folder, which makes a collection there, resumably, and returns the folder.
        networks: The whole collection.
        shards: Number of parts.
        folder: Folder to write.
        config: What decides the result, beside the networks.

    Raises:
        InputError: There are fewer networks than shards, or a network has no index in its record.
    """
    checks.having(executor, "executor", ("map",), WANTED)
    shards = checks.count(shards, "shards", at_least=1, at_most=len(check_networks(networks)))
    if any(record.index is None for record in networks.records):
        raise InputError(
            'a network has no "index" in its record, so that a part does not say which it is: give them one with '
            "networks.replace(records=[record | {'index': i} for i, record in enumerate(networks.records)])"
        )
    folder = Path(checks.path(folder, "folder")).absolute()  # workers may be in other folders
    inputs = {"networks": networks.fingerprint()}
    with open_run(folder, "shards", {**config, "shards": shards}, inputs) as run:
        if not exists(folder / MANIFEST):
            made = executor.map(partial(_part, work), _parts(networks, shards, folder / "parts"))
            with progress(made, f"working in {shards} shards", total=shards) as bar:
                put_together(bar, folder, networks.architecture.factory)
        done = Collection.load(folder, factory=networks.architecture.factory)
        if not run.complete:
            run.finish(networks=len(done))
    return done


def put_together(parts: Iterable[Path], folder: Path, factory: Callable[[], nn.Module] | None) -> None:
    """Write one collection of several, in order.

    Args:
        parts: Folders of the collections, which are waited for.
        folder: Folder to write; what an interrupted merge left there is written anew.
        factory: Builds the network, for architectures that are not built in.
    """
    found = [Collection.load(part, factory=factory) for part in told(parts)]
    remove_files(folder, "shard-*.safetensors")
    writer = writer_for(folder, found[0].layout, found[0].architecture)
    for part in found:
        part.write_to(writer)
    writer.close()


def _parts(networks: Collection, shards: int, folder: Path) -> list[tuple[Collection, Path]]:
    bounds = [len(networks) * i // shards for i in range(shards + 1)]
    return [(networks[bounds[i] : bounds[i + 1]], folder / f"{i:05d}") for i in range(shards)]


def _part(work: Callable[[Collection, Path], Path], part: tuple[Collection, Path]) -> Path:
    as_worker()
    return work(*part)


def _found(finder: Finding, task: Task, networks: Collection, folder: Path) -> Path:
    found = finder.find(networks, task, folder=folder, device="cpu")
    if exists(folder / MANIFEST):
        return folder
    result = folder / FOUND
    if not exists(result / MANIFEST):
        found.save(result)
    return result


def _trained(task: Task, length: Step, networks: Collection, folder: Path) -> Path:
    train(networks, task, length, folder=folder, device="cpu")
    return folder

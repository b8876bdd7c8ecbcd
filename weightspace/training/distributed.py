"""Collect on many workers: shards of a collection, run by an existing engine, merged at the end."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.runtime.executor import WANTED, Executor, as_worker
from weightspace.runtime.progress import progress
from weightspace.storage.runs import open_run
from weightspace.storage.shards import MANIFEST
from weightspace.storage.system_errors import exists
from weightspace.tasks.task import Task
from weightspace.training.collect import collect_part, describe
from weightspace.training.engine import Execution, block_size, choose_execution, kept_execution
from weightspace.training.in_shards import put_together
from weightspace.training.plans import CollectionPlan, Independent


class OnRay:
    """An executor on a Ray cluster (the extra `ray`); a shard whose worker dies is started again.

    Args:
        address: Address of a running cluster; None starts one on this machine.
        retries: Number of times that a shard may lose its worker.
    """

    def __init__(self, address: str | None = None, *, retries: int = 5) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError("running on Ray needs the extra: pip install 'weightspace[ray]'") from error
        self._ray = ray
        self.retries = retries
        if not ray.is_initialized():
            ray.init(address=address, include_dashboard=False, log_to_driver=False)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item on the cluster's workers; the function is sent to each machine once."""
        remote = self._ray.remote(max_retries=self.retries)(_call)
        sent = self._ray.put(function)
        waiting = [remote.remote(sent, item) for item in items]
        return (self._ray.get(result) for result in waiting)


def collect_on(
    executor: Executor,
    task: Task,
    n: int,
    *,
    shards: int,
    folder: str | Path,
    seed: int = 0,
    plan: CollectionPlan = Independent(),
) -> Collection:
    """As `collect`, in shards on an executor's workers, one thread each.

    All workers must see the folder. Each shard is a resumable run in `folder/parts`; they are merged
    when all are there. A network is the same whichever worker trains it, but for rounding.

    Args:
        executor: Executor with a `map`: `weightspace.processes(2)`, whose workers end with this process, `OnRay()`, or
            one of concurrent.futures.
        task: Task that is sent to the workers, so its network and loss must be picklable by the executor.
        n: Number of training runs (for each cell of a grid).
        shards: Number of parts; a few for each worker, so that all end at about the same time.
        folder: Folder to write.
        seed: Seed of the collection.
        plan: What the networks share: Independent, SharedStart, Trajectory or Grid.
    """
    checks.having(executor, "executor", ("map",), WANTED)
    if n < 1 or not 1 <= shards <= len(plan.runs(n, seed)):
        raise InputError(f"ask for at least one network and for 1 to n shards, got n = {n}, shards = {shards}")
    folder = Path(checks.path(folder, "folder")).absolute()  # workers may be in other folders
    task = replace(task, ood=None)  # not needed for training, and often not picklable
    config = describe(task, n, seed, plan) | {"shards": shards}
    with open_run(folder, "collect", config) as run:
        if not exists(folder / MANIFEST):
            chosen = _same_for_all(executor, task, -(-len(plan.runs(n, seed)) // shards), plan, folder)
            work = partial(_shard, task, n, seed, plan, shards, folder / "parts", chosen)
            made = executor.map(work, range(shards))
            with progress(made, f"training in {shards} shards", total=shards) as bar:
                put_together(bar, folder, task.architecture.factory)
        networks = Collection.load(folder, factory=task.architecture.factory)
        if not run.complete:
            run.finish(networks=len(networks))
    return networks


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    """Ray runs plain functions of a module only."""
    return function(item)


def _same_for_all(executor: Executor, task: Task, part: int, plan: CollectionPlan, folder: Path) -> Execution:
    """How every part is trained: as those that have begun, else as is measured once, before any of them begins."""
    for begun in sorted((folder / "parts").glob("*/")):
        kept = kept_execution(begun)
        if kept is not None:
            return kept
    (chosen,) = executor.map(partial(_choice, task, plan), [part])
    return chosen


def _choice(task: Task, plan: CollectionPlan, part: int) -> Execution:
    """Measure in a worker, which has one thread as all of them."""
    as_worker()
    task.try_out()
    return choose_execution(task, min(part, block_size(task, copies=len(plan.kept_steps(task)))))


def _shard(
    task: Task, n: int, seed: int, plan: CollectionPlan, shards: int, folder: Path, chosen: Execution, i: int
) -> Path:
    as_worker()
    part = folder / f"{i:05d}"
    collect_part(task, n, seed, plan, part, (i, shards), None, "cpu", chosen)
    return part

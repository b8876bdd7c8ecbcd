"""Collect: train many networks on a task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from weightspace.errors import InputError
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.record import Record
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.room import check_number
from weightspace.storage.spelling import spelling_of
from weightspace.tasks.arguments import check_run, check_task
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task
from weightspace.training.conversion import finished, trainer_for
from weightspace.training.engine import Execution, block_size, choose_execution
from weightspace.training.plans import CollectionPlan, Grid, Independent


def collect(
    task: Task,
    n: int,
    *,
    seed: int = 0,
    plan: CollectionPlan = Independent(),
    folder: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    memory_gb: float | None = None,
    device: str = "auto",
) -> Collection:
    """Train many networks side by side, each in its own data order.

    Args:
        task: Task that the networks are trained on.
        n: Number of training runs (for each cell of a grid).
        seed: Seed of the collection; run i depends on (seed, i) alone.
        plan: What the networks share: Independent, SharedStart, Trajectory or Grid.
        folder: Folder to write as a resumable run; None keeps the collection in memory.
        shard: Pair (i, k) that trains only the i-th of k equal parts, i from 0, for another machine to do the
            others; `merge` puts the parts together.
        memory_gb: Memory budget in GiB; by default a quarter of the machine's.
        device: Device to train on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Returns:
        Dense networks; each record has kind, seed, recipe, parents and metrics.

    Raises:
        InputError: `n` is below 1, the seed or shard is impossible, or training diverged.
        StorageError: The folder holds another run, or cannot be written.
    """
    check_task(task)
    n = check_number(n, "n", task.architecture.layout().size, in_folder=folder is not None)
    seed, device = checks.seed(seed), devices.pick(device)
    checks.having(plan, "plan", ("runs", "begin", "kept_steps"), "a plan, such as Independent() or Grid(lr=[0.1])")
    checks.given(folder, "folder", checks.path)
    memory_gb = checks.given(memory_gb, "memory_gb", checks.number, above=0)
    checks.given(shard, "shard", checks.several, check=checks.count, least=2, most=2)
    return collect_part(task, n, seed, plan, folder, shard, memory_gb, device)


def collect_part(
    task: Task,
    n: int,
    seed: int,
    plan: CollectionPlan,
    folder: str | Path | None,
    shard: tuple[int, int] | None,
    memory_gb: float | None,
    device: str,
    chosen: Execution | None = None,
) -> Collection:
    """As `collect`.

    Args:
        chosen: How all parts of a collection are trained; None measures it for this one.
    """
    task.try_out()
    _require_settable(task, plan)
    runs = plan.runs(n, seed)
    kept = plan.kept_steps(task)
    if shard is not None:
        part, parts = shard
        if not 0 <= part < parts <= len(runs):
            raise InputError(f"shard {part} of {parts} does not exist: i must lie in 0 .. k-1, k in 1 .. {len(runs)}")
        runs = runs[part * len(runs) // parts : (part + 1) * len(runs) // parts]
    common = {"task": task.name, "recipe": task.recipe.to_json()}
    runs = [run | common for run in runs]
    block = min(len(runs), block_size(task, memory_gb, device=device, copies=len(kept)))
    where = Path(folder) if folder else None

    def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
        records = runs[rows.start // len(kept) : rows.stop // len(kept)]
        execution = choose_execution(task, block, memory_gb=memory_gb, device=device, folder=where, chosen=chosen)
        trainer = plan.begin(task, records, execution, device)
        if len(kept) == 1:
            trainer.continue_from(checkpoint, tick)
        snapshots: list[Collection] = []
        for step in kept:
            trainer.run(step, tick)
            at = records if len(kept) == 1 else [record | {"step": step} for record in records]
            networks = finished(trainer, task, at)
            # On the CPU they share the trainer's memory, in which training goes on.
            snapshots.append(networks if step == kept[-1] else _copied(networks))
        if len(kept) == 1:
            return snapshots[0]
        together = Collection.concatenate(snapshots)  # step by step; the collection goes run by run
        return together[[s * len(records) + r for r in range(len(records)) for s in range(len(kept))]]

    config = describe(task, n, seed, plan) | ({"shard": list(shard)} if shard is not None else {})
    return in_blocks(
        make,
        architecture=task.architecture,
        count=len(runs) * len(kept),
        block=block * len(kept),
        ticks=kept[-1],
        what=f"training {len(runs)} networks",
        folder=folder,
        stage="collect",
        config=config,
    )


def _copied(networks: Collection) -> Collection:
    buffers = {name: buffer.clone() for name, buffer in networks.buffers.items()}
    return networks.replace(weights=networks.weights.clone(), buffers=buffers)


def _require_settable(task: Task, plan: CollectionPlan) -> None:
    """A loop of the user's own has no settings that a grid could change."""
    if isinstance(task, LoopTask) and isinstance(plan, Grid):
        raise InputError(
            f"a grid sets learning rates and labels, which the loop of task {task.name!r} does not take: collect one "
            "task for each budget"
        )


def train(
    networks: Collection, task: Task, length: Step | str, *, folder: str | Path | None = None, device: str = "auto"
) -> Collection:
    """Train any collection on, each network under its own mask.

    Args:
        networks: Networks of the task's architecture, dense or sparse.
        task: Task that they are trained on.
        length: How much longer they are trained, such as "5ep", with the task's recipe otherwise; each network goes
            through the data in a new order.
        folder: Folder to write as a resumable run; None keeps the collection in memory.
        device: Device to train on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        LayoutMismatch: The networks are not of the task's architecture.
        InputError: A record has no seed.
    """
    check_run(networks, task, folder, device)
    networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
    recipe = replace(task.recipe, length=Step.of(length, "length"))
    longer = replace(task, recipe=recipe)
    total = recipe.length.total(recipe.per_epoch(len(task.train)))
    device = devices.pick(device)
    block = min(len(networks), block_size(longer, device=device))

    where = Path(folder) if folder else None

    def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
        return trained_on(networks[rows], longer, rows.start, block, checkpoint, tick, where, device)

    return in_blocks(
        make,
        architecture=networks.architecture,
        count=len(networks),
        block=block,
        ticks=total,
        what=f"training {len(networks)} networks on",
        folder=folder,
        stage="train",
        config={"task": task.to_json(), "recipe": recipe.to_json()},
        inputs={"networks": networks.fingerprint()} if folder else None,
    )


def trained_on(
    start: Collection,
    longer: Task,
    first: int,
    block: int,
    checkpoint: Path | None,
    tick: Callable[[int], object],
    folder: Path | None,
    device: str,
) -> Collection:
    """A block of networks after some more training, each under its own mask; see `train`.

    Args:
        start: The networks.
        longer: The task, with the length of the training in its recipe.
        first: Position of the first of them, for records that do not have it.
        block: Networks in a whole block.
        checkpoint: File to continue from and to save to; None is none.
        tick: Called with the steps done.
        folder: Folder of the run, if there is one.
        device: Device to train on.
    """
    recipe = longer.recipe
    records = [_continued(record, first + i, recipe) for i, record in enumerate(start.records)]
    execution = choose_execution(longer, block, device=device, folder=folder)
    trainer = trainer_for(start.replace(records=records), longer, execution=execution, device=device)
    trainer.continue_from(checkpoint, tick)
    trainer.run(recipe.length.total(recipe.per_epoch(len(longer.train))), tick)
    return finished(trainer, longer, records)


def _continued(record: Record, position: int, recipe: Recipe) -> Record:
    """A record for training on: a new data order, the same wrong labels as before."""
    if "seed" not in record:
        return record
    own = record.individual
    if "label_noise" in own:
        own = {"label_seed": record.seed, **own}
    changes = {
        "kind": "continued",
        "parent": position if record.index is None else record.index,
        "recipe": recipe.to_json(),
    }
    return (
        record | changes | {"seed": seeds.derive(record.seed, "continued")} | ({"individual": dict(own)} if own else {})
    )


def describe(task: Task, n: int, seed: int, plan: CollectionPlan) -> dict[str, object]:
    """What decides a collection, for its run folder; the default plan is left out."""
    config: dict[str, object] = {"task": task.to_json(), "recipe": task.recipe.to_json(), "n": n, "seed": seed}
    if plan != Independent():
        spelling = spelling_of(plan)
        settings = {spelling.fields.get(k, k): str(v) if isinstance(v, Step) else v for k, v in vars(plan).items()}
        config["kind"] = {"name": spelling.name, **settings}
    return config

"""Collect: train many networks on a task."""

from collections.abc import Callable
from pathlib import Path

import torch

from weightspace import seeds
from weightspace.architecture import Architecture
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.functional import predict
from weightspace.layout import Layout
from weightspace.storage import Record
from weightspace.task import Task
from weightspace.training.blocks import in_blocks
from weightspace.training.trainer import Trainer

# Large enough to fill two cores, small enough that weights and optimiser state stay in the cache.
BLOCK = 60


def collect(task: Task, n: int, *, seed: int = 0, folder: str | Path | None = None, device: str = "cpu") -> Collection:
    """Train n networks side by side, each from its own initialisation and in its own data order.

    Args:
        n: number of networks.
        seed: of the collection; network i depends on (seed, i) alone.
        folder: write to this folder as a resumable run; None keeps the collection in memory.

    Returns:
        Dense networks; each record has the network's seed, recipe and metrics.

    Raises:
        InputError: n < 1 or a bad seed.
        StorageError: the folder holds another run, or cannot be written.
    """
    if n < 1:
        raise InputError(f"a collection needs at least one network, got n = {n}")
    network_seeds = [seeds.derive(seed, "network", i) for i in range(n)]
    length = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))

    def make(rows: slice, tick: Callable[[], object]) -> Collection:
        start = initial(task.architecture, network_seeds[rows])
        trainer = trainer_for(start, task, device=device)
        trainer.run(length, tick)
        records: list[Record] = [
            {
                "kind": "independent", "task": task.name, "index": rows.start + i, "seed": network_seed,
                "collection_seed": seed, "recipe": task.recipe.to_json(),
            }
            for i, network_seed in enumerate(network_seeds[rows])
        ]  # fmt: skip
        return finished(trainer, start, task, records)

    return in_blocks(
        make, architecture=task.architecture, count=n, block=BLOCK, ticks=length,
        what=f"training {n} networks", folder=folder, stage="collect",
        config={"task": task.to_json(), "recipe": task.recipe.to_json(), "n": n, "seed": seed},
    )  # fmt: skip


def initial(architecture: Architecture, network_seeds: list[int]) -> Collection:
    """Untrained networks, one for each seed; the same seed gives the same weights."""
    modules = [architecture.build_seeded(seed) for seed in network_seeds]
    layout = Layout.of(modules[0])
    states = [module.state_dict() for module in modules]
    return Collection(
        layout,
        torch.stack([layout.pack(state) for state in states]),
        architecture=architecture,
        buffers={b.name: torch.stack([state[b.name] for state in states]) for b in layout.buffers},
        records=[{"kind": "initial", "seed": seed} for seed in network_seeds],
    )


def trainer_for(networks: Collection, task: Task, *, device: str = "cpu") -> Trainer:
    """A trainer at step 0 that starts from these networks, under their masks and with their seeds."""
    missing = [i for i, record in enumerate(networks.records) if "seed" not in record]
    if missing:
        raise InputError(
            f"network {missing[0]} has no seed in its record, so its data order is not defined: "
            'give records a "seed", for example collection.replace(records=[{**r, "seed": i} ...])'
        )
    return Trainer(
        task.architecture, task.train, task.loss, task.recipe,
        weights=networks.weights, masks=None if networks.dense else networks.masks,
        buffers=networks.buffers, network_seeds=[record["seed"] for record in networks.records], device=device,
    )  # fmt: skip


def finished(trainer: Trainer, start: Collection, task: Task, records: list[Record]) -> Collection:
    """The trainer's networks as a collection, with training loss and validation accuracy in the records."""
    predictions = predict(
        trainer.module, trainer.layout, trainer.weights, trainer.buffers, task.validation.x.to(trainer.weights.device)
    ).argmax(-1)
    accuracy = (predictions == task.validation.y.to(predictions.device)).double().mean(1)
    measured = zip(trainer.losses.tolist(), accuracy.tolist(), strict=True)
    return start.replace(
        weights=trainer.weights.cpu(),
        masks=None if trainer.masks is None else trainer.masks.cpu(),
        buffers={name: buffer.cpu() for name, buffer in trainer.buffers.items()},
        records=[
            record | {"metrics": {"train_loss": loss, "validation_accuracy": accuracy}}
            for record, (loss, accuracy) in zip(records, measured, strict=True)
        ],
    )

"""What finders that start from the initialisation share: blocks, engines, records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from weightspace import devices
from weightspace.collection import Collection
from weightspace.task import Task
from weightspace.tickets.common import achieved, ticket_records
from weightspace.training.blocks import block_size, in_blocks
from weightspace.training.probe import Engine, engine
from weightspace.training.start import finished, initial, trainer_for
from weightspace.training.trainer import Trainer


@dataclass(frozen=True)
class Block:
    """Networks that are searched together.

    Args:
        rows: which of the networks that were given.
        start: untrained, with their records.
        tick: to be called with the steps done.
        checkpoint: file to keep progress in, if the run has a folder.
    """

    rows: slice
    start: Collection
    task: Task
    engine: Engine
    device: str
    tick: Callable[[int], object]
    checkpoint: Path | None

    def trainer(self, networks: Collection) -> Trainer:
        return trainer_for(networks, self.task, engine=self.engine, device=self.device)


def search(
    networks: Collection, task: Task, find: Callable[[Block], tuple[Trainer, Tensor]], *, method: Mapping[str, Any],
    what: str, ticks: int, folder: str | Path | None, device: str,
) -> Collection:  # fmt: skip
    """Tickets of networks whose seeds alone matter, block by block.

    Args:
        find: gives trained tickets, and the dense weights that they were chosen from.
        method: describes the finder, for records and for the run's identity; the density in records is the achieved one.
        ticks: steps that a block takes.

    Raises:
        LayoutMismatch: the networks are not of the task's architecture.
    """
    networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
    device = devices.pick(device)
    block = min(len(networks), block_size(task, device=device))

    def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
        start = initial(task.architecture, networks[rows].records)
        how = engine(task, block, device=device, folder=Path(folder) if folder else None)
        trainer, rewind = find(Block(rows, start, task, how, device, tick, checkpoint))
        first = {"density": 1.0} if trainer.masks is None else {"density": achieved(trainer.masks, trainer.layout)}
        records = ticket_records(start.records, rows.start, dict(method) | first, task)
        for record, mask in zip(records, trainer.masks if trainer.masks is not None else (), strict=False):
            own = achieved(mask[None], trainer.layout)
            record |= {"density": own, "method": record["method"] | {"density": own}}
        return finished(trainer, task, records).replace(extras={"rewind": rewind.cpu()})

    return in_blocks(
        make, architecture=networks.architecture, count=len(networks), block=block, ticks=ticks, what=what, folder=folder,
        stage="tickets", config={"method": dict(method), "task": task.to_json(), "recipe": task.recipe.to_json()},
        inputs={"networks": networks.fingerprint()} if folder else None,
    )  # fmt: skip

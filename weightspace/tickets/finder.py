"""What finders that start from the initialisation share: blocks, engines, records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern
from weightspace.masks.schedule import count_of
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra, Record
from weightspace.runtime import devices
from weightspace.tasks.task import Task
from weightspace.training.conversion import finished, initial, trainer_for
from weightspace.training.engine import Execution, block_size, choose_execution
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
    execution: Execution
    device: str
    tick: Callable[[int], object]
    checkpoint: Path | None

    def trainer(self, networks: Collection) -> Trainer:
        return trainer_for(networks, self.task, execution=self.execution, device=self.device)


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
        execution = choose_execution(task, block, device=device, folder=Path(folder) if folder else None)
        trainer, rewind = find(Block(rows, start, task, execution, device, tick, checkpoint))
        first = {"density": 1.0} if trainer.masks is None else {"density": achieved(trainer.masks, trainer.layout)}
        records = ticket_records(start.records, rows.start, dict(method) | first, task)
        if trainer.masks is not None:
            densities = [achieved(mask[None], trainer.layout) for mask in trainer.masks]
            records = [
                record | {"density": density, "method": record["method"] | {"density": density}}
                for record, density in zip(records, densities, strict=True)
            ]
        return finished(trainer, task, records).replace(extras={Extra.REWIND: rewind.cpu()})

    return in_blocks(
        make, architecture=networks.architecture, count=len(networks), block=block, ticks=ticks, what=what, folder=folder,
        stage="tickets", config={"method": dict(method), "task": task.to_json(), "recipe": task.recipe.to_json()},
        inputs={"networks": networks.fingerprint()} if folder else None,
    )  # fmt: skip


def check_dense_enough(networks: Collection, pattern: Pattern) -> None:
    """Raise InputError if a network has fewer weights than a pattern keeps."""
    count = count_of(pattern, networks.layout)
    sparsest = int(networks.masks[:, networks.layout.prunable].sum(1).min())
    if count is not None and sparsest < count:
        raise InputError(
            f"a network keeps {sparsest} weights already, a ticket of density {count / networks.layout.num_prunable:.4g} "
            f"would keep {count}: ask for a lower density"
        )


def achieved(masks: Bool[Tensor, "n d"], layout: Layout) -> float:
    """The fraction of the prunable weights that the first network keeps; others of the same pattern keep as many."""
    return int(masks[0, layout.prunable.to(masks.device)].sum()) / layout.num_prunable


def ticket_records(
    parents: Sequence[Record], first: int, method: Mapping[str, Any], task: Task | None = None
) -> list[Record]:
    """Records of tickets: those of the networks they were found in, with the method and the parent.

    Args:
        first: position of the first parent, for parents without an index of their own.
        task: that the tickets were trained on, if it is not the parents' own.
    """
    found: dict[str, Any] = {"kind": "ticket", "method": dict(method), "density": method["density"]}
    if task is not None:
        found |= {"task": task.name, "recipe": task.recipe.to_json()}
    return [record | found | {"parent": record.get("index", first + i)} for i, record in enumerate(parents)]


def rewind_of(tickets: Collection) -> Float[Tensor, "n d"]:
    """The dense weights that tickets are trained from.

    Raises:
        InputError: the networks do not have them.
    """
    if Extra.REWIND not in tickets.extras:
        raise InputError(
            'these networks have no extras["rewind"], the weights to train from: use what a finder returned, or '
            'add them with collection.replace(extras={"rewind": weights})'
        )
    return tickets.extras[Extra.REWIND]


def start_from(networks: Collection, weights: Float[Tensor, "n d"], masks: Bool[Tensor, "n d"]) -> Collection:
    """Networks to be trained from these weights under these masks; statistics are as before training."""
    state = networks.architecture.build_seeded(0).state_dict()
    return networks.replace(
        weights=weights * masks, masks=masks, extras={Extra.REWIND: weights},
        buffers={b.name: state[b.name].expand(len(networks), *b.shape).clone() for b in networks.layout.buffers},
    )  # fmt: skip


def collected(record: Record) -> bool:
    """Was this network trained from the initialisation of its seed, as `collect` does?"""
    return record.kind in ("independent", "grid") and record.aligned_to is None

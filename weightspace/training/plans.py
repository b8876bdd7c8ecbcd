"""Plans of collections: what the networks share and where they differ.

Each plan says which training runs there are (a record each), how a block of runs starts, and at which
steps their networks are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol, runtime_checkable

from weightspace.errors import InputError
from weightspace.networks.record import Record
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks, seeds
from weightspace.tasks.task import Task
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import Execution
from weightspace.training.trainer import Trainer


@runtime_checkable
class CollectionPlan(Protocol):
    """What a collection is made of: a frozen dataclass of settings."""

    def runs(self, n: int, seed: int) -> list[Record]:
        """A record for each training run."""
        ...

    def begin(self, task: Task, records: Sequence[Record], execution: Execution, device: str) -> Trainer:
        """A trainer for a block of runs, where their own training starts."""
        ...

    def kept_steps(self, task: Task) -> list[int]:
        """Steps at which every run's network becomes part of the collection, rising."""
        ...


@dataclass(frozen=True)
class Independent:
    """n networks, each with its own initialisation and data order."""

    def runs(self, n: int, seed: int) -> list[Record]:
        return [
            Record(
                {"kind": "independent", "index": i, "seed": seeds.derive(seed, "network", i), "collection_seed": seed}
            )
            for i in range(n)
        ]

    def begin(self, task: Task, records: Sequence[Record], execution: Execution, device: str) -> Trainer:
        return trainer_for(initial(task.architecture, records), task, execution=execution, device=device)

    def kept_steps(self, task: Task) -> list[int]:
        return [_length(task)]


@dataclass(frozen=True)
class Grid:
    """n networks for every combination of hyper-parameters, all with different seeds.

    Args:
        lr: Learning rates; empty for the recipe's.
        weight_decay: Weight decays; empty for the recipe's.
        label_noise: Fractions of training labels drawn anew; empty for none.
    """

    lr: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()
    label_noise: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checks.settle(self, checks.several, "lr", check=checks.number, above=0)
        checks.settle(self, checks.several, "weight_decay", check=checks.number, at_least=0)
        checks.settle(self, checks.several, "label_noise", check=checks.number, at_least=0, at_most=1)
        if not (self.lr or self.weight_decay or self.label_noise):
            raise InputError("a grid needs values for lr, weight_decay or label_noise")

    def cells(self) -> list[dict[str, float]]:
        """The combinations."""
        axes = {"lr": self.lr, "weight_decay": self.weight_decay, "label_noise": self.label_noise}
        used = {name: values for name, values in axes.items() if values}
        return [dict(zip(used, values, strict=True)) for values in product(*used.values())]

    def runs(self, n: int, seed: int) -> list[Record]:
        cells = [cell for cell in self.cells() for _ in range(n)]
        runs = Independent().runs(len(cells), seed)
        return [run | {"kind": "grid", "individual": cell} for run, cell in zip(runs, cells, strict=True)]

    def begin(self, task: Task, records: Sequence[Record], execution: Execution, device: str) -> Trainer:
        return Independent().begin(task, records, execution, device)

    def kept_steps(self, task: Task) -> list[int]:
        return [_length(task)]


@dataclass(frozen=True)
class SharedStart:
    """n networks from one start W_k, each trained on in its own data order.

    With k large enough they lie in one linearly connected basin (Frankle et al. 2020, arXiv 1912.05671).

    Args:
        at: Step k until which the common ancestor is trained.
    """

    at: Duration = duration("1ep")

    def __post_init__(self) -> None:
        checks.settle(self, Step.of, "at")

    def runs(self, n: int, seed: int) -> list[Record]:
        ancestor = {"seed": seeds.derive(seed, "ancestor"), "at": str(self.at)}
        return [run | {"kind": "shared start", "parent": ancestor} for run in Independent().runs(n, seed)]

    def begin(self, task: Task, records: Sequence[Record], execution: Execution, device: str) -> Trainer:
        ancestor = initial(task.architecture, [{"seed": records[0]["parent"]["seed"]}])
        first = trainer_for(ancestor, task, execution=replace(execution, group_size=1), device=device)
        first.run(self.at.total(first.per_epoch))
        copies = initial(task.architecture, records).replace(
            weights=first.weights.cpu().repeat(len(records), 1),
            buffers={k: b.cpu().repeat(len(records), *[1] * (b.ndim - 1)) for k, b in first.buffers.items()},
        )
        trainer = trainer_for(copies, task, execution=execution, device=device)
        state = {name: tensor.repeat(len(records), 1) for name, tensor in first.state.items()}
        trainer.replace_state(optimizer=state, step=first.step)
        return trainer

    def kept_steps(self, task: Task) -> list[int]:
        at = self.at.total(task.recipe.per_epoch(len(task.train)))
        if at:
            task.require_shared_data(f"a shared start at {self.at} (0it is an untrained one)")
        if at >= _length(task):
            raise InputError(f"the shared start {self.at} must come before the end of training, {task.recipe.length}")
        return [_length(task)]


@dataclass(frozen=True)
class Trajectory:
    """n training runs, each giving a network at regular steps, the last one included.

    Args:
        every: Distance between two checkpoints.
    """

    every: Duration = duration("1ep")

    def __post_init__(self) -> None:
        checks.settle(self, Step.of, "every")

    def runs(self, n: int, seed: int) -> list[Record]:
        return [run | {"kind": "trajectory"} for run in Independent().runs(n, seed)]

    def begin(self, task: Task, records: Sequence[Record], execution: Execution, device: str) -> Trainer:
        return Independent().begin(task, records, execution, device)

    def kept_steps(self, task: Task) -> list[int]:
        every = self.every.total(task.recipe.per_epoch(len(task.train)))
        if every < 1:
            raise InputError(f"checkpoints must lie at least one iteration apart, got {self.every}")
        last = _length(task)
        return sorted({*range(every, last + 1, every), last})


def _length(task: Task) -> int:
    return task.recipe.length.total(task.recipe.per_epoch(len(task.train)))

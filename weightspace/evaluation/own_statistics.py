"""Which BatchNorm statistics networks are measured with: estimated anew in every row, or their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from weightspace.evaluation.groups import Inputs
from weightspace.evaluation.parts import Parts
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.recipes.recipe import Augmentation
from weightspace.tasks.data import Data, Split
from weightspace.tasks.task import Task
from weightspace.training.augment import as_in_training
from weightspace.training.batchnorm import BATCH, BATCHES, has_statistics, recalibrated
from weightspace.training.measured import measured, standing

Statistics = Literal["anew", "own", "choose"]
RETRIEVAL = "retrieval"  # the baseline that is training networks as they are
_COMPARED, _BLOCK = 32, 8  # networks of a row that choose, and in memory at once


@dataclass(frozen=True)
class Chosen:
    """What validation data chose, which an evaluation that goes on takes from its folder.

    Args:
        own: Names of the rows that keep their statistics.
        augmented: Whether the pass of all other rows reads inputs changed as in training.
    """

    own: Sequence[str]
    augmented: bool


@dataclass(frozen=True)
class RowStatistics:
    """Which rows of a report keep the BatchNorm statistics of their networks, and what the others' are estimated on.

    Args:
        setting: The setting of `evaluate`; "anew" where no network has such statistics.
        own: Names of the rows that keep theirs.
        training: Name of the training networks' row.
        data: What the pass of all other rows reads; None is the task's training inputs as they are.
    """

    setting: Statistics = "anew"
    own: Sequence[str] = ()
    training: str | None = None
    data: Data | None = None

    @classmethod
    def of(
        cls, inputs: Inputs, task: Task, statistics: Statistics, *, seed: int, device: str, parts: Parts = Parts()
    ) -> "RowStatistics":
        """What a setting of `evaluate` means for its networks.

        Mixtures of networks have no statistics of their own. Wherever others may keep theirs, the pass reads inputs as
        they are or changed as in training, whichever is better for the training networks on validation data: networks'
        own come from inputs that nothing else tells.

        Args:
            inputs: The collections that the evaluation is about.
            task: The task; validation data are read where they choose.
            statistics: The setting.
            seed: Seed of the changes.
            device: Device to compute on.
            parts: Keeps what was chosen.
        """
        if statistics == "anew" or not has_statistics(inputs.training):
            return cls()

        def choose() -> Chosen:
            return _chosen(inputs, task, statistics, seed, device)

        chosen = parts.kept("statistics", statistics, Chosen, choose)
        assert chosen is not None
        data = _changed(task, seed) if chosen.augmented else None
        return cls(statistics, chosen.own, inputs.training_name, data)


def _chosen(inputs: Inputs, task: Task, statistics: Statistics, seed: int, device: str) -> Chosen:
    augmented = False
    if task.recipe.augmentation != Augmentation():
        ways = [_standing(inputs.training, task, one, device) for one in (task.train, _changed(task, seed))]
        augmented = ways[1] > ways[0]
    read = _changed(task, seed) if augmented else task.train
    own = [
        name
        for name, one in inputs.all.items()
        if statistics == "own" or _standing(one, task, None, device) >= _standing(one, task, read, device)
    ]
    return Chosen([*own, *([RETRIEVAL] if inputs.training_name in own else [])], augmented)


def _changed(task: Task, seed: int) -> Split:
    """The training inputs that the pass reads, changed as in training."""
    return as_in_training(task.train.head(min(len(task.train), BATCH * BATCHES)), task.recipe.augmentation, seed)


def _standing(networks: Collection, task: Task, data: Data | None, device: str) -> tuple[float, ...]:
    """How good networks are on validation data with statistics of some data; None keeps their own."""
    found: list[tuple[bool, float, float]] = []
    for rows in blocks(min(_COMPARED, len(networks)), _BLOCK):
        part = networks[rows] if data is None else recalibrated(networks[rows], data, device=device)
        found += standing(measured(part, task, device=device), task)
    return tuple(torch.tensor(found, dtype=torch.float64).mean(0).tolist())

"""Which BatchNorm statistics networks are measured with: estimated anew in every row, or their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from weightspace.evaluation.groups import Inputs
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.recipes.recipe import Augmentation
from weightspace.tasks.data import Data
from weightspace.tasks.task import Task
from weightspace.training.augment import as_in_training
from weightspace.training.batchnorm import BATCH, BATCHES, has_statistics, recalibrated
from weightspace.training.measured import measured, standing

Statistics = Literal["anew", "own", "choose"]
RETRIEVAL = "retrieval"  # the baseline that is training networks as they are
_COMPARED, _BLOCK = 32, 8  # networks of a row that choose, and in memory at once


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
    def of(cls, inputs: Inputs, task: Task, statistics: Statistics, *, seed: int, device: str) -> "RowStatistics":
        """What a setting of `evaluate` means for its networks.

        Mixtures of networks have no statistics of their own. Wherever others may keep theirs, they are estimated on
        inputs that are changed as in training: networks' own come from such inputs.

        Args:
            inputs: The collections that the evaluation is about.
            task: The task; validation data are read where they choose.
            statistics: The setting.
            seed: Seed of these changes.
            device: Device to compute on.
        """
        if statistics == "anew" or not has_statistics(inputs.training):
            return cls()
        data, augmentation = task.train, task.recipe.augmentation
        if augmentation != Augmentation():
            data = as_in_training(task.train.head(min(len(task.train), BATCH * BATCHES)), augmentation, seed)
        given = inputs.main | dict(inputs.others)
        own = [name for name, one in given.items() if statistics == "own" or _own_are_best(one, task, data, device)]
        own += [RETRIEVAL] if inputs.training_name in own else []
        return cls(statistics, own, inputs.training_name, data)


def _own_are_best(networks: Collection, task: Task, data: Data, device: str) -> bool:
    """Whether networks are better on validation data with their own statistics than with such of the data."""
    figures: list[list[tuple[bool, float, float]]] = [[], []]
    for rows in blocks(min(_COMPARED, len(networks)), _BLOCK):
        part = networks[rows]
        for way, one in zip(figures, (recalibrated(part, data, device=device), part), strict=True):
            way += standing(measured(one, task, device=device), task)
    anew, own = (tuple(torch.tensor(way, dtype=torch.float64).mean(0).tolist()) for way in figures)
    return own >= anew

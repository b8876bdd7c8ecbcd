"""Task: real data in fixed splits, a network, a loss and a recipe."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weightspace import seeds
from weightspace.architecture import Architecture
from weightspace.errors import InputError
from weightspace.recipe import Recipe


@dataclass(frozen=True)
class Split:
    """Inputs (samples, ...) and targets (samples,)."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or not len(self.x):
            raise InputError(f"a split needs as many inputs as targets, got {len(self.x)} and {len(self.y)}")
        if self.x.is_floating_point() and not self.x.isfinite().all():
            raise InputError("the inputs hold NaN or infinite values: clean the data first")

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: str) -> "Split":
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Task:
    """A task: classification if the targets are integers, else regression.

    Only `train` is used to fit anything; `validation` chooses between settings; `test` is read by
    evaluation alone.

    Args:
        name: for records and reports.
        architecture: the network of this task.
        recipe: how one network is trained.
        loss: mean loss of outputs (batch, ...) against targets (batch, ...).
        ood: inputs from elsewhere, to tell whether networks notice; made when asked for.
    """

    name: str
    architecture: Architecture
    train: Split
    validation: Split
    test: Split
    recipe: Recipe
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    ood: Callable[[], Tensor] | None = None

    @property
    def classification(self) -> bool:
        """True if the targets are class numbers."""
        return not self.train.y.is_floating_point()

    def to_json(self) -> dict[str, Any]:
        """What a run's configuration says of its task; the data count by their checksum."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(part.x.contiguous().numpy().data)
            digest.update(part.y.contiguous().numpy().data)
        return {
            "name": self.name,
            "architecture": self.architecture.to_json(),
            "samples": [len(self.train), len(self.validation), len(self.test)],
            "sha256": digest.hexdigest()[:16],
        }


def split(x: Tensor, y: Tensor, *, validation: int, test: int, seed: int = 0) -> tuple[Split, Split, Split]:
    """Cut samples into fixed, disjoint training, validation and test splits."""
    if validation < 1 or test < 1 or validation + test >= len(x):
        raise InputError(
            f"cannot cut {validation} validation and {test} test samples from {len(x)} and leave some to train on"
        )
    order = torch.randperm(len(x), generator=seeds.generator(seed, "splits"))
    parts = order.split([len(x) - validation - test, validation, test])
    train, held, tested = (Split(x[part], y[part]) for part in parts)
    return train, held, tested

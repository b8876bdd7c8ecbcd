"""Task: real data in fixed splits, a network, a loss and a recipe."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import seeds


@dataclass(frozen=True)
class Split:
    """Inputs (samples, ...) and targets (samples,)."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if not (isinstance(self.x, Tensor) and isinstance(self.y, Tensor)):
            raise InputError("a split holds tensors: convert arrays with torch.as_tensor")
        if len(self.x) != len(self.y) or not len(self.x):
            raise InputError(f"a split needs as many inputs as targets, got {len(self.x)} and {len(self.y)}")
        if self.x.is_floating_point() and not self.x.isfinite().all():
            raise InputError("the inputs hold NaN or infinite values: clean the data first")
        if self.y.is_floating_point() and not self.y.isfinite().all():
            raise InputError("the targets hold NaN or infinite values: clean the data first")

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: str) -> "Split":
        """The split on a device."""
        return self if self.x.device == torch.device(device) else Split(self.x.to(device), self.y.to(device))


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) against class numbers (batch,).

    The same as torch.nn.functional.cross_entropy, whose kernel is slow for a few classes in many
    networks: it took a third of the time of a training step.
    """
    shifted = outputs - outputs.detach().amax(-1, keepdim=True)
    chosen = shifted.gather(-1, y[..., None]).squeeze(-1)
    return (shifted.exp().sum(-1).log() - chosen).mean()


@dataclass(frozen=True)
class Task:
    """A task: classification if the targets are integers, else regression.

    Only `train` is used to fit anything; `validation` chooses between settings; `test` is read by
    evaluation alone.

    Args:
        name: Name in records and reports.
        architecture: The network of this task.
        recipe: Recipe of one network's training.
        loss: Mean loss of outputs (batch, ...) against targets (batch, ...).
        ood: Function that returns out-of-distribution inputs; None where there are none.
    """

    name: str
    architecture: Architecture
    train: Split
    validation: Split
    test: Split
    recipe: Recipe
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    ood: Callable[[], Tensor] | None = None

    @property
    def classification(self) -> bool:
        """True if the targets are class numbers."""
        return not self.train.y.is_floating_point()

    @torch.no_grad()
    def try_out(self) -> float:
        """The loss of a fixed untrained network on a few training samples.

        Raises:
            InputError: The network does not fit the inputs, or the loss the targets.
        """
        module = self.architecture.build_seeded(0).eval()
        x, y = self.train.x[:8], self.train.y[:8]
        try:
            outputs = module(x)
            loss = self.loss(outputs, y).item()
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(
                f"{self.architecture.name} does not fit the data of task {self.name!r} (inputs {tuple(x.shape)}, "
                f"targets {tuple(y.shape)} of {y.dtype}): {error}"
            ) from error
        if self.loss is cross_entropy:
            for part in (self.train, self.validation, self.test):
                if not 0 <= int(part.y.min()) <= int(part.y.max()) < outputs.shape[-1]:
                    raise InputError(
                        f"{self.architecture.name} has {outputs.shape[-1]} outputs and does not fit the data of task "
                        f"{self.name!r}: its classes run from {int(part.y.min())} to {int(part.y.max())}"
                    )
        return loss

    def to_json(self) -> dict[str, Any]:
        """What a run's configuration says of its task.

        Data count by their checksum; the loss and networks from a user's factory, whose code cannot be
        compared, by what they compute.

        Raises:
            InputError: Network, data and loss do not fit together.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(part.x.contiguous().numpy().data)
            digest.update(part.y.contiguous().numpy().data)
        return {
            "name": self.name,
            "architecture": self.architecture.to_json(),
            "samples": [len(self.train), len(self.validation), len(self.test)],
            "network": hashlib.sha256(repr(self.architecture.build_seeded(0)).encode()).hexdigest()[:16],
            "untrained_loss": f"{self.try_out():.5g}",
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

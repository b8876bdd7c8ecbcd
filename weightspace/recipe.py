"""Recipe: how one network is trained, and Step: when something happens."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from weightspace.errors import InputError
from weightspace.optimizers import SGD, Adam

_STEP = re.compile(r"(?:(\d+)ep)?(?:(\d+)it)?")


@dataclass(frozen=True)
class Step:
    """A point in training, in epochs and iterations: "30ep", "500it" or "2ep500it"."""

    epochs: int = 0
    iterations: int = 0

    @classmethod
    def of(cls, text: "str | Step") -> "Step":
        """Read the notation "2ep500it"."""
        if isinstance(text, Step):
            return text
        match = _STEP.fullmatch(text)
        if not text or match is None:
            raise InputError(f"a step is written like '30ep', '500it' or '2ep500it', got {text!r}")
        return cls(int(match[1] or 0), int(match[2] or 0))

    def total(self, per_epoch: int) -> int:
        """Iterations from the start, for so many iterations in an epoch."""
        return self.epochs * per_epoch + self.iterations

    def __str__(self) -> str:
        parts = (f"{self.epochs}ep" if self.epochs else "") + (f"{self.iterations}it" if self.iterations else "")
        return parts or "0it"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but the data and the seed.

    Args:
        length: how long to train.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        optimizer: with its learning rate.
        schedule: "constant", or "cosine" decay of the learning rate to zero over the run.
    """

    length: Step = Step(epochs=30)
    batch_size: int = 64
    optimizer: Adam | SGD = field(default_factory=Adam)
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, got {self.batch_size}")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"the schedule must be 'constant' or 'cosine', got {self.schedule!r}")

    def per_epoch(self, samples: int) -> int:
        """Iterations in an epoch."""
        return math.ceil(samples / self.batch_size)

    def lr(self, step: int, total: int) -> float:
        """The learning rate of iteration `step` (from 0) of `total`."""
        if self.schedule == "constant":
            return self.optimizer.lr
        return self.optimizer.lr * 0.5 * (1 + math.cos(math.pi * step / total))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_json`."""
        settings = dict(data["optimizer"])
        kind = {"SGD": SGD, "Adam": Adam}[settings.pop("name")]
        if "betas" in settings:
            settings["betas"] = tuple(settings["betas"])
        return cls(Step.of(data["length"]), data["batch_size"], kind(**settings), data["schedule"])

    def to_json(self) -> dict[str, Any]:
        optimizer = {"name": type(self.optimizer).__name__, **asdict(self.optimizer)}
        return {
            "length": str(self.length), "batch_size": self.batch_size, "optimizer": optimizer,
            "schedule": self.schedule,
        }  # fmt: skip

"""Step: a point in training, or a duration."""

import re
from dataclasses import dataclass

from weightspace.errors import InputError
from weightspace.storage.typed import as_text

_STEP = re.compile(r"(?:(\d+)ep)?(?:(\d+)it)?")


@dataclass(frozen=True)
class Step:
    """A point in training, in epochs and iterations: "30ep", "500it" or "2ep500it"."""

    epochs: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.iterations < 0:
            raise InputError(f"a step cannot be negative, got {self.epochs} epochs and {self.iterations} iterations")

    @classmethod
    def of(cls, text: "str | Step") -> "Step":
        """Read the notation "2ep500it"."""
        if isinstance(text, Step):
            return text
        match = _STEP.fullmatch(text) if isinstance(text, str) else None
        if not text or match is None:
            raise InputError(f"a step is written like '30ep', '500it' or '2ep500it', got {text!r}")
        return cls(int(match[1] or 0), int(match[2] or 0))

    def total(self, per_epoch: int) -> int:
        """Iterations from the start, for so many iterations in an epoch."""
        return self.epochs * per_epoch + self.iterations

    def __str__(self) -> str:
        parts = (f"{self.epochs}ep" if self.epochs else "") + (f"{self.iterations}it" if self.iterations else "")
        return parts or "0it"


as_text(Step, Step.of)

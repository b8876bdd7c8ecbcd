"""Step: a point in training, or a duration."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightspace.runtime import checks
from weightspace.storage.typed import as_text

_STEP = re.compile("(?:([0-9]{1,15})ep)?(?:([0-9]{1,15})it)?")


@dataclass(frozen=True)
class Step:
    """A point in training, in epochs and iterations: "30ep", "500it" or "2ep500it"."""

    epochs: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "epochs", "iterations")

    @classmethod
    def of(cls, text: "str | Step", name: str = "a step") -> "Step":
        """Read the notation "2ep500it".

        Args:
            text: The step, or its notation.
            name: Name of the argument, for the error.

        Raises:
            InputError: It is neither.
        """
        if isinstance(text, Step):
            return text
        match = _STEP.fullmatch(text) if isinstance(text, str) else None
        if match is None or not text:
            raise checks.refuse(name, "written like '30ep', '500it' or '2ep500it'", text)
        return cls(int(match[1] or 0), int(match[2] or 0))

    def total(self, per_epoch: int) -> int:
        """Iterations from the start, for so many iterations in an epoch."""
        per_epoch = checks.count(per_epoch, "per_epoch", at_least=1)
        return self.epochs * per_epoch + self.iterations

    def __str__(self) -> str:
        parts = (f"{self.epochs}ep" if self.epochs else "") + (f"{self.iterations}it" if self.iterations else "")
        return parts or "0it"


as_text(Step, Step.of)

if TYPE_CHECKING:

    class Duration:
        """The type of a setting that is given as a Step or its notation, and read as a Step."""

        def __get__(self, settings: object, owner: Any = None, /) -> Step: ...
        def __set__(self, settings: object, value: Step | str, /) -> None: ...

    class OptionalDuration:
        """As `Duration`, where None is a setting too."""

        def __get__(self, settings: object, owner: Any = None, /) -> Step | None: ...
        def __set__(self, settings: object, value: Step | str | None, /) -> None: ...

else:
    Duration, OptionalDuration = Step, Step | None


def duration(text: str | None) -> Any:
    """The default of a setting that is a duration.

    Args:
        text: Its notation; None for none.
    """
    return None if text is None else Step.of(text)

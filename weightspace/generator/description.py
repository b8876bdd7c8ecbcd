"""Descriptions: conditions of several numbers, such as what a task is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime import checks

Value = float | str | Sequence[float] | np.ndarray | Tensor
"""What a condition can be: a number, a word, or a description, which is several numbers."""

_BEYOND = 0.1  # share of the tickets' range that a number may lie beyond it
_CONSTANT = 1e-9


@dataclass(frozen=True)
class Scale:
    """Where one number of a description lies in the tickets.

    Args:
        mean: Mean over the tickets.
        std: Standard deviation over the tickets; 1 where all have the same.
        low: Least number that a ticket has.
        high: Greatest number that a ticket has.
    """

    mean: float
    std: float
    low: float
    high: float

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "mean", "low", "high")
        checks.settle(self, checks.number, "std", above=0)

    def encode(self, value: float, what: str) -> float:
        """The number in standard deviations from the mean.

        Args:
            value: The number.
            what: What it is, for the error.

        Raises:
            InputError: It lies farther out than a tenth of the tickets' range.
        """
        slack = _BEYOND * (self.high - self.low) + 1e-6 * max(1.0, abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            lay = f"{self.low:g} in all tickets" if self.low == self.high else f"{self.low:g} to {self.high:g}"
            raise InputError(f"{what} was {lay}, the generator knows nothing about {value:g}")
        return (value - self.mean) / self.std


def plain_numbers(value: Any, what: str) -> Any:
    """A description as a list of floats; anything else as it is.

    Args:
        value: A list, a tuple, or an array or tensor of one axis is a description.
        what: Its name, for the error.

    Raises:
        InputError: It is empty, has several axes, or an entry is no finite number.
    """
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim > 1:
            raise InputError(f"{what} must be numbers in one row, got an array of shape {tuple(value.shape)}")
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    if not value:
        raise InputError(f"{what} is empty: give its numbers")
    plain = [float(one) if isinstance(one, bool) else one for one in value]  # a sign may be written as yes and no
    return [float(checks.number(one, f"number {i} of {what}")) for i, one in enumerate(plain)]


def scales_of(rows: Sequence[Sequence[float] | None], name: str) -> tuple[Scale, ...]:
    """The scale of each number of a description.

    Args:
        rows: Descriptions of the tickets; None where there is none.
        name: Name of the condition.

    Raises:
        InputError: Descriptions differ in length, or are all the same.
    """
    known = [(i, row) for i, row in enumerate(rows) if row is not None]
    first, length = known[0][0], len(known[0][1])
    for i, row in known:
        if len(row) != length:
            raise InputError(
                f"condition {name!r} must have as many numbers in every record: it has {length} in record {first} and "
                f"{len(row)} in record {i}"
            )
    columns: Float[Tensor, "n k"] = torch.tensor([list(row) for _, row in known], dtype=torch.float64)
    stds = columns.std(0, correction=0)
    varies = stds > _CONSTANT * columns.abs().amax(0).clamp(min=1.0)
    if not varies.any():
        raise InputError(f"condition {name!r} is the same for all tickets: there is nothing to learn from it")
    return tuple(
        Scale(column.mean().item(), std if moves else 1.0, column.min().item(), column.max().item())
        for column, std, moves in zip(columns.T, stds.tolist(), varies.tolist(), strict=True)
    )


def encoded(value: Any, name: str, scales: Sequence[Scale]) -> list[float]:
    """The numbers that the flow sees of a description.

    Args:
        value: The description; a single number where it has one.
        name: Name of the condition.
        scales: Scale of each number.

    Raises:
        InputError: It is no list of as many numbers, or one lies outside what the tickets had.
    """
    wanted = f"{len(scales)} number{'s' * (len(scales) > 1)}"
    numbers = plain_numbers(value, f"condition {name!r}")
    if isinstance(numbers, int | float) and len(scales) == 1:
        numbers = [float(numbers)]
    if not isinstance(numbers, list):
        raise InputError(f"condition {name!r} is a list of {wanted}, got {value!r}")
    if len(numbers) != len(scales):
        raise InputError(f"condition {name!r} is {wanted}, as in the tickets' records; got {len(numbers)}")
    return [
        scale.encode(number, f"number {i} of condition {name!r}")
        for i, (number, scale) in enumerate(zip(numbers, scales, strict=True))
    ]

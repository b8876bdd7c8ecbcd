"""Conditions: what a generator is told about each ticket, so that it can be asked for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.record import Record

DENSITY = "density"


@dataclass(frozen=True)
class Condition:
    """A number or a choice that describes a ticket.

    Args:
        name: "density", or where it stands in the tickets' records, such as "label_noise" or
            "metrics.validation_accuracy".
        mean: of a number over the tickets; of its logarithm for the density.
        std: likewise.
        low, high: the least and the greatest that the tickets have.
        values: of a choice, in order; empty for a number.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return len(self.values) or 1

    def encode(self, value: float | str | None) -> list[float]:
        """The numbers that the flow sees; NaN where the value is not known."""
        if value is None:
            return [math.nan] * self.width
        if self.values:
            if value not in self.values:
                raise InputError(f"condition {self.name!r} is one of {', '.join(self.values)}; got {value!r}")
            return [1.0 if value == one else -1.0 for one in self.values]
        if isinstance(value, str) or not math.isfinite(value):
            raise InputError(f"condition {self.name!r} is a number, got {value!r}")
        if self.name == DENSITY:  # a ticket's own is a count over a count, near the one it was asked for
            value = min(max(value, self.low), self.high) if 0.98 * self.low <= value <= 1.02 * self.high else value
        slack = 1e-6 * max(1.0, abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            raise InputError(
                f"condition {self.name!r} was between {self.low:g} and {self.high:g} in the tickets, the generator "
                f"knows nothing about {value:g}"
            )
        return [(_scaled(self.name, value) - self.mean) / self.std]


@dataclass(frozen=True)
class Conditions:
    """All conditions of a generator, in order."""

    each: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], tickets: Collection) -> "Conditions":
        """Read from tickets.

        Raises:
            InputError: a name that no record has, or that is the same for all tickets.
        """
        twice = [name for name in names if list(names).count(name) > 1]
        if twice:
            raise InputError(f"condition {twice[0]!r} is named twice")
        return cls(tuple(_read(name, tickets) for name in names))

    def __bool__(self) -> bool:
        return bool(self.each)

    @property
    def widths(self) -> list[int]:
        """How many numbers the flow sees of each."""
        return [one.width for one in self.each]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.each]

    def encode(self, tickets: Collection) -> Float[Tensor, "n c"] | None:
        """One row for each ticket; None without conditions."""
        if not self.each:
            return None
        columns = [_values(one.name, tickets) for one in self.each]
        rows = zip(*columns, strict=True)
        return torch.tensor(
            [[x for one, value in zip(self.each, row, strict=True) for x in one.encode(value)] for row in rows]
        )

    def ask(
        self, condition: Mapping[str, float | str] | None, n: int, density: float | None = None
    ) -> Float[Tensor, "n c"] | None:
        """Rows for n samples; what is not asked for is left open.

        Args:
            density: of the asked pattern; the nearest density that the tickets had is asked of the flow.
        """
        asked = dict(condition or {})
        for name, value in asked.items():  # NumPy's numbers, and what a command line cannot tell from a number
            own = next((one for one in self.each if one.name == name), None)
            asked[name] = value if isinstance(value, str) else float(value)
            if own is not None and own.values and not isinstance(value, str):
                asked[name] = next((word for word in own.values if _same(word, float(value))), value)
        unknown = sorted(set(asked) - set(self.names))
        if unknown:
            known = f"knows {', '.join(self.names)}" if self.each else "was fitted without conditions"
            raise InputError(f"the generator has no condition {unknown[0]!r}: it {known}")
        if not self.each:
            return None
        if density is not None and DENSITY in self.names:
            (own,) = [one for one in self.each if one.name == DENSITY]
            asked.setdefault(DENSITY, min(max(density, own.low), own.high))
        row = [x for one in self.each for x in one.encode(asked.get(one.name))]
        return torch.tensor(row).expand(n, -1)

    def to_json(self) -> list[dict[str, Any]]:
        return [vars(one) | {"values": list(one.values)} for one in self.each]

    @classmethod
    def from_json(cls, saved: list[dict[str, Any]]) -> "Conditions":
        return cls(tuple(Condition(**{name: _tupled(value) for name, value in one.items()}) for one in saved))


def _same(word: str, value: float) -> bool:
    try:
        return float(word) == value
    except ValueError:
        return False


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read(name: str, tickets: Collection) -> Condition:
    found = [value for value in _values(name, tickets) if value is not None]
    if not found:
        raise InputError(
            f"no ticket's record has {name!r}: name 'density' or a field such as 'metrics.validation_loss'"
        )
    if all(isinstance(value, str) for value in found):
        values = tuple(sorted({str(value) for value in found}))
        if len(values) < 2:
            raise InputError(f"condition {name!r} is {found[0]!r} for all tickets: there is nothing to learn from it")
        return Condition(name, values=values)
    wrong = [value for value in found if isinstance(value, str) or not math.isfinite(value)]
    if wrong:
        raise InputError(f"condition {name!r} must be a number or a word for all tickets, got {wrong[0]!r}")
    numbers = [float(value) for value in found]
    scaled = torch.tensor([_scaled(name, value) for value in numbers], dtype=torch.float64)
    std = scaled.std(correction=0).item()
    if not std > 1e-9 * max(1.0, scaled.abs().max().item()):
        raise InputError(f"condition {name!r} is {numbers[0]:g} for all tickets: there is nothing to learn from it")
    return Condition(name, scaled.mean().item(), std, min(numbers), max(numbers))


def _scaled(name: str, value: float) -> float:
    return math.log(value) if name == DENSITY else float(value)


def _values(name: str, tickets: Collection) -> list[float | str | None]:
    if name == DENSITY:
        return [float(value) for value in tickets.densities]
    return [_field(record, name) for record in tickets.records]


def _field(record: Record, name: str) -> float | str | None:
    found: Any = record
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    if isinstance(found, int | float):
        return float(found)
    if found is not None and not isinstance(found, str):
        raise InputError(f"condition {name!r} must be a number or a word, the records hold {found!r}")
    return found

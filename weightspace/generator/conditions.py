"""Conditions: properties of the tickets that a generator knows, so that samples can be drawn under them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.generator.description import Scale, Value, encoded, plain_numbers, scales_of
from weightspace.masks.patterns import Pattern
from weightspace.masks.schedule import density_of
from weightspace.networks.collection import Collection
from weightspace.networks.record import Record
from weightspace.runtime import checks
from weightspace.storage.typed import from_json

DENSITY = "density"


def density_for_generators(pattern: Pattern) -> float | None:
    """The density that a generator assumes of samples under a pattern; None leaves it open.

    Args:
        pattern: Pattern of the samples; one with `density_for_generators = False` has none.
    """
    return density_of(pattern) if getattr(pattern, "density_for_generators", True) else None


def _word(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise checks.refuse(name, "text", value)
    return value


def _condition(value: Any, name: str) -> "Condition":
    return checks.instance(value, name, Condition, "a Condition(...)")


def _scale(value: Any, name: str) -> Scale:
    return checks.instance(value, name, Scale, "a Scale(...)")


@dataclass(frozen=True)
class Condition:
    """A number, a choice, or a description of several numbers that says what a ticket is like.

    Args:
        name: Name: "density", or a path in the tickets' records, such as "label_noise" or
            "metrics.validation_accuracy".
        mean: Mean of a number over the tickets; of its logarithm for the density.
        std: Standard deviation of a number over the tickets; of its logarithm for the density.
        low: Least number that a ticket has.
        high: Greatest number that a ticket has.
        values: Words of a choice, in order; empty for a number.
        scales: Where each number of a description lies in the tickets; empty for a single number or a choice.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()
    scales: tuple[Scale, ...] = ()

    def __post_init__(self) -> None:
        checks.text(self.name, "name", "density")
        checks.settle(self, checks.number, "mean", "std", "low", "high")
        checks.settle(self, checks.several, "values", check=_word)
        checks.settle(self, checks.several, "scales", check=_scale)

    def __str__(self) -> str:
        return f"{self.name} ({len(self.scales)} numbers)" if self.scales else self.name

    @property
    def width(self) -> int:
        """How many numbers the flow sees of it."""
        return len(self.values) or len(self.scales) or 1

    def encode(self, value: Value | None) -> list[float]:
        """The numbers that the flow sees; NaN where the value is not known.

        Args:
            value: A number, a word or a description; None where it is not known.

        Raises:
            InputError: The tickets had no such value.
        """
        if value is None:
            return [math.nan] * self.width
        if self.values:
            if value not in self.values:
                raise InputError(f"condition {self.name!r} is one of {', '.join(self.values)}; got {value!r}")
            return [1.0 if value == one else -1.0 for one in self.values]
        if self.scales:
            return encoded(value, self.name, self.scales)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"condition {self.name!r} is a number, got {value!r}")
        if self.name == DENSITY:  # a ticket's is a count over a count, near the one it was pruned to
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
    """All conditions of a generator.

    Args:
        each: Conditions, in order.
    """

    each: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        checks.settle(self, checks.several, "each", check=_condition)

    @classmethod
    def of(cls, names: Sequence[str], tickets: Collection) -> "Conditions":
        """Read from tickets.

        Args:
            names: Names of the conditions; see `Condition`.
            tickets: Tickets of the fit.

        Raises:
            InputError: No record has a name, its value is the same for all tickets, or descriptions differ in length.
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
        """Names, in order."""
        return [one.name for one in self.each]

    def encode(self, tickets: Collection) -> Float[Tensor, "n c"] | None:
        """One row for each ticket, (n, C); None without conditions.

        Args:
            tickets: Tickets whose records have the conditions.
        """
        if not self.each:
            return None
        columns = [_values(one.name, tickets) for one in self.each]
        rows = zip(*columns, strict=True)
        return torch.tensor(
            [[x for one, value in zip(self.each, row, strict=True) for x in one.encode(value)] for row in rows]
        )

    def rows(
        self, condition: Mapping[str, Value] | None, n: int, density: float | None = None
    ) -> Float[Tensor, "n c"] | None:
        """Rows for n samples, (n, C); None without conditions. What is not named is left open.

        Args:
            condition: Values of the conditions, by name.
            n: Number of samples.
            density: Density of the samples' pattern; the nearest density that the tickets had goes to the flow.

        Raises:
            InputError: A name is not known, or the tickets had no such value.
        """
        wanted = plain_values(condition)
        for one in self.each:  # what a command line cannot tell from a number is a word all the same
            if one.values and one.name in wanted and not isinstance(wanted[one.name], str):
                value = wanted[one.name]
                wanted[one.name] = next((word for word in one.values if _same(word, value)), value)
        unknown = sorted(set(wanted) - set(self.names))
        if unknown:
            names = f"knows {', '.join(self.names)}" if self.each else "was fitted without conditions, so leave it out"
            raise InputError(f"the generator has no condition {unknown[0]!r}: it {names}")
        if not self.each:
            return None
        if density is not None and DENSITY in self.names:
            (known,) = [one for one in self.each if one.name == DENSITY]
            wanted.setdefault(DENSITY, min(max(density, known.low), known.high))
        row = [x for one in self.each for x in one.encode(wanted.get(one.name))]
        return torch.tensor(row).expand(n, -1)

    def to_json(self) -> list[dict[str, Any]]:
        """The conditions as data."""
        return [_to_json(one) for one in self.each]

    @classmethod
    def from_json(cls, saved: Any) -> "Conditions":
        """The inverse of `to_json`.

        Args:
            saved: What `to_json` returned.

        Raises:
            StorageError: A field is missing, unknown or of another type.
        """
        return from_json(cls, {"each": saved}, "the generator's conditions")


def plain_values(condition: Mapping[str, Any] | None) -> dict[str, Value]:
    """Values of conditions as JSON has them: numbers, words and lists of numbers.

    Args:
        condition: Values by name, which may be NumPy's or PyTorch's; None is none.

    Raises:
        InputError: A value is none of these.
    """
    plain: dict[str, Value] = {}
    for name, given in (condition or {}).items():
        value = plain_numbers(given, f"condition {name!r}")
        if not isinstance(value, str | list):
            try:
                value = given if isinstance(given, int | float) else float(value)
            except (TypeError, ValueError) as error:
                raise checks.refuse(f"condition {name!r}", "a number, a word or a list of numbers", given) from error
        plain[name] = value
    return plain


def _same(word: str, value: Value) -> bool:
    numbers = value if isinstance(value, list) else [value]
    try:
        return [float(part) for part in word.split(",")] == numbers
    except ValueError:
        return False


def _to_json(one: Condition) -> dict[str, Any]:
    data = vars(one) | {"values": list(one.values), "scales": [vars(scale) for scale in one.scales]}
    return data if one.scales else {key: value for key, value in data.items() if key != "scales"}


def _read(name: str, tickets: Collection) -> Condition:
    values = [value for value in _values(name, tickets) if value is not None]
    if not values:
        raise InputError(
            f"no ticket's record has {name!r}: name 'density' or a field such as 'metrics.validation_loss'"
        )
    if all(isinstance(value, list) for value in values):
        return Condition(name, scales=scales_of(_values(name, tickets), name))
    if all(isinstance(value, str) for value in values):
        words = tuple(sorted({str(value) for value in values}))
        if len(words) < 2:
            raise InputError(f"condition {name!r} is {values[0]!r} for all tickets: there is nothing to learn from it")
        return Condition(name, values=words)
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if len(numbers) < len(values):
        wrong = next(value for value in values if not (isinstance(value, float) and math.isfinite(value)))
        raise InputError(
            f"condition {name!r} must be a number for all tickets, or a word, or a list of numbers, got {wrong!r:.80}"
        )
    scaled = torch.tensor([_scaled(name, value) for value in numbers], dtype=torch.float64)
    std = scaled.std(correction=0).item()
    if not std > 1e-9 * max(1.0, scaled.abs().max().item()):
        raise InputError(f"condition {name!r} is {numbers[0]:g} for all tickets: there is nothing to learn from it")
    return Condition(name, scaled.mean().item(), std, min(numbers), max(numbers))


def _scaled(name: str, value: float) -> float:
    return math.log(value) if name == DENSITY else float(value)


def _values(name: str, tickets: Collection) -> list[Any]:
    """A float, a text, a list of floats or None for each ticket."""
    if name == DENSITY:
        return [float(value) for value in tickets.densities]
    return [_field(record, name) for record in tickets.records]


def _field(record: Record, name: str) -> float | str | list[float] | None:
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    value = plain_numbers(value, f"condition {name!r} in a record")
    if isinstance(value, int | float):
        return float(value)
    if value is not None and not isinstance(value, str | list):
        raise InputError(
            f"condition {name!r} must be a number, a word or a list of numbers, the records hold {value!r:.80}"
        )
    return value

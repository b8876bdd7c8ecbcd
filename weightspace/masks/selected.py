"""A pattern in some of a network's tensors: `Only` those that globs name, or all `Except` those."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import PATTERNS, Pattern, check_layout, check_pattern
from weightspace.masks.schedule import count_of, density_of, steps_to, with_density
from weightspace.networks.layout import Layout
from weightspace.storage.typed import as_data, from_json


@dataclass(frozen=True, init=False)
class _Selected(ABC):
    """A pattern that sees only some of the prunable tensors; of the others everything is kept that is left.

    Args:
        pattern: Pattern inside the selection: its density is that of the selected weights.
        names: Names of tensors, or globs such as "encoder.*".

    Raises:
        InputError: The pattern is none, or there are no names.
    """

    # A generator's density is that of all prunable weights, which a selection does not say.
    density_for_generators: ClassVar[bool] = False

    pattern: Pattern
    names: tuple[str, ...]

    def __init__(self, pattern: Pattern, *names: str) -> None:
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{type(self).__name__} takes a pattern and names or globs, such as {type(self).__name__}"
                f'(Unstructured(0.3), "encoder.*"), got names {names!r}'
            )
        object.__setattr__(self, "pattern", check_pattern(pattern))
        object.__setattr__(self, "names", names)

    @abstractmethod
    def part(self, layout: Layout) -> Layout:
        """The layout as the pattern inside sees it: only the selected tensors are prunable.

        Args:
            layout: Layout of the network.

        Raises:
            InputError: A glob matches nothing, or nothing prunable, or nothing is selected.
        """

    @property
    def density(self) -> float | None:
        """Fraction of the selected weights that every network keeps, where the pattern inside says so."""
        return density_of(self.pattern)

    def with_density(self, density: float) -> Pattern:
        """The same selection at another density of the selected weights.

        Args:
            density: Fraction of the selected weights kept.
        """
        return type(self)(with_density(self.pattern, density), *self.names)

    def count(self, layout: Layout) -> int | None:
        """The number of prunable weights kept of a network that is dense outside the selection, where it is known."""
        part = self.part(layout)
        inside = count_of(self.pattern, part)
        return None if inside is None else inside + layout.num_prunable - part.num_prunable

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:
        """The same selection of the steps of the pattern inside; see `Stepwise.steps`."""
        return [type(self)(step, *self.names) for step in steps_to(self.pattern, rate, start)]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
        part = self.part(check_layout(layout))
        mask = self.pattern.mask(scores, part, within=within)
        if within is None:
            return mask
        selected = {entry.name for entry in part.weights}
        for entry in layout.weights:
            if entry.name not in selected:
                at = layout.slices[entry.name]
                mask[..., at] = within[..., at]
        return mask


@PATTERNS.register("Only")
@dataclass(frozen=True, init=False)
class Only(_Selected):
    """A pattern in some tensors; all weights of the others are kept: `Only(Unstructured(0.3), "encoder.*")`.

    Args:
        pattern: Pattern inside the selection: its density is that of the selected weights.
        names: Names of the selected tensors, or globs such as "encoder.*".

    Raises:
        InputError: There are no names.
    """

    def part(self, layout: Layout) -> Layout:
        """The layout with only the named tensors prunable.

        Args:
            layout: Layout of the network.

        Raises:
            InputError: A glob matches nothing, or nothing prunable.
        """
        return _narrowed(layout, self.names, True)


@PATTERNS.register("Except")
@dataclass(frozen=True, init=False)
class Except(_Selected):
    """A pattern in all tensors but some, whose weights are all kept: `Except(Unstructured(0.3), "embed*", "head.*")`.

    Args:
        pattern: Pattern of the other tensors: its density is that of their weights.
        names: Names of the tensors that are left out, or globs such as "head.*".

    Raises:
        InputError: There are no names.
    """

    def part(self, layout: Layout) -> Layout:
        """The layout with all but the named tensors prunable.

        Args:
            layout: Layout of the network.

        Raises:
            InputError: A glob matches nothing, or nothing prunable, or together they match everything prunable.
        """
        return _narrowed(layout, self.names, False)


@lru_cache(maxsize=64)
def _narrowed(layout: Layout, globs: tuple[str, ...], only: bool) -> Layout:
    named = layout.selected(globs)
    rest = tuple(entry.name for entry in layout.weights if entry.name not in named)
    if not only and not rest:
        raise InputError(f"everything prunable is left out by {', '.join(map(repr, globs))}: nothing is there to prune")
    return layout.with_prunable(named if only else rest)


@dataclass(frozen=True)
class _Stored:
    """A selection in files."""

    pattern: dict[str, Any]
    names: tuple[str, ...]


def _write(selected: _Selected) -> dict[str, Any]:
    return {"pattern": PATTERNS.to_json(selected.pattern), "names": list(selected.names)}


def _read(kind: type[_Selected], data: Mapping[str, Any]) -> _Selected:
    stored = from_json(_Stored, data, "a selection")
    return kind(PATTERNS.from_json(stored.pattern, "a selection"), *stored.names)


for _kind in (Only, Except):
    as_data(_kind, _write, _read)

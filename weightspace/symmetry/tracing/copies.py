"""Copies: units that share what lies inside them, as the query heads of one head of keys and values do.

Each place inside a copy belongs to two units: the copy, and one of the units that the copies share. Copies take each
other's places with all that lies in them; the shared units take each other's places in all copies at once.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from weightspace.symmetry.tracing.labels import Units


@dataclass
class Copies:
    """Which copy each place lies in.

    Args:
        of: The copy of a place.
        places: The places of a copy.
        units: The shared units of a copy.
    """

    of: dict[int, int] = field(default_factory=dict)
    places: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    units: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add(self, units: Units, places: np.ndarray, copies: np.ndarray) -> None:
        """Places of units that occur in several copies; one that lies in two copies fixes both."""
        pairs = zip(
            units.find_places(places).tolist(), units.find(copies).tolist(), units.find(places).tolist(), strict=True
        )
        for place, copy, unit in pairs:
            self.places[copy].add(place)
            self.units[copy].add(unit)

    def settle(self, units: Units) -> bool:
        """Unite copies of the same places, as two passes through a module make them; whether there were any."""
        same: dict[frozenset[int], int] = {}
        united = False
        for copy, held in self.places.items():
            other = same.setdefault(frozenset(held), copy)
            if other != copy:
                units.unite(np.array([copy]), np.array([other]))
                united = True
        self.of = {place: copy for copy, held in self.places.items() for place in held}
        return united

    def fix_overlaps(self, units: Units) -> None:
        """Copies that overlap stay where they are."""
        for copy, held in self.places.items():
            if any(self.of[place] != copy for place in held):
                self.fix(units)
                return

    def marks(self, units: Units) -> dict[int, tuple[int, ...]]:
        """What tells copies apart: the marks of their places."""
        marks = units.marks_of_places()
        return {copy: tuple(sorted(int(marks[place]) for place in held)) for copy, held in self.places.items()}

    def fix_uneven(self, units: Units, mark: Mapping[int, int]) -> bool:
        """Fix all copies if places differ otherwise than by their copy and by their unit; whether that was so."""
        marks = units.marks_of_places()
        seen: dict[tuple[int, int], int] = {}
        for place, copy in self.of.items():
            unit = int(units.find(np.array([place]))[0])
            own = int(marks[place])
            if seen.setdefault((mark.get(copy, 0), mark.get(unit, 0)), own) != own:
                self.fix(units)
                return True
        return False

    def fix(self, units: Units) -> None:
        """No copy takes another's place."""
        for copy in self.places:
            units.mark(np.array([copy]))

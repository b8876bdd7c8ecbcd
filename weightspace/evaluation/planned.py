"""Baselines that are planned and not yet made: an evaluation makes those that it has not measured before."""

from collections.abc import Callable
from dataclasses import dataclass

from weightspace.networks.collection import Collection


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve: a family of baselines at one strength, not yet made.

    Args:
        family: Name of the curve, such as "noise" or "soup".
        level: Strength: a standard deviation, a share, or a number of networks.
        make: Makes the networks.
    """

    family: str
    level: float
    make: Callable[[], Collection]


@dataclass(frozen=True)
class BaselineGroup:
    """A baseline of the table, not yet made.

    Args:
        name: Name of its row.
        note: What the networks are.
        make: Makes the networks.
    """

    name: str
    note: str
    make: Callable[[], Collection]

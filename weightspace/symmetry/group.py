"""Groups of hidden units, and where they lie along the axes of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from weightspace.errors import InputError

LINEAR = ("general", "orthogonal")


@dataclass(frozen=True)
class Axis:
    """Where a group's units lie along one axis of one tensor, by state-dict name.

    Args:
        tensor: Name of the tensor in the state dict.
        axis: Number of the axis.
        index: Positions along the axis, for each unit (of each parent unit) in turn its slots: a unit whose feature map
            is flattened has several. With None, unit u lies at position u.
        within: Another axis of the tensor, for grouped convolutions, made of one block of equal length for each unit of
            the parent group. In block j this axis follows the permutation inside the parent's unit j.
    """

    tensor: str
    axis: int
    index: tuple[int, ...] | None = None
    within: int | None = None

    @classmethod
    def blocks(cls, tensor: str, axis: int, units: int, block: int) -> "Axis":
        """Each unit is `block` consecutive positions, as behind conv-flatten-linear."""
        return cls(tensor, axis, tuple(range(units * block)))

    @classmethod
    def tiles(cls, tensor: str, axis: int, units: int, tiles: int) -> "Axis":
        """The units one after another, several times over, as the gates of an LSTM."""
        return cls(tensor, axis, tuple(tile * units + unit for unit in range(units) for tile in range(tiles)))

    def lies_in(self, other: "Axis") -> bool:
        """Whether this is another axis, or some of its positions."""
        if (self.tensor, self.axis, self.within) != (other.tensor, other.axis, other.within):
            return False
        return self.index == other.index or (
            self.index is not None and other.index is not None and set(self.index) < set(other.index)
        )

    def __str__(self) -> str:
        inside = "" if self.within is None else f" in blocks of axis {self.within}"
        return f"{self.tensor}[{self.axis}{_brief(self.index)}]{inside}"


@dataclass(frozen=True)
class Group:
    """Hidden units that can be reordered together.

    Args:
        name: Name of the group.
        size: Number of units; of a child group, in each unit of its parent.
        incoming: Axes that produce the units: rows of a weight, its bias, or a norm's scale and shift.
        outgoing: Axes that read the units (columns of the next weight).
        homogeneous: Whether multiplying a unit on its incoming axes by s > 0 and dividing it on its outgoing axes by s
            changes nothing, because what lies between satisfies f(s x) = s f(x), as ReLU does.
        following: Further axes that move with the units but take no part in such a rescaling, as the rows in front of a
            norm and the norm's running statistics.
        parent: Name of another group, such as the heads of an attention layer. Units inside each of its units are
            reordered on their own, and move along when their parent is moved.
        odd: Whether multiplying a unit by -1 on its incoming and on its outgoing axes changes nothing, because what
            lies between satisfies f(-x) = -f(x), as tanh does.
        linear: Whether the units can also be mixed by a matrix, because only linear operations lie between what makes
            and what reads them: "general" by any invertible one, "orthogonal" by an orthogonal one, as where a norm of
            the units is taken.
        dual: Those of the axes on which a mixing acts by the inverse transpose of the matrix, as what reads the units
            undoes what is done to them; for "orthogonal" none, as the inverse transpose is the matrix itself. Where
            rows of both kinds lie in one tensor, as queries and keys do, part of an axis: an axis with some of its
            positions, equally many for each unit.

    Raises:
        InputError: `linear` is of another kind, or `dual` has axes of others, or any without "general".
    """

    name: str
    size: int
    incoming: tuple[Axis, ...]
    outgoing: tuple[Axis, ...]
    homogeneous: bool = False
    following: tuple[Axis, ...] = ()
    parent: str | None = None
    odd: bool = False
    linear: str | None = None
    dual: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        for side in ("incoming", "outgoing", "following", "dual"):
            object.__setattr__(self, side, tuple(getattr(self, side)))
        if self.linear is not None and self.linear not in LINEAR:
            raise InputError(
                f"group {self.name!r}: linear={self.linear!r} is none of {', '.join(map(repr, LINEAR))}, and None"
            )
        if self.dual and (self.linear != "general" or not all(any(map(d.lies_in, self.axes)) for d in self.dual)):
            raise InputError(
                f"group {self.name!r}: dual axes are its axes or parts of them, and only where linear='general'; got "
                f"{', '.join(map(str, self.dual))} with linear={self.linear!r}"
            )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes that move with the units."""
        return self.incoming + self.outgoing + self.following

    @property
    def primal(self) -> tuple[Axis, ...]:
        """The axes, or parts of them, on which a mixing acts by the matrix itself: all but the dual ones."""
        left: list[Axis] = []
        for axis in self.axes:
            parts = [d for d in self.dual if d != axis and d.lies_in(axis)]
            taken = {position for part in parts for position in part.index or ()}
            if parts and axis.index is not None:
                axis = replace(axis, index=tuple(p for p in axis.index if p not in taken))
            if axis not in self.dual and axis.index != ():
                left.append(axis)
        return tuple(left)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be done to the units: "permutation", "sign", "positive scale", "orthogonal", "general linear"."""
        found = {
            "permutation": True,
            "sign": self.odd,
            "positive scale": self.homogeneous,
            "orthogonal": self.linear == "orthogonal",
            "general linear": self.linear == "general",
        }
        return tuple(kind for kind, can in found.items() if can)


def _brief(index: tuple[int, ...] | None) -> str:
    if index is None:
        return ""
    runs = 1 + sum(b != a + 1 for a, b in pairwise(index))
    return f", {index[0]}:{index[-1] + 1}" if runs == 1 else f", {len(index)} positions in {runs} runs"


def written(group: Group) -> dict[str, Any]:
    """A group as data; what is new is written only where it is not the default.

    Args:
        group: The group.
    """

    def axes(side: Sequence[Axis]) -> list[list[Any]]:
        return [[a.tensor, a.axis, None if a.index is None else list(a.index), a.within] for a in side]

    return (
        {
            "name": group.name,
            "size": group.size,
            "homogeneous": group.homogeneous,
            "parent": group.parent,
            "incoming": axes(group.incoming),
            "outgoing": axes(group.outgoing),
            "following": axes(group.following),
        }
        | ({"odd": True} if group.odd else {})
        | ({"linear": group.linear} if group.linear is not None else {})
        | ({"dual": axes(group.dual)} if group.dual else {})
    )

"""Groups as they are written, read from files that may come from anywhere: the layout bounds what is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weightspace.errors import StorageError
from weightspace.networks.layout import Layout
from weightspace.storage.typed import from_json
from weightspace.symmetry.group import Axis, Group

_WHAT = "a symmetry"


@dataclass(frozen=True)
class _StoredGroup:
    name: str
    size: int
    homogeneous: bool
    parent: str | None
    incoming: list[Any]
    outgoing: list[Any]
    following: list[Any]
    odd: bool = False
    linear: str | None = None
    dual: list[Any] = ()  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True)
class _Stored:
    groups: list[_StoredGroup]
    fixed: list[str]


def read_groups(data: Any, layout: Layout) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The groups, and the names of buffers that stay, as `Symmetry.to_json` writes them.

    Args:
        data: What was written.
        layout: Layout of the networks, which bounds sizes and positions.

    Raises:
        StorageError: A field is missing, unknown or of another type, or names more than the layout has.
    """
    stored = from_json(_Stored, data, _WHAT)
    longest = max((length for entry in layout.entries for length in entry.shape), default=0)
    counts: dict[str, int] = {}

    def group(one: _StoredGroup) -> Group:
        sides = (one.incoming, one.outgoing, one.following, one.dual)
        incoming, outgoing, following, dual = (tuple(_axis(axis, longest) for axis in side) for side in sides)
        counts[one.name] = count = one.size * counts.get(one.parent or "", 1)
        if not 1 <= one.size <= longest or count > layout.size:
            raise StorageError(
                f"{_WHAT} is damaged (group {one.name!r:.80} has {count} units, the longest axis {longest} positions): "
                "restore it from a copy"
            )
        return Group(
            one.name,
            one.size,
            incoming=incoming,
            outgoing=outgoing,
            homogeneous=one.homogeneous,
            following=following,
            parent=one.parent,
            odd=one.odd,
            linear=one.linear,
            dual=dual,
        )

    return tuple(map(group, stored.groups)), tuple(stored.fixed)


def _axis(data: Any, longest: int) -> Axis:
    """One axis: tensor, number, positions and the axis of blocks."""
    if isinstance(data, Sequence) and len(data) == 4:
        tensor, axis, index, within = data
        plain = isinstance(tensor, str) and _natural(axis) and (within is None or _natural(within))
        if plain and index is None:
            return Axis(tensor, axis, None, within)
        # No longer than the axis, whatever the file says; so few can be looked at one by one.
        if plain and isinstance(index, list) and 0 < len(index) <= longest and all(map(_natural, index)):
            return Axis(tensor, axis, tuple(index), within)
    raise StorageError(f"{_WHAT} is damaged (an axis is {_brief(data)}): restore it from a copy")


def _brief(data: Any) -> str:
    """The beginning of what is there, however long it is."""
    parts = data[:4] if isinstance(data, list) else [data]
    return ", ".join(f"{len(part)} positions" if isinstance(part, list) else repr(part)[:60] for part in parts)


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0

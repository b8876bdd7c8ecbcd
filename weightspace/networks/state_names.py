"""Names in a state dict from elsewhere: prefixes, wrappers, tied names and pruned tensors.

A layout says which names a network needs; `find_names` says which names of a file these are.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.layout import Layout

# Modules that hold another one: DataParallel and AveragedModel, torch.compile, FSDP, activation checkpoints.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What people call the network in a larger module, such as one of Lightning.
_USUAL = ("model.", "net.", "network.", "backbone.", "encoder.")
ORIG, MASK = "_orig", "_mask"
"""Ends of the two names that torch.nn.utils.prune makes of a pruned tensor's."""


@dataclass(frozen=True)
class Names:
    """Which names of a state dict are a layout's.

    Args:
        of: Name in the state dict of each name of the layout that is there; of a pruned tensor without its end.
        missing: Trainable tensors of the layout that are not there, under no name.
        unknown: Names of the state dict that are not the layout's.
        remark: How the names were changed; empty for not at all.
    """

    of: Mapping[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    remark: str = ""


def find_names(state: Mapping[str, Tensor], layout: Layout, prefix: str | None = None) -> Names:
    """The names of a state dict that are a layout's: as they are, behind a common prefix, or without wrappers.

    Args:
        state: Tensors by name.
        layout: Layout of the network.
        prefix: Prefix of the network's names; None finds one.

    Returns:
        The first of these ways in which all trainable tensors are there; else that with the fewest missing.

    Raises:
        InputError: No name has the given prefix, or several prefixes fit and none is usual.
    """
    if prefix is not None and not any(name.startswith(prefix) for name in state):
        raise InputError(f"no name begins with the prefix {prefix!r}; there are {listed(state)}")
    best: Names | None = None
    for change in (_as_it_is, _unwrapped):
        table = {change(name): name for name in state}
        if len(table) < len(state):  # two names would be one
            continue
        tried = [_behind(p, table, layout, change) for p in _prefixes(table, layout, change, prefix)]
        whole = [(p, names) for p, names in tried if not names.missing]
        if whole:
            return _choose(whole, state, layout)
        for _, names in tried:
            if best is None or len(names.missing) < len(best.missing):
                best = names
    return best or Names({}, tuple(entry.name for entry in layout.parameters), tuple(state))


def listed(names: Mapping[str, object], most: int = 8) -> str:
    """Names for a message: the first few, and how many there are."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "none"


def _as_it_is(name: str) -> str:
    return name


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _whole(table: Mapping[str, str], name: str) -> str | None:
    """The file's name for a name, which may be in two halves."""
    if name in table:
        return table[name]
    halves = name + ORIG in table and name + MASK in table
    return table[name + ORIG].removesuffix(ORIG) if halves else None


def _prefixes(table: Mapping[str, str], layout: Layout, change: Callable[[str], str], given: str | None) -> list[str]:
    """What the layout's names may stand behind, that of most names first; none at all before all others."""
    if given is not None:
        return [change(given + "x").removesuffix("x")]
    befores: dict[str, list[str]] = defaultdict(list)  # what stands before each end of a name
    for name in table:
        parts = name.removesuffix(ORIG).split(".")
        for i in range(len(parts)):
            befores[".".join(parts[i:])].append("".join(part + "." for part in parts[:i]))
    count: dict[str, int] = {"": 0}
    for entry in layout.parameters:
        for before in befores.get(change(entry.name), ()):
            count[before] = count.get(before, 0) + 1
    return sorted(count, key=lambda before: (before != "", -count[before], before))


def _behind(prefix: str, table: Mapping[str, str], layout: Layout, change: Callable[[str], str]) -> tuple[str, Names]:
    """The layout's names behind a prefix."""
    of: dict[str, str] = {}
    for name in (*(entry.name for entry in layout.entries), *(alias for alias, _ in layout.aliases)):
        found = _whole(table, prefix + change(name))
        if found is not None:
            of[name] = found
    tied = {entry for alias, entry in layout.aliases if alias in of}
    missing = tuple(e.name for e in layout.parameters if e.name not in of and e.name not in tied)
    there = set(table.values())
    used = {form for name in of.values() for form in ((name,) if name in there else (name + ORIG, name + MASK))}
    remark = _remark(prefix, unwrapped=change is _unwrapped)
    return prefix, Names(of, missing, tuple(name for name in table.values() if name not in used), remark)


def _remark(prefix: str, *, unwrapped: bool) -> str:
    changes = [f"the prefix {prefix!r}"] if prefix else []
    changes += [f"the wrappers {' and '.join(_WRAPPERS[:2])}"] if unwrapped else []
    return f"names were read without {' and '.join(changes)}" if changes else ""


def _choose(whole: list[tuple[str, Names]], state: Mapping[str, Tensor], layout: Layout) -> Names:
    """One of several prefixes behind which the network is complete."""
    if whole[0][0] == "" or len(whole) == 1:
        return whole[0][1]
    fitting = [(prefix, names) for prefix, names in whole if _same_shapes(names, state, layout)] or whole
    usual = [(p, names) for p, names in fitting if p in _USUAL or not _unwrapped(p)]
    chosen = fitting if len(fitting) == 1 else usual
    if len(chosen) != 1:
        raise InputError(
            f"the network is there behind several prefixes ({', '.join(repr(p) for p, _ in fitting)}): say which with "
            "prefix= (--prefix)"
        )
    return chosen[0][1]


def _same_shapes(names: Names, state: Mapping[str, Tensor], layout: Layout) -> bool:
    shapes = {entry.name: entry.shape for entry in layout.parameters}
    shapes |= {alias: shapes[name] for alias, name in layout.aliases if name in shapes}
    return all(
        tuple(state[there if there in state else there + ORIG].shape) == shapes[name]
        for name, there in names.of.items()
        if name in shapes
    )

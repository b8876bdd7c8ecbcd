"""A checkpoint from elsewhere as a state dict of a layout: the entry, the names, the masks and the dtypes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.networks.layout import Entry, Layout
from weightspace.networks.state_names import MASK, ORIG, Names, find_names, listed

# Names of a network in a checkpoint, the first before the others where several fit.
_ENTRIES = (
    "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network", "module",
    "weights", "params",
)  # fmt: skip
# Buffers of floating point that later versions of a network compute anew.
_COMPUTED = ("inv_freq", "masked_bias", "attn_mask", "relative_position_index", "position_ids")
_PRUNED = "the masks of torch.nn.utils.prune are kept as the network's"
_DEPTH = 3  # of mappings in mappings
_REMEDY = "say what is what with key=, prefix=, rename= or strict=False (--key, --prefix, --rename, --no-strict)"


@dataclass
class ForeignState:
    """A network read from a checkpoint, in a layout's names and dtypes.

    Args:
        tensors: Trainable tensors and buffers by the layout's names, tied names among them.
        masks: Masks of pruned tensors by the layout's names.
        absent: Names of the layout that the checkpoint lacks, to be taken from a fresh module.
        remarks: What was guessed, left out or rounded, a sentence each.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """How checkpoints from elsewhere are read; what is not said is found, and told.

    Args:
        key: Entry of the file that holds the state dict, such as "model_ema"; of entries in entries "a.b".
        prefix: Prefix of the network's names, such as "encoder."; other names are left out.
        strict: Whether it is an error that tensors are missing, or are not the network's.
        rename: Function from a name in the file to the network's, or to None for what is to be left out.
    """

    key: str | None = None
    prefix: str | None = None
    strict: bool = True
    rename: Callable[[str], str | None] | None = None

    def state(self, content: object, layout: Layout) -> ForeignState:
        """The state dict that a file holds.

        Args:
            content: What the file holds: a state dict, or mappings around one.
            layout: Layout of the network.

        Raises:
            StorageError: There is no state dict in it, or no such entry.
            LayoutMismatch: The tensors are those of another network.
            InputError: A name or an entry is ambiguous, or a trainable tensor is of another kind than numbers.
        """
        path, state, names = self._entry(content, layout)
        found = ForeignState()
        if path and self.key is None:
            found.remarks.append(f"the state dict is its entry {path!r}")
        if names.remark and self.prefix is None:
            found.remarks.append(names.remark)
        if names.missing and (self.strict or not names.of):
            raise LayoutMismatch(
                f"missing {list(names.missing)}, unknown {list(names.unknown) or 'nothing'}. The file's names: "
                f"{listed(state)}; {_REMEDY}"
            )
        self._leave_out(names, state, found)
        for entry in layout.entries:
            spellings = [entry.name, *(alias for alias, name in layout.aliases if name == entry.name)]
            here = [name for name in spellings if name in names.of]
            if not here:
                self._fill(entry, found)
            for name in here:
                _take(entry, name, names.of[name], state, found)
            if here and entry.name not in found.tensors:
                found.tensors[entry.name] = found.tensors[here[0]]
        _round(layout, found)
        return found

    def _entry(self, content: object, layout: Layout) -> tuple[str, Mapping[str, Tensor], Names]:
        """The entry that holds the network, its tensors, and their names."""
        if self.key is not None:
            content = _at(content, self.key)
        entries = list(_entries(content, "", 0 if self.key is not None else _DEPTH))
        if not entries:
            keys = f" with the entries {listed(content)}" if isinstance(content, Mapping) else ""
            raise StorageError(
                f"it does not hold a state dict but a {type(content).__name__}{keys}: save it with "
                "torch.save(module.state_dict(), path), or say which entry it is with key= (--key)"
            )
        read: list[tuple[str, Mapping[str, Tensor], Names]] = []
        problem: InputError | None = None
        for path, tensors in entries:
            state = self._renamed(tensors)
            try:
                read.append((path, state, find_names(state, layout, self.prefix)))
            except InputError as error:
                problem = problem or error
        whole = [one for one in read if not one[2].missing]
        if not whole and problem is not None:
            raise problem
        if not whole:
            return min(read, key=lambda one: len(one[2].missing))
        known = sorted((one for one in whole if one[0] in ("", *_ENTRIES)), key=lambda one: _rank(one[0]))
        if len(whole) > 1 and not known:
            raise InputError(
                f"the network may be any of the entries {', '.join(repr(path) for path, _, _ in whole)}: say which "
                "with key= (--key)"
            )
        return (known or whole)[0]

    def _renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.rename is None:
            return tensors
        renamed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            new = self.rename(name)
            if new is None:
                continue
            if new in renamed:
                raise InputError(f"rename gives two tensors the name {new!r} (the second is {name!r})")
            renamed[new] = tensor
        return renamed

    def _leave_out(self, names: Names, state: Mapping[str, Tensor], found: ForeignState) -> None:
        """Say which tensors are not the network's; an error where they may be."""
        elsewhere = [n for n in names.unknown if self.prefix is not None and not n.startswith(self.prefix)]
        here = [n for n in names.unknown if n not in elsewhere]
        foreign = [n for n in here if state[n].is_floating_point() and not n.endswith(_COMPUTED)]
        if foreign and self.strict:
            raise LayoutMismatch(
                f"unknown {foreign}, missing nothing: the network has no such tensors. The file's names: "
                f"{listed(state)}; {_REMEDY}"
            )
        if here:
            found.remarks.append(f"left out, as the network has no such tensors: {listed(dict.fromkeys(here))}")

    def _fill(self, entry: Entry, found: ForeignState) -> None:
        """Note a tensor that the file lacks."""
        counted = entry.role == "buffer" and not getattr(torch, entry.dtype).is_floating_point
        if self.strict and not counted:  # trainable ones were looked for already
            raise LayoutMismatch(f"buffer {entry.name!r} is missing; {_REMEDY}")
        found.absent.append(entry.name)
        found.remarks.append(f"{entry.name!r} is not in it, and stays as the network's code makes it")


def _entries(content: object, path: str, depth: int) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Every mapping of names to tensors in a file, the outer ones first."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if depth and isinstance(name, str):
            yield from _entries(value, f"{path}.{name}" if path else name, depth - 1)


def _at(content: object, key: str) -> object:
    """An entry, or one in entries."""
    if isinstance(content, Mapping):
        if key in content:
            return content[key]
        first, dot, rest = key.partition(".")
        if dot and first in content:
            return _at(content[first], rest)
    entries = listed(content) if isinstance(content, Mapping) else f"none, but a {type(content).__name__}"
    raise StorageError(f"it has no entry {key!r}; there are {entries}")


def _rank(path: str) -> int:
    return ("", *_ENTRIES).index(path)


def _take(entry: Entry, name: str, there: str, state: Mapping[str, Tensor], found: ForeignState) -> None:
    """Put a tensor under the layout's name, with its mask if torch.nn.utils.prune has split it."""
    if there in state:
        found.tensors[name] = _plain(there, state[there], entry)
        return
    tensor, mask = _plain(there + ORIG, state[there + ORIG], entry), state[there + MASK]
    if mask.shape != tensor.shape or not ((mask == 0) | (mask == 1)).all():
        raise LayoutMismatch(f"{there + MASK!r} is not a mask of {there + ORIG!r}: zeros and ones of its shape")
    kept = mask.bool()
    found.tensors[name] = tensor.where(kept, 0)
    if entry.role == "weight":
        found.masks[entry.name] = kept
        if _PRUNED not in found.remarks:
            found.remarks.append(_PRUNED)
    elif not kept.all():
        found.remarks.append(f"the mask of {name!r} is not kept, only its zeros: it is never pruned here")


def _plain(name: str, tensor: Tensor, entry: Entry) -> Tensor:
    """A tensor of numbers in the layout's shape."""
    if tensor.is_quantized or tensor.is_complex() or (entry.role != "buffer" and not tensor.is_floating_point()):
        kind = "quantised" if tensor.is_quantized else str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            f"tensor {name!r} is {kind}: weights are real numbers of floating point here, so save the network before "
            "it is quantised, or dequantise it"
        )
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tuple(tensor.shape) != entry.shape:
        kind = "buffer" if entry.role == "buffer" else "tensor"
        raise LayoutMismatch(f"{kind} {name!r} has shape {tuple(tensor.shape)}, expected {entry.shape}")
    return tensor


def _round(layout: Layout, found: ForeignState) -> None:
    """Bring all tensors to the layout's dtypes; say where this changes values, refuse where it destroys them."""
    entries = {entry.name: entry for entry in layout.entries}
    entries |= {alias: entries[name] for alias, name in layout.aliases}
    rounded: dict[Any, None] = {}
    for name, tensor in found.tensors.items():
        dtype = getattr(torch, entries[name].dtype)
        if tensor.dtype == dtype:
            continue
        found.tensors[name] = cast = tensor.to(dtype)
        if tensor.is_floating_point() and not (cast.isfinite() | ~tensor.isfinite()).all():
            raise InputError(
                f"tensor {name!r} holds numbers that {entries[name].dtype} cannot: build the network in "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        if not torch.equal(cast.to(tensor.dtype), tensor) and tensor.isfinite().all():
            rounded[f"{str(tensor.dtype).removeprefix('torch.')} to {entries[name].dtype}"] = None
    found.remarks += [f"numbers were rounded from {what}, the network's dtype" for what in rounded]

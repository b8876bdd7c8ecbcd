"""Layout: which tensors a network has, in which order, and what each is for.

A network of a layout is a flat vector of its D trainable parameters, plus its buffers. `pack` and
`unpack` convert between vectors and state dicts, for one network or for many at once.
"""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.networks.roles import Role, marked, roles_of
from weightspace.networks.selection import matching
from weightspace.runtime import checks
from weightspace.storage.typed import from_json

_LARGEST = 2**48  # values of a tensor


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in the state dict, shape, role and dtype (such as "float32").

    The role "weight" marks the prunable tensors (`weightspace.networks.roles`). Biases, norm parameters and free
    parameters ("other") are never pruned; buffers are not part of the vector.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    dtype: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise checks.refuse("name", 'text such as "layers.0.weight"', self.name)
        checks.settle(self, checks.several, "shape", check=checks.count, at_most=_LARGEST)
        checks.one_of(self.role, "role", get_args(Role))
        checks.text(self.dtype, "dtype", "float32")

    @cached_property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The ordered tensors of a network.

    Args:
        entries: Trainable tensors (in vector order) and buffers.
        aliases: Pairs (name, entry) for tied weights: state-dict names that hold the same tensor
            as an entry and so take no room of their own.
    """

    entries: tuple[Entry, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for field, check in (("entries", _entry), ("aliases", _pair)):
            object.__setattr__(self, field, tuple(checks.several(getattr(self, field), field, check)))
        names = [entry.name for entry in self.entries] + [alias for alias, _ in self.aliases]
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise InputError(f"a layout has two tensors called {twice!r}: every tensor needs a name of its own")
        if not self.parameters:
            raise InputError("a layout needs at least one trainable parameter, got none")
        dtypes = {entry.dtype for entry in self.parameters}
        if len(dtypes) > 1:
            raise InputError(
                f"the parameters have several dtypes ({', '.join(sorted(dtypes))}), a collection "
                "holds one: convert the module first, for example with module.float()"
            )

    @classmethod
    def of(cls, module: nn.Module, *, prunable: Sequence[str] | None = None) -> "Layout":
        """Derive the layout of a module from its parameters, persistent buffers and tied names.

        Args:
            module: The module.
            prunable: Names of the parameters that may be pruned, or globs such as "encoder.*"; of these, the tensors of
                two or more axes. None is what the module's architecture says, or else what its layers and names say:
                weights of linear, convolution, embedding, bilinear, attention and recurrent layers, of PyTorch or not.

        Raises:
            InputError: There is nothing to train, or a glob matches no parameter that could be pruned.
        """
        checks.instance(module, "module", nn.Module, "a torch.nn.Module")
        checks.given(prunable, "prunable", checks.several, check=checks.text)
        state = module.state_dict(keep_vars=True)
        roles = roles_of(module)
        entries: list[Entry] = []
        aliases: list[tuple[str, str]] = []
        seen: dict[int, str] = {}
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise InputError(f"state dict entry {name!r} is a {type(tensor).__name__}, not a tensor")
            if id(tensor) in seen:
                aliases.append((name, seen[id(tensor)]))
                continue
            seen[id(tensor)] = name
            role: Role = roles[name] if isinstance(tensor, nn.Parameter) else "buffer"
            dtype = str(tensor.dtype).removeprefix("torch.")
            if role != "buffer" and not tensor.is_floating_point():
                raise InputError(
                    f"parameter {name!r} is {dtype}: a collection holds real numbers of floating point, so make it a "
                    "buffer (register_buffer) if it is not trained, or leave this network out"
                )
            entries.append(Entry(name, tuple(tensor.shape), role, dtype))
        layout = cls(tuple(entries), tuple(aliases))
        if prunable is not None:
            could = [entry.name for entry in layout.candidates]
            return layout.with_prunable(matching(prunable, could, layout.names, "a tensor that could be pruned"))
        names = marked(module)
        return layout if names is None else layout.with_prunable(names)

    @cached_property
    def parameters(self) -> tuple[Entry, ...]:
        """The trainable tensors, in vector order."""
        return tuple(entry for entry in self.entries if entry.role != "buffer")

    @cached_property
    def weights(self) -> tuple[Entry, ...]:
        """The prunable tensors (role "weight"), in vector order."""
        return tuple(entry for entry in self.parameters if entry.role == "weight")

    @cached_property
    def candidates(self) -> tuple[Entry, ...]:
        """The tensors that could be pruned: of two or more axes, and neither biases nor norm parameters."""
        return tuple(e for e in self.parameters if e.role == "weight" or (e.role == "other" and len(e.shape) > 1))

    @cached_property
    def left_out(self) -> tuple[Entry, ...]:
        """The matrices that could be pruned and are not prunable: they have two or more axes longer than one."""
        return tuple(e for e in self.candidates if e.role != "weight" and sum(size > 1 for size in e.shape) > 1)

    def with_prunable(self, names: Collection[str]) -> "Layout":
        """The same tensors, of which other ones may be pruned.

        Args:
            names: Names of the tensors that may be pruned. Those that are no candidates stay as they are.
        """
        if not isinstance(names, Collection) or isinstance(names, str | bytes | Tensor):
            raise checks.refuse("names", "a list of names of tensors", names)
        roles: dict[str, Role] = {e.name: "weight" if e.name in names else "other" for e in self.candidates}
        entries = tuple(replace(e, role=roles.get(e.name, e.role)) for e in self.entries)
        return Layout(entries, self.aliases)

    def selected(self, globs: Sequence[str]) -> tuple[str, ...]:
        """Names of the prunable tensors that globs select, by any of their names if they are tied.

        Args:
            globs: Names, or globs such as "encoder.*".

        Raises:
            InputError: A glob matches nothing, or nothing prunable; the message lists near names.
        """
        return matching(globs, [entry.name for entry in self.weights], self.names, "prunable")

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name of a trainable tensor, with that of its entry."""
        own = {entry.name: entry.name for entry in self.parameters}
        return own | {alias: name for alias, name in self.aliases if name in own}

    @cached_property
    def buffers(self) -> tuple[Entry, ...]:
        """The buffers, such as statistics of BatchNorm; they are not part of the vector."""
        return tuple(entry for entry in self.entries if entry.role == "buffer")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all trainable tensors."""
        return getattr(torch, self.parameters[0].dtype)

    @cached_property
    def size(self) -> int:
        """D, the number of trainable parameters."""
        return sum(entry.size for entry in self.parameters)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each trainable tensor lies in the vector."""
        slices: dict[str, slice] = {}
        start = 0
        for entry in self.parameters:
            slices[entry.name] = slice(start, start + entry.size)
            start += entry.size
        return slices

    @cached_property
    def prunable(self) -> Bool[Tensor, " d"]:
        """True at the positions of the vector that a mask may remove."""
        parts = [torch.full((e.size,), e.role == "weight") for e in self.parameters]
        return torch.cat(parts)

    @cached_property
    def free(self) -> list[slice]:
        """Where the vector holds what no mask may remove: the complement of `prunable`, as few slices."""
        found: list[slice] = []
        for entry in self.parameters:
            at = self.slices[entry.name]
            if entry.role == "weight":
                continue
            if found and found[-1].stop == at.start:
                at = slice(found.pop().start, at.stop)
            found.append(at)
        return found

    @cached_property
    def num_prunable(self) -> int:
        """Number of prunable weights."""
        return sum(entry.size for entry in self.weights)

    def pack(self, state: Mapping[str, Tensor]) -> Float[Tensor, "*nets d"]:
        """Flatten the trainable tensors of a state dict into vectors; buffers are left out.

        Args:
            state: Tensors by name, each with the layout's shape, or all with the same leading
                dimensions before it (a batch of networks).

        Raises:
            LayoutMismatch: A tensor is missing, unknown or of another shape; tied names differ.
        """
        checks.mapping(state, "state", "of names to tensors, such as module.state_dict()")
        self._check_names(state)
        first = self.parameters[0]
        lead = state[first.name].shape[: state[first.name].ndim - len(first.shape)]
        flat: list[Tensor] = []
        for entry in self.parameters:
            tensor = state[entry.name]
            if tensor.shape != (*lead, *entry.shape):
                raise LayoutMismatch(
                    f"tensor {entry.name!r} has shape {tuple(tensor.shape)}, expected {(*lead, *entry.shape)}"
                )
            flat.append(tensor.reshape(*lead, entry.size))
        for alias, name in self.aliases:
            if alias in state and not torch.equal(state[alias], state[name]):
                raise LayoutMismatch(f"{alias!r} and {name!r} are tied in this layout but their values differ")
        return torch.cat(flat, dim=-1)

    def unpack(self, vector: Shaped[Tensor, "*nets d"]) -> dict[str, Tensor]:
        """Vectors as named tensors (views where strides allow), with the vectors' leading dimensions kept.

        Raises:
            LayoutMismatch: The vectors are not of this layout's size.
        """
        state = self.tensors(vector)
        return state | {alias: state[name] for alias, name in self.aliases if name in state}

    def tensors(self, vector: Shaped[Tensor, "*nets d"]) -> dict[str, Tensor]:
        """As `unpack`, each tensor once, without the further names of tied weights."""
        if checks.tensor(vector, "vector").ndim == 0:
            raise checks.refuse("vector", f"a tensor with {self.size} values a network", vector)
        if vector.shape[-1] != self.size:
            raise LayoutMismatch(
                f"the vector has {vector.shape[-1]} values, this layout has {self.size} trainable "
                "parameters: it belongs to another layout"
            )
        lead = vector.shape[:-1]
        # One split, not a slice for each tensor: the gradient of a slice is a whole vector of zeros.
        parts = vector.split([entry.size for entry in self.parameters], -1)
        return {e.name: part.reshape((*lead, *e.shape)) for e, part in zip(self.parameters, parts, strict=True)}

    def require(self, other: "Layout", what: str) -> None:
        """As `require_tensors`; where other ones of them are prunable, a warning names those.

        Args:
            other: Layout to compare.
            what: Its owner, for the error.

        Raises:
            LayoutMismatch: A tensor has another name, shape, dtype, or role other than being prunable.
        """
        self.require_tensors(other, what)
        if differ := sorted({e.name for e in self.weights} ^ {e.name for e in other.weights}):
            warnings.warn(
                f"{what} differs in which tensors may be pruned ({', '.join(differ)}): networks go by the layout of "
                "their own collection; collection.replace(layout=...) gives it another",
                stacklevel=3,
            )

    def require_tensors(self, other: "Layout", what: str) -> None:
        """Raise LayoutMismatch unless `other` has the tensors of this layout, whichever of them are prunable.

        Args:
            other: Layout to compare.
            what: Its owner, for the error.

        Raises:
            LayoutMismatch: A tensor has another name, shape, dtype, or role other than being prunable.
        """
        if self == other or self.with_prunable(()) == other.with_prunable(()):
            return
        here = {(e.name, e.shape) for e in self.entries}
        there = {(e.name, e.shape) for e in other.entries}
        differs = sorted(here ^ there)
        example = f"first difference: {differs[0][0]!r} {differs[0][1]}" if differs else "their roles or dtypes differ"
        raise LayoutMismatch(
            f"{what} has another layout: {other.size} trainable parameters in "
            f"{len(other.parameters)} tensors, expected {self.size} in {len(self.parameters)} ({example})"
        )

    def to_json(self) -> dict[str, Any]:
        """The layout as data: a list [name, shape, role, dtype] for each tensor, and the tied names."""
        return {
            "entries": [[e.name, list(e.shape), e.role, e.dtype] for e in self.entries],
            "aliases": [list(pair) for pair in self.aliases],
        }

    @classmethod
    def from_json(cls, data: Any) -> "Layout":
        """The inverse of `to_json`.

        Args:
            data: The layout as data.

        Raises:
            StorageError: An entry is missing, or has a value that is none of its type.
        """
        stored = from_json(_Stored, data, "a layout")
        try:
            entries = tuple(Entry(*entry) for entry in stored.entries)
        except InputError as error:
            raise StorageError(f"a layout is damaged ({error}): restore it from a copy") from error
        names = [entry.name for entry in entries]
        wrong = [
            f"{entry.name} of shape {entry.shape} and type {entry.dtype}"
            for entry in entries
            if entry.size > _LARGEST or not isinstance(getattr(torch, entry.dtype, None), torch.dtype)
        ]
        wrong += [f"{name} twice" for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
        wrong += [f"{alias} for {name}, which is not there" for alias, name in stored.aliases if name not in names]
        wrong += [] if any(entry.role != "buffer" for entry in entries) else ["no parameters"]
        if wrong:
            raise StorageError(f"a layout is damaged (it has {wrong[0]:.200}): restore it from a copy")
        return cls(entries, stored.aliases)

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        known = {entry.name for entry in self.entries} | {alias for alias, _ in self.aliases}
        missing = [entry.name for entry in self.parameters if entry.name not in state]
        unknown = [name for name in state if name not in known]
        if missing or unknown:
            raise LayoutMismatch(
                f"the state dict does not fit the layout: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}"
            )


def _entry(value: Any, name: str) -> Entry:
    return checks.instance(value, name, Entry, "an Entry(...)")


def _pair(value: Any, name: str) -> tuple[str, str]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(one, str) for one in value):
        raise checks.refuse(name, "the name of a tied tensor and that of the entry that it is", value)
    return (value[0], value[1])


@dataclass(frozen=True)
class _Stored:
    """A layout in files: name, shape, role and dtype of each tensor, and pairs of tied names."""

    entries: tuple[tuple[str, tuple[int, ...], Role, str], ...]
    aliases: tuple[tuple[str, str], ...]

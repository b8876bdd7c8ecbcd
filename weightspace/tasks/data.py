"""Data of a task: samples in memory, read batch by batch, or different for each network."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from weightspace.errors import InputError
from weightspace.runtime import checks, devices, trees
from weightspace.runtime.trees import Tree

_READ = 1024  # samples that are read at once where all are needed
_CHECKED_BYTES = 64 * 2**20  # values that are checked at once


@runtime_checkable
class Data(Protocol):
    """Samples: inputs and targets."""

    def __len__(self) -> int:
        """Number of samples (of one network)."""
        ...

    @property
    def x(self) -> Tree:
        """All inputs; what is read batch by batch is read as a whole here."""
        ...

    @property
    def y(self) -> Tree:
        """All targets."""
        ...

    def head(self, n: int) -> "Split":
        """The first n samples, as an example."""
        ...

    def batch(self, rows: Any) -> "Split":
        """Some samples, by a slice or by their numbers."""
        ...

    def batches(self, index: Int[Tensor, "nets batch"], sets: Sequence[int | None]) -> tuple[Tree, Tree]:
        """Inputs and targets (nets, batch, ...) of a batch for each network.

        Args:
            index: Numbers of the samples.
            sets: Number of each network's own data; it is not read where all networks share the data.
        """
        ...

    def of(self, number: int | None) -> "Data":
        """The data of one network; the same for all where they share them."""
        ...

    def to(self, device: str) -> "Data":
        """The data on a device; what is read batch by batch goes there batch by batch."""
        ...

    def update(self, digest: "hashlib._Hash") -> None:
        """Add all bytes of the data to a checksum."""
        ...


@dataclass(frozen=True)
class Split:
    """Samples in memory.

    Args:
        x: Inputs (samples, ...): a tensor, a tuple of a network's inputs, or a mapping of them by name.
        y: Targets (samples, ...): a tensor, or a tuple or mapping of tensors.

    Raises:
        InputError: The numbers of samples differ, there are none, or a value is NaN or infinite.
    """

    x: Tree
    y: Tree

    def __post_init__(self) -> None:
        n, targets = (_samples(part, what) for part, what in ((self.x, "inputs x"), (self.y, "targets y")))
        if n != targets or not n:
            raise InputError(
                f"a split needs as many inputs as targets, got {n} and {targets}: give x and y one row a sample"
            )
        _require_finite(self.x, "inputs")
        _require_finite(self.y, "targets")

    def __len__(self) -> int:
        return len(trees.first(self.x))

    def __repr__(self) -> str:
        return f"Split({len(self):,} samples: x {trees.shapes(self.x)}, y {trees.shapes(self.y)})"

    def head(self, n: int) -> "Split":
        return self.batch(slice(0, checks.count(n, "n")))

    def batch(self, rows: Any) -> "Split":
        rows = check_rows(rows, len(self))
        return unchecked(trees.take(self.x, rows), trees.take(self.y, rows))

    def batches(self, index: Int[Tensor, "nets batch"], sets: Sequence[int | None]) -> tuple[Tree, Tree]:  # noqa: ARG002
        flat = index.flatten()  # index_select copies whole samples, several times faster than indexing

        def rows(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, flat).unflatten(0, index.shape)

        return trees.apply(rows, self.x), trees.apply(rows, self.y)

    def of(self, number: int | None) -> "Split":  # noqa: ARG002
        return self

    def to(self, device: str) -> "Split":
        """The split on a device."""
        if trees.first(self.x).device == devices.present(device):
            return self
        return unchecked(trees.to(self.x, device), trees.to(self.y, device))

    def update(self, digest: "hashlib._Hash") -> None:
        for name, tensor in [*trees.leaves(self.x), *trees.leaves(self.y)]:
            digest.update(name.encode())
            digest.update(_bytes(tensor))


def unchecked(x: Tree, y: Tree) -> Split:
    """A split of samples that come from another, whose values are known to be fine."""
    split = object.__new__(Split)
    object.__setattr__(split, "x", x)
    object.__setattr__(split, "y", y)
    return split


class DatasetSplit:
    """Samples of a map-style Dataset, read batch by batch.

    Args:
        dataset: Dataset of pairs (input, target): tensors, arrays or numbers, or tuples or mappings of them. Reading a
            sample twice must give the same values: random augmentation does not belong into the dataset.
        rows: Numbers of the samples that belong to the split; None for all.
        device: Device that batches are moved to.

    Raises:
        InputError: The dataset has no length or no samples, an item is no pair, or reading it is random.
    """

    def __init__(self, dataset: Dataset, rows: Tensor | None = None, *, device: str = "cpu") -> None:
        if not hasattr(dataset, "__getitem__"):
            raise checks.refuse("dataset", "a map-style Dataset of pairs (input, target)", dataset)
        if not hasattr(dataset, "__len__"):
            raise InputError("the dataset must have a length: an IterableDataset cannot be cut into splits")
        self.dataset = dataset
        devices.present(device)
        count = len(dataset)  # pyright: ignore[reportArgumentType]
        self.rows = torch.arange(count) if rows is None else torch.arange(count)[check_rows(rows, count)]
        self.device = device
        if not len(self.rows):
            raise InputError("the dataset has no samples")
        first, again = (self._read([int(self.rows[0])]) for _ in range(2))
        pairs = zip(trees.tensors((first.x, first.y)), trees.tensors((again.x, again.y)), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise InputError(
                "reading a sample of the dataset twice gives two results: take random transforms out of the dataset, "
                "and use the recipe's augmentation"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _whole(self) -> Split:
        parts = [self.batch(slice(start, start + _READ)) for start in range(0, len(self), _READ)]
        return unchecked(trees.concatenate([p.x for p in parts]), trees.concatenate([p.y for p in parts]))

    @property
    def x(self) -> Tree:
        return self._whole.x

    @property
    def y(self) -> Tree:
        return self._whole.y

    def head(self, n: int) -> Split:
        return self.batch(slice(0, checks.count(n, "n")))

    def batch(self, rows: Any) -> Split:
        return self._read(self.rows[check_rows(rows, len(self))].tolist()).to(self.device)

    def batches(self, index: Int[Tensor, "nets batch"], sets: Sequence[int | None]) -> tuple[Tree, Tree]:  # noqa: ARG002
        wanted, place = index.cpu().flatten().unique(return_inverse=True)  # several networks may read one sample
        return self.batch(wanted.long()).batches(place.view(index.shape).to(self.device), [])

    def of(self, number: int | None) -> "DatasetSplit":  # noqa: ARG002
        return self

    def to(self, device: str) -> "DatasetSplit":
        other = copy.copy(self)
        other.device = device
        other.__dict__.pop("_whole", None)
        return other

    def update(self, digest: "hashlib._Hash") -> None:
        for start in range(0, len(self), _READ):
            self.batch(slice(start, start + _READ)).to("cpu").update(digest)

    def _read(self, numbers: list[int]) -> Split:
        items = [self.dataset[number] for number in numbers]
        if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            raise InputError("each item of the dataset must be a pair (input, target)")
        try:
            x, y = (trees.stack([_as_tensors(item[side]) for item in items]) for side in (0, 1))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the dataset's items cannot be stacked ({error}): give it a transform to equal tensors"
            ) from error
        return Split(x, y)


class ArrayDataset(Dataset):
    """Rows of tensors that stay where they are, such as memory-mapped arrays.

    Args:
        x: Inputs (samples, ...), a tensor or a structure of tensors.
        y: Targets, likewise.
    """

    def __init__(self, x: Tree, y: Tree) -> None:
        self.pair = (x, y)

    def __len__(self) -> int:
        return trees.samples(self.pair[0])

    def __getitem__(self, index: int) -> tuple[Tree, Tree]:
        return trees.take(self.pair[0], index), trees.take(self.pair[1], index)


@dataclass(frozen=True)
class OwnData:
    """Each network's own samples: N sets, of which network i of a collection is trained on the i-th.

    Args:
        x: Inputs, (samples, ...) if all networks share them, else (N, samples, ...).
        y: Targets (N, samples, ...).
        shared_inputs: Whether all networks share the inputs.

    Raises:
        InputError: The numbers of sets or samples differ, or a value is NaN or infinite.
    """

    x: Tree
    y: Tree
    shared_inputs: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared_inputs", checks.flag(self.shared_inputs, "shared_inputs"))
        _samples(self.x, "inputs x")
        _samples(self.y, "targets y")
        sets = {len(tensor) for tensor in trees.tensors(self.y)}
        counts = {tensor.shape[1] if tensor.ndim > 1 else 0 for tensor in trees.tensors(self.y)}
        if self.shared_inputs:
            counts.add(trees.samples(self.x, "inputs"))
        else:
            sets |= {len(tensor) for tensor in trees.tensors(self.x)}
            counts |= {tensor.shape[1] if tensor.ndim > 1 else 0 for tensor in trees.tensors(self.x)}
        if len(sets) > 1 or len(counts) > 1 or 0 in counts | sets:
            shape = "(samples, ...)" if self.shared_inputs else "(networks, samples, ...)"
            raise InputError(
                f"own data need inputs {shape} and targets (networks, samples, ...), got {trees.shapes(self.x)} and "
                f"{trees.shapes(self.y)}"
            )
        _require_finite(self.x, "inputs")
        _require_finite(self.y, "targets")

    @property
    def sets(self) -> int:
        """Number of sets, which is the most networks that a collection can have."""
        return len(trees.first(self.y))

    def __len__(self) -> int:
        return trees.first(self.y).shape[1]

    def head(self, n: int) -> Split:
        return self.of(0).head(n)

    def batch(self, rows: Any) -> Split:  # noqa: ARG002
        raise InputError(
            "each network of this task has data of its own: this needs a task whose networks share their data"
        )

    def batches(self, index: Int[Tensor, "nets batch"], sets: Sequence[int | None]) -> tuple[Tree, Tree]:
        number = torch.tensor([self._checked(one) for one in sets], device=index.device)[:, None]
        index = index.long()
        x = trees.take(self.x, index if self.shared_inputs else (number, index))
        return x, trees.take(self.y, (number, index))

    def of(self, number: int | None) -> Split:
        checked = self._checked(number)
        return unchecked(self.x if self.shared_inputs else trees.take(self.x, checked), trees.take(self.y, checked))

    def to(self, device: str) -> "OwnData":
        if trees.first(self.y).device == torch.device(device):
            return self
        return OwnData(trees.to(self.x, device), trees.to(self.y, device), self.shared_inputs)

    def update(self, digest: "hashlib._Hash") -> None:
        unchecked(self.x, self.y).update(digest)

    def _checked(self, number: int | None) -> int:
        if number is None or not 0 <= number < self.sets:
            raise InputError(
                f"the task has data for networks 0 to {self.sets - 1}, and none for network {number}: a record says "
                'which data are a network\'s by its "data", or else by its "index"'
            )
        return number


def check_rows(rows: Any, count: int) -> slice | Tensor:
    """Numbers of samples: a slice, whole numbers, or one True or False a sample.

    Args:
        rows: What was got.
        count: Number of samples.

    Raises:
        InputError: It is none of these, or a number is not that of a sample.
    """
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, list | tuple | range | np.ndarray):
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):
            rows = torch.as_tensor(rows if isinstance(rows, np.ndarray) else list(rows))
            rows = rows if rows.numel() else rows.long()
    wanted = f"a slice, a list of numbers below {count}, or a mask of {count} samples"
    if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.is_floating_point() or rows.is_complex() or rows.is_meta:
        raise checks.refuse("rows", wanted, rows)
    if rows.dtype == torch.bool:
        if len(rows) != count:
            raise checks.refuse("rows", wanted, rows)
        return rows
    rows = rows.long()
    if rows.numel() and not -count <= int(rows.min()) <= int(rows.max()) < count:
        raise InputError(f"rows must be {wanted}, got numbers from {int(rows.min())} to {int(rows.max())}")
    return rows


def _samples(tree: Tree, what: str) -> int:
    if not trees.tensors(tree):
        raise InputError(f"{what} must hold tensors, got {checks.shown(tree)}: convert arrays with torch.as_tensor")
    return trees.samples(tree, what)


def _require_finite(tree: Tree, what: str) -> None:
    for name, tensor in trees.leaves(tree):
        if not tensor.is_floating_point():
            continue
        rows = max(1, _CHECKED_BYTES // max(1, tensor[0].numel() * tensor.element_size()))
        if not all(part.isfinite().all() for part in tensor.split(rows)):
            named = f"the {what}" + (f" {name!r}" if name else "")
            raise InputError(f"{named} hold NaN or infinite values: clean the data first")


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor of any dtype, bfloat16 included, which NumPy lacks."""
    whole = tensor.detach().cpu().contiguous()
    return whole.numpy().data if whole.dtype is not torch.bfloat16 else whole.view(torch.int16).numpy().data


def _as_tensors(item: Any) -> Tree:
    if isinstance(item, Mapping):
        return {name: _as_tensors(part) for name, part in item.items()}
    return tuple(map(_as_tensors, item)) if isinstance(item, tuple) else torch.as_tensor(item)

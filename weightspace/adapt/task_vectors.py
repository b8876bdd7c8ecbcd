"""Task vectors: what training changed in networks, as collections.

Ilharco et al. 2023, "Editing Models with Task Arithmetic" (arXiv 2212.04089); sparse ones as in Panda et al. 2024,
"Lottery Ticket Adaptation" (arXiv 2406.16797).
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Entry, Layout
from weightspace.networks.record import TASK_VECTOR, Extra
from weightspace.networks.selection import matching
from weightspace.runtime import checks

KIND = TASK_VECTOR
"""The kind in the records of task vectors."""


class TaskVectors(Collection):
    """Changes of networks from the ones that training began at: weights are changes, masks say what was trained.

    They are saved, loaded, sliced, compressed and compared like every collection. Buffers are changes too; those that
    count, as BatchNorm's batches, have none. `extras["trained"]` is one where a parameter was trained, and zero where
    it stays as it is in the base.
    """

    @classmethod
    def between(cls, networks: Collection, base: Collection) -> "TaskVectors":
        """The changes that lead from a base to networks.

        Args:
            networks: Networks after training.
            base: Networks before, as many or one for all.

        Raises:
            LayoutMismatch: They are of different layouts.
            InputError: They are sparse, or their numbers do not fit.
        """
        check_networks(networks)
        check_networks(base, "base")
        base.layout.require_tensors(networks.layout, "the networks after training")
        _require_dense(networks, "the networks after training")
        _require_dense(base, "the base")
        if len(base) not in (1, len(networks)):
            raise InputError(
                f"got {len(networks)} networks and {len(base)} bases: give one base for each network, or one for all"
            )
        _, rows = paired(len(networks), len(base), "networks and bases")
        changes = networks.weights - base.weights[rows]
        trained = networks.extras.get(Extra.TRAINED, (changes != 0).to(changes.dtype))
        buffers: dict[str, Tensor] = {}
        for name, buffer in networks.buffers.items():
            moves = buffer.is_floating_point()
            buffers[name] = buffer - base.buffers[name][rows] if moves else torch.zeros_like(buffer)
        return cls(
            networks.layout,
            changes,
            architecture=networks.architecture,
            masks=(trained != 0) | ~networks.layout.prunable,
            buffers=buffers,
            extras={Extra.TRAINED: trained},
            records=[record | {"kind": KIND} for record in networks.records],
        )

    @classmethod
    def load(cls, folder: str | Path, **options: object) -> "TaskVectors":
        """Open a saved collection of task vectors, or of samples of a generator of such.

        Args:
            folder: Folder that `save` wrote.
            options: Options of `Collection.load`.

        Raises:
            StorageError: The folder is no collection, or one of other networks.
        """
        loaded = super().load(folder, **options)  # pyright: ignore[reportArgumentType]
        other = [record.kind for record in loaded.records if KIND not in (record.kind, record.get("of"))]
        if other:
            raise StorageError(
                f"{folder} holds networks (kind {other[0]!r}), not task vectors: open it with Collection.load, and "
                "take TaskVectors.between(networks, base)"
            )
        return loaded

    @classmethod
    def of(cls, samples: Collection) -> "TaskVectors":
        """Samples of a generator that was fitted to task vectors, as task vectors: put them on their base.

        Args:
            samples: What `sample`, `decode` or `interpolate` of the generator returned.

        Raises:
            InputError: They are networks, not changes of networks.
        """
        check_networks(samples, "samples")
        other = [record for record in samples.records if KIND not in (record.kind, record.get("of"))]
        if other:
            raise InputError(
                "samples must be of a generator that was fitted to task vectors, got networks (kind "
                f"{other[0].kind!r}): take TaskVectors.between(networks, base)"
            )
        return cls(
            samples.layout,
            samples.weights,
            architecture=samples.architecture,
            masks=None if samples.dense else samples.masks,
            buffers=samples.buffers,
            extras=samples.extras,
            records=[record | {"kind": KIND} for record in samples.records],
        )

    @property
    def trained(self) -> Bool[Tensor, "n d"]:
        """True where a parameter was trained, biases and norms included, (n, D)."""
        extras = self.extras
        return extras[Extra.TRAINED] != 0 if Extra.TRAINED in extras else self.weights != 0

    def only(self, *names: str) -> "TaskVectors":
        """The same changes in some tensors, and none in the others.

        Args:
            names: Names of tensors, or globs such as "encoder.*".

        Raises:
            InputError: A glob matches nothing, or there are none.
        """
        checks.several(names, "names", checks.text)
        if not names:
            raise InputError('names are empty: name the tensors to keep, or globs such as only("encoder.*")')
        kept = torch.zeros(self.layout.size, dtype=torch.bool)
        for name in parameters_named(self.layout, names):
            kept[self.layout.slices[name]] = True
        trained = self.trained & kept
        return self.replace(
            weights=self.weights * kept,
            masks=trained | ~self.layout.prunable,
            extras={Extra.TRAINED: trained.to(self.weights.dtype)},
        )

    def on(self, base: Collection, *, scale: float = 1.0) -> Collection:
        """Networks with these changes; parameters without a change are the base's, bit for bit.

        Tensors are matched by name and shape: the base may have another head. What is left out is said in a warning.

        Args:
            base: Networks to change, as many as there are vectors or one for all; one vector changes all of them.
            scale: Factor of the changes.

        Raises:
            InputError: The base is sparse, the numbers do not fit, no tensor is the same, or the scale is no number.
        """
        scale = checks.number(scale, "scale")
        check_networks(base, "base")
        _require_dense(base, "the base")
        own, at = paired(len(self), len(base), "task vectors and networks of the base")
        changes = self.changes_for(base.layout)[own]
        before = base.weights[at]
        buffers = {name: buffer[at] for name, buffer in base.buffers.items()}
        for name, change in self.buffers.items():
            if name in buffers and buffers[name].shape[1:] == change.shape[1:] and change.is_floating_point():
                buffers[name] = torch.where(change[own] == 0, buffers[name], buffers[name] + scale * change[own])
        records = [
            base.records[int(i)].without("aligned", "metrics")
            | {"kind": "adapted", "start": "given", "adapted": {"scale": scale, **self.records[int(j)].to_json()}}
            for i, j in zip(at, own, strict=True)
        ]
        return Collection(
            base.layout,
            torch.where(changes == 0, before, before + scale * changes),  # -0.0 + 0.0 would be another zero
            architecture=base.architecture,
            buffers=buffers,
            records=records,
        )

    def changes_for(self, layout: Layout) -> Float[Tensor, "n d"]:
        """The changes of tensors that another layout has too, at its places; zero for its other tensors.

        Args:
            layout: Layout of the networks to change.

        Raises:
            InputError: No tensor is the same.
        """
        checks.instance(layout, "layout", Layout, "a Layout, such as networks.layout")
        return moved_to(self.weights, self.layout, layout, "the task vectors")


def check_globs(value: Any, name: str) -> tuple[str, ...]:
    """Names or globs of tensors as a tuple; one alone may be a text.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is something else.
    """
    return tuple(checks.several((value,) if isinstance(value, str) else value, name, checks.text))


def check_vectors(value: Any, name: str) -> TaskVectors:
    """Task vectors.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is something else.
    """
    return checks.instance(value, name, TaskVectors, "TaskVectors, such as TaskVectors.between(networks, base)")


def moved_to(vectors: Tensor, layout: Layout, other: Layout, what: str) -> Tensor:
    """Vectors of one layout at the places of another; tensors that both have move, others are zero.

    Args:
        vectors: Vectors (n, D) of the first layout.
        layout: The first layout.
        other: Layout of the result.
        what: What the vectors are, for messages.

    Raises:
        InputError: No tensor is the same.
    """
    theirs = {entry.name: entry for entry in other.parameters}
    result = vectors.new_zeros(len(vectors), other.size)
    absent: list[str] = []
    for entry in layout.parameters:
        match = theirs.get(entry.name)
        if match is None or match.shape != entry.shape:
            if bool(vectors[:, layout.slices[entry.name]].any()):
                absent.append(_described(entry, match))
        else:
            result[:, other.slices[entry.name]] = vectors[:, layout.slices[entry.name]]
    shared = [e for e in layout.parameters if (match := theirs.get(e.name)) is not None and match.shape == e.shape]
    if not shared:
        raise InputError(
            f"no tensor of {what} has the name and the shape of one in the network: were they made for another one?"
        )
    if absent:
        warnings.warn(f"left out of {what}, as the network has no such tensor: {', '.join(absent)}", stacklevel=3)
    return result


def parameters_named(layout: Layout, globs: Sequence[str]) -> list[str]:
    """Names of the parameters that globs match, in the order of the layout.

    Args:
        layout: Layout of the networks.
        globs: Names or globs.

    Raises:
        InputError: A glob matches no parameter; the message lists near names.
    """
    names = [entry.name for entry in layout.parameters]
    chosen = matching(globs, names, {name: name for name in names}, "a parameter")
    return [name for name in names if name in chosen]


def paired(first: int, second: int, what: str) -> tuple[Tensor, Tensor]:
    """Rows of two collections that go together one by one; one row goes with all.

    Args:
        first: Number of the first.
        second: Number of the second.
        what: What they are, for the message.

    Raises:
        InputError: The numbers differ, and neither is one.
    """
    if first != second and 1 not in (first, second):
        raise InputError(f"{what} go together one by one, got {first} and {second}: give as many, or one for all")
    count = max(first, second)
    one, other = (torch.arange(n) if n == count else torch.zeros(count, dtype=torch.long) for n in (first, second))
    return one, other


def joined_records(records: Sequence[Mapping[str, object]], method: Mapping[str, object]) -> dict[str, object]:
    """The record of a vector that was made of several.

    Args:
        records: Records of the several vectors.
        method: Name and settings of the merging.
    """
    first = records[0]
    kept = {key: first[key] for key in ("index", "seed") if key in first}
    return kept | {"kind": KIND, "method": dict(method), "parents": [dict(record) for record in records]}


def _require_dense(networks: Collection, what: str) -> None:
    if not networks.dense:
        raise InputError(
            f"{what} must be dense, got sparse networks: masks of networks mean zero, those of task vectors no change. "
            "Use networks.replace(masks=None)"
        )


def _described(entry: Entry, other: Entry | None) -> str:
    return entry.name if other is None else f"{entry.name} {entry.shape} for {other.shape}"

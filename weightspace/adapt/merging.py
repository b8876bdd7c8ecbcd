"""Merge task vectors into one that serves all their tasks.

Task arithmetic: Ilharco et al. 2023 (arXiv 2212.04089). TIES: Yadav et al. 2023 (arXiv 2306.01708). DARE: Yu et al.
2024 (arXiv 2311.03099).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.adapt.task_vectors import TaskVectors, check_vectors, joined_records, moved_to
from weightspace.errors import InputError
from weightspace.masks.top_k import _keep_top
from weightspace.networks.record import Extra
from weightspace.runtime import checks, seeds


class Merger(ABC):
    """A way to merge: a frozen dataclass with the method `merged`; `fit` does the rest."""

    @abstractmethod
    def merged(self, changes: Float[Tensor, "vectors n d"]) -> Float[Tensor, "n d"]:
        """One change of each network from several.

        Args:
            changes: Changes (vectors, n, D).
        """

    def fit(self, vectors: Sequence[TaskVectors]) -> TaskVectors:
        """One task vector for each network: network i of the result merges network i of all the vectors.

        Tensors are matched by name and shape, and the result has the layout of the first: other heads are left out,
        with a warning. Use `on(base)` of the result.

        Args:
            vectors: Task vectors, as many networks in each.

        Raises:
            InputError: There are no vectors, or their numbers differ.
        """
        vectors = checks.several(vectors, "vectors", check_vectors)
        if not vectors:
            raise InputError("vectors are empty, nothing to merge: give at least one collection of task vectors")
        first = vectors[0]
        if any(len(vector) != len(first) for vector in vectors):
            counts = ", ".join(str(len(vector)) for vector in vectors)
            raise InputError(f"network i is merged with network i, got {counts} networks: give as many of each task")
        changes = torch.stack(
            [moved_to(v.weights, v.layout, first.layout, f"task vector {i}") for i, v in enumerate(vectors)]
        )
        weights = self.merged(changes)
        return TaskVectors(
            first.layout,
            weights,
            architecture=first.architecture,
            masks=(weights != 0) | ~first.layout.prunable,
            buffers=_merged_buffers(vectors),
            extras={Extra.TRAINED: (weights != 0).to(weights.dtype)},
            records=[
                joined_records([vector.records[i] for vector in vectors], self._method()) for i in range(len(first))
            ],
        )

    def _method(self) -> Mapping[str, Any]:
        return {"name": type(self).__name__, **asdict(self)}  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Sum(Merger):
    """The sum of the vectors; enough where they are sparse and hardly meet, as LoTA's."""

    def merged(self, changes: Float[Tensor, "vectors n d"]) -> Float[Tensor, "n d"]:
        """One change of each network from several.

        Args:
            changes: Changes (vectors, n, D).
        """
        return changes.sum(0)


@dataclass(frozen=True)
class TaskArithmetic(Merger):
    """The sum of the vectors times one factor.

    Args:
        scale: Factor, usually between 0.1 and 1; choose it on validation data, with `compare`.

    Raises:
        InputError: The scale is no finite number.
    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "scale")

    def merged(self, changes: Float[Tensor, "vectors n d"]) -> Float[Tensor, "n d"]:
        """One change of each network from several.

        Args:
            changes: Changes (vectors, n, D).
        """
        return self.scale * changes.sum(0)


@dataclass(frozen=True)
class TIES(Merger):
    """Trim, elect signs, merge: the largest entries of each vector, and of these the mean of those with the sign of
    their sum.

    Exactly round(density * D) entries of each vector are kept, of equal ones the first. Where the trimmed entries sum
    to zero, nothing changes.

    Args:
        density: Fraction of each vector's entries that is kept, in (0, 1].
        scale: Factor of the result.

    Raises:
        InputError: The density lies outside (0, 1], or the scale is no finite number.
    """

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.settle(self, checks.fraction, "density")
        checks.settle(self, checks.number, "scale")

    def merged(self, changes: Float[Tensor, "vectors n d"]) -> Float[Tensor, "n d"]:
        """One change of each network from several.

        Args:
            changes: Changes (vectors, n, D).
        """
        count = max(1, round(self.density * changes.shape[-1]))
        trimmed = torch.stack([change * _keep_top(change.abs(), count, "a task vector") for change in changes])
        elected = trimmed.sum(0).sign()
        agreeing = trimmed * ((trimmed.sign() == elected) & (elected != 0))
        return self.scale * agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


@dataclass(frozen=True)
class DARE(Merger):
    """Drop entries at random, enlarge the others so that the mean stays, and merge.

    Args:
        drop: Fraction of entries that is dropped, in [0, 1).
        then: How what is left is merged.
        seed: Seed of what is dropped.

    Raises:
        InputError: The fraction lies outside [0, 1).
    """

    drop: float = 0.9
    then: Merger = field(default_factory=Sum)
    seed: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "drop", at_least=0, below=1)
        checks.settle(self, checks.instance, "then", kinds=Merger, wanted="a way to merge, such as Sum()")
        checks.settle(self, checks.seed, "seed")

    def merged(self, changes: Float[Tensor, "vectors n d"]) -> Float[Tensor, "n d"]:
        """One change of each network from several.

        Args:
            changes: Changes (vectors, n, D).
        """
        left = torch.empty_like(changes)
        for i, rows in enumerate(changes):
            for j, row in enumerate(rows):
                draw = seeds.generator(self.seed, f"DARE of vector {i}", j)
                kept = torch.rand(row.shape, generator=draw) >= self.drop
                left[i, j] = row * kept / (1 - self.drop)
        return self.then.merged(left)


def _merged_buffers(vectors: Sequence[TaskVectors]) -> dict[str, Tensor]:
    """The mean change of each buffer over the vectors that have it."""
    merged: dict[str, Tensor] = {}
    for name, buffer in vectors[0].buffers.items():
        all_of_them = [v.buffers[name] for v in vectors if name in v.buffers and v.buffers[name].shape == buffer.shape]
        moves = buffer.is_floating_point()
        merged[name] = torch.stack(all_of_them).mean(0) if moves else torch.zeros_like(buffer)
    return merged

"""Column blocks: some parameters of all networks at a time, so that D is bounded by disk and not by memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.runtime import checks

_BYTES = 256 * 2**20  # of a block, in float64


@dataclass(frozen=True)
class Columns:
    """Vectors (N, D) that are read a block of columns at a time.

    Args:
        source: A tensor (N, D) in memory, or a collection, whose weights stay on disk.
    """

    source: Float[Tensor, "n d"] | Collection

    def __post_init__(self) -> None:
        if not isinstance(self.source, Collection):
            checks.tensor(self.source, "vectors", shape=("networks", "parameters"), floating=True)
            checks.count(len(self.source), "the number of vectors", at_least=1)
            object.__setattr__(self, "source", self.source.detach())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors N, and their length D."""
        if isinstance(self.source, Collection):
            return len(self.source), self.source.layout.size
        return self.source.shape[0], self.source.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.source.layout.dtype if isinstance(self.source, Collection) else self.source.dtype

    def require_finite(self) -> None:
        """Check vectors in memory; a collection checks its own.

        Raises:
            InputError: A vector is NaN or infinite.
        """
        if isinstance(self.source, Collection) or all(end.isfinite() for end in torch.aminmax(self.source)):
            return
        bad = (~self.source.isfinite()).nonzero()[0].tolist()
        raise InputError(
            f"vectors must be finite: vector {bad[0]} is NaN or infinite at {bad[1]}: leave diverged networks out"
        )

    def blocks(self, device: str | torch.device) -> Iterator[tuple[slice, Float[Tensor, "n b"]]]:
        """Slices of columns with their values, (N, columns), in float64.

        Args:
            device: Device that the values of each block are brought to.
        """
        n, d = self.shape
        width = max(1, _BYTES // (8 * n))
        for start in range(0, d, width):
            at = slice(start, min(start + width, d))
            part = self.source.weight_columns(at) if isinstance(self.source, Collection) else self.source[:, at]
            yield at, part.to(device).double()

    def rows(self, device: str | torch.device) -> Iterator[Float[Tensor, "b d"]]:
        """Blocks of whole vectors, (vectors, D), in float64.

        Args:
            device: Device that the values of each block are brought to.
        """
        n, d = self.shape
        height = max(1, _BYTES // (8 * d))
        for start in range(0, n, height):
            part = self.source[start : start + height]
            yield (part.weights if isinstance(part, Collection) else part).to(device).double()

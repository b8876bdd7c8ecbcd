"""Lines of adapters: which rows of B and columns of A of each layer are trained, and how many.

Damirchi et al. 2025, partial low-rank adaptation (arXiv 2512.22495).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime import seeds

Choice = Literal["random", "scored"]
"""Which lines of a layer are trained: any, or those that carry most of the base's top singular subspace."""

Sides = tuple[Float[Tensor, " out"], Float[Tensor, " in"]]
"""A number for each row of B, and one for each column of A."""


@dataclass(frozen=True)
class Lines:
    """What is trained of the adapter of one layer.

    Args:
        rows: True at the rows of B that are trained, (out,).
        columns: True at the columns of A that are trained, (in,).
    """

    rows: Bool[Tensor, " out"]
    columns: Bool[Tensor, " in"]

    @property
    def count(self) -> int:
        """Number of rows and columns; each has as many numbers as the adapter's rank."""
        return int(self.rows.sum()) + int(self.columns.sum())


def line_scores(weight: Float[Tensor, "out in"], subspace: int) -> Sides:
    """How much of a weight's top singular subspace lies in each of its rows and columns.

    The score of row i is the squared norm of row i of U_k S_k, that of column j the one of column j of S_k V_k'.

    Args:
        weight: Weight of a linear layer.
        subspace: Number k of singular vectors.
    """
    left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
    k = min(subspace, len(sizes))
    return (left[:, :k] * sizes[:k]).square().sum(1), (sizes[:k, None] * right[:k]).square().sum(0)


def top_lines(scores: Sides, counts: tuple[int, int]) -> Lines:
    """The lines with the highest scores, of equal ones the first.

    Args:
        scores: A score for each row and column.
        counts: Number of rows and of columns.
    """
    chosen: list[Tensor] = []
    for score, count in zip(scores, counts, strict=True):
        kept = torch.zeros(len(score), dtype=torch.bool)
        kept[score.sort(descending=True, stable=True).indices[:count]] = True
        chosen.append(kept)
    return Lines(*chosen)


def random_lines(counts: tuple[int, int], sizes: tuple[int, int], seed: int, layer: str) -> Lines:
    """Any lines of a layer, by a seed.

    Args:
        counts: Number of rows and of columns.
        sizes: Numbers of all rows and columns.
        seed: Seed of the adapter.
        layer: Name of the layer, so that each has its own.
    """
    draw = seeds.generator(seed, f"lines of {layer}")
    rows, columns = (torch.rand(size, generator=draw).double() for size in sizes)
    return top_lines((rows, columns), counts)


def counts_of(
    ratios: Mapping[str, float], sizes: Mapping[str, tuple[int, int]], density: float | None
) -> dict[str, tuple[int, int]]:
    """Number of rows and columns of each layer.

    Args:
        ratios: Share of the lines of each layer that is wanted.
        sizes: Numbers of all rows and columns of each layer.
        density: Share of all lines; the ratios are then multiplied by one factor, so that exactly
            round(density * lines) are trained, and at least one on each side of each layer. None takes the ratios as
            they are, rounded up.

    Raises:
        InputError: The density is too small for a line on each side of each layer.
    """
    wanted = [(name, side, ratios[name] * size) for name in ratios for side, size in enumerate(sizes[name])]
    limits = [sizes[name][side] for name, side, _ in wanted]
    if density is None:
        given = [min(limit, max(1, _rounded_up(value))) for (_, _, value), limit in zip(wanted, limits, strict=True)]
    else:
        total = round(density * sum(limits))
        if total < len(limits):
            raise InputError(
                f"a density of {density:g} trains {total} rows and columns of {len(limits) // 2} layers, which need at "
                f"least one of each: ask for at least {len(limits) / sum(limits):.2g}"
            )
        given = _shared_out(total, [value for _, _, value in wanted], limits)
    counts = {name: [0, 0] for name in ratios}
    for (name, side, _), count in zip(wanted, given, strict=True):
        counts[name][side] = count
    return {name: (rows, columns) for name, (rows, columns) in counts.items()}


def _shared_out(total: int, wanted: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Whole numbers from 1 to the limits with this sum, as near to a multiple of what is wanted as can be."""

    def cut(factor: float) -> list[float]:
        return [min(float(limit), max(1.0, factor * value)) for value, limit in zip(wanted, limits, strict=True)]

    low, high = 0.0, max(limit / value for value, limit in zip(wanted, limits, strict=True))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(cut(middle)) < total else (low, middle)
    exact = cut(high)
    given = [int(value) for value in exact]
    rest = sorted(range(len(exact)), key=lambda i: given[i] - exact[i])  # the largest remainders first
    while (left := total - sum(given)) > 0:
        for i in [i for i in rest if given[i] < limits[i]][:left]:
            given[i] += 1
    return given


def _rounded_up(value: float) -> int:
    return int(-(-round(value, 9) // 1))

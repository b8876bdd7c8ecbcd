"""Patterns: which weights a sparse network may keep. Scores in, mask out.

A mask is a boolean vector beside the weights, True where a weight is kept. Only prunable weights
(see :class:`weightspace.Layout`) can be False. For given scores the masks of one pattern are nested:
a lower density keeps a subset.
"""

import heapq
import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.layout import Layout


@runtime_checkable
class Pattern(Protocol):
    """A rule that turns scores into masks; the highest scores are kept."""

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network: True where the weight is kept, always True off the weights.

        Args:
            scores: one score per position of the vector; only prunable positions are read.
            within: earlier masks; what they pruned stays pruned.

        Raises:
            InputError: scores are NaN, or the pattern asks for more than can be kept.
        """
        ...


@dataclass(frozen=True)
class Unstructured:
    """Keep exactly round(density * prunable) single weights.

    Args:
        density: fraction kept, in (0, 1].
        scope: "global" ranks all prunable weights of a network together, "layer" keeps the same
            fraction of every layer (rounded so that the total is still exact).
    """

    density: float
    scope: Literal["global", "layer"] = "global"

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.scope not in ("global", "layer"):
            raise InputError(f"scope must be 'global' or 'layer', got {self.scope!r}")

    def count(self, layout: Layout) -> int:
        """The exact number of weights kept in every network."""
        count = round(self.density * layout.num_prunable)
        if count < 1:
            raise InputError(
                f"density {self.density} keeps none of {layout.num_prunable} prunable weights: "
                f"ask for at least {1 / layout.num_prunable:.2g}"
            )
        return count

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        scores = _usable(scores, layout, within)
        total = self.count(layout)
        if self.scope == "global":
            mask = _keep_top(scores, total, "the network")
            for at in layout.free:
                mask[..., at] = True
            return mask
        counts = _apportion([entry.size for entry in layout.parameters if entry.role == "weight"], total)
        return _keep_counts(scores, layout, counts)


@dataclass(frozen=True)
class NM:
    """Keep at most n of every m consecutive weights along the input dimension (2:4 is NM(2, 4)).

    A last, shorter group of r < m inputs keeps min(n, r). In a convolution the groups run along the
    input channels.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise InputError(f"N:M needs 1 <= N <= M, got {self.n}:{self.m}")

    @classmethod
    def of(cls, text: str) -> "NM":
        """Read the notation "2:4"."""
        n, colon, m = text.partition(":")
        if not (colon and n.isdigit() and m.isdigit()):
            raise InputError(f"an N:M pattern is written like 2:4, got {text!r}")
        return cls(int(n), int(m))

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        scores = _usable(scores, layout, within)
        mask = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        lead = scores.shape[:-1]
        for entry in layout.parameters:
            if entry.role != "weight":
                continue
            at = layout.slices[entry.name]
            rows = scores[..., at].reshape(*lead, *entry.shape)
            rows = rows.movedim(len(lead) + 1, -1) if len(entry.shape) > 1 else rows
            inputs = rows.shape[-1]
            groups = math.ceil(inputs / self.m)
            # Padding ranks below every real weight and is cut off again.
            padded = rows.new_full((*rows.shape[:-1], groups * self.m), -math.inf)
            padded[..., :inputs] = rows
            best = _top_few(padded.unflatten(-1, (groups, self.m)), self.n).flatten(-2)
            kept = (best & (padded > -math.inf))[..., :inputs]
            kept = kept.movedim(-1, len(lead) + 1) if len(entry.shape) > 1 else kept
            mask[..., at] = kept.reshape(*lead, entry.size)
        return mask


@dataclass(frozen=True)
class Channels:
    """Keep round(density * units), at least one, whole output units of every layer but the last.

    A unit's score is the sum of its weights' scores. The output layer keeps all its units.
    """

    density: float

    def __post_init__(self) -> None:
        check_density(self.density)

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        scores = _usable(scores, layout, within)
        mask = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        weights = [entry for entry in layout.parameters if entry.role == "weight"]
        for entry in weights[:-1]:
            at = layout.slices[entry.name]
            units = scores[..., at].unflatten(-1, (entry.shape[0], -1))
            keep = max(1, round(self.density * entry.shape[0]))
            # Weights that are out of the question count as nothing; a unit without any other ranks last.
            total = units.masked_fill(units == -math.inf, 0.0).sum(-1)
            kept = _top(total.masked_fill((units == -math.inf).all(-1), -math.inf), keep)
            mask[..., at] = kept[..., None].expand_as(units).flatten(-2)
        return mask if within is None else mask & within


@runtime_checkable
class Stepwise(Protocol):
    """A pattern that knows the patterns on the way to it."""

    def steps(self, rate: float) -> list[Pattern]: ...


def density_of(pattern: Pattern) -> float | None:
    """Fraction of the weights that a pattern keeps, where it says so."""
    if isinstance(pattern, NM):
        return pattern.n / pattern.m
    return pattern.density if isinstance(pattern, Unstructured) else None


def steps_to(goal: Pattern, rate: float, start: float = 1.0) -> list[Pattern]:
    """The patterns of iterative pruning, the goal last.

    Args:
        goal: where it ends.
        rate: fraction of what is left that each step removes; of M, at least one weight more in each group.
        start: density before the first step.
    """
    if isinstance(goal, NM):
        left = [goal.m]
        while left[-1] > goal.n:
            left.append(max(goal.n, min(left[-1] - 1, math.floor(left[-1] * (1 - rate)))))
        return [NM(n, goal.m) for n in left[1:]] or [goal]
    if isinstance(goal, Unstructured | Channels):
        return [replace(goal, density=density) for density in densities_to(goal.density, rate, start)]
    return goal.steps(rate) if isinstance(goal, Stepwise) else [goal]


def densities_to(density: float, rate: float, start: float = 1.0) -> list[float]:
    """Densities of iterative pruning: each removes the fraction `rate` of what is left, the last less if need be."""
    found: list[float] = []
    while not found or found[-1] > density:
        following = (found[-1] if found else start) * (1 - rate)
        # What rounding leaves above the goal is not worth a level.
        found.append(density if following <= density * (1 + 1e-9) else following)
    return found


def check_density(density: float) -> None:
    """Raise InputError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise InputError(
            f"density is the fraction of weights kept and must lie in (0, 1], got {density!r} "
            "(sparsity 0.9 is density 0.1)"
        )


def keep_counts(
    scores: Float[Tensor, "*nets d"], layout: Layout, counts: list[int], within: Bool[Tensor, "*nets d"] | None = None
) -> Bool[Tensor, "*nets d"]:
    """The highest scores of each weight tensor, so many of each; see :meth:`Pattern.mask`."""
    return _keep_counts(_usable(scores, layout, within), layout, counts)


def _keep_counts(scores: Tensor, layout: Layout, counts: list[int]) -> Tensor:
    mask = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    weights = [entry for entry in layout.parameters if entry.role == "weight"]
    for entry, count in zip(weights, counts, strict=True):
        at = layout.slices[entry.name]
        mask[..., at] = _keep_top(scores[..., at], count, f"tensor {entry.name!r}")
    return mask


def _usable(scores: Tensor, layout: Layout, within: Tensor | None) -> Tensor:
    """Scores of the weights that may be kept, -inf elsewhere."""
    if scores.shape[-1] != layout.size:
        raise InputError(f"scores have {scores.shape[-1]} values a network, the layout has {layout.size}")
    usable = scores.clone() if within is None else scores.masked_fill(~within, -math.inf)
    for at in layout.free:
        usable[..., at] = -math.inf
    # The largest is NaN if any score is; only then look at each.
    if not usable.amax(-1).isfinite().all() and scores[..., layout.prunable.to(scores.device)].isnan().any():
        raise InputError("scores contain NaN: a mask cannot be chosen from them")
    return usable


def _keep_top(scores: Float[Tensor, "*lead p"], count: int, where: str) -> Bool[Tensor, "*lead p"]:
    """The `count` largest finite scores along the last axis; of equal scores the first come first."""
    if count == 0 or not scores.numel():
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    threshold = _threshold(scores, count)
    if threshold.amin() == -math.inf:
        available = int((scores > -math.inf).sum(-1).min())
        raise InputError(
            f"asked to keep {count} weights of {where}, but only {available} are left: ask for a lower density"
        )
    return _at_least(scores, threshold, count)


def _top(scores: Float[Tensor, "*lead p"], count: int) -> Bool[Tensor, "*lead p"]:
    """The `count` largest along the last axis, of those that are -inf too."""
    return _at_least(scores, _threshold(scores, count), count)


def _top_few(scores: Float[Tensor, "*lead m"], count: int) -> Bool[Tensor, "*lead m"]:
    """As `_top`, for very many short rows: each position counts those that come before it, pair by pair."""
    columns = scores.unbind(-1)
    before = [torch.zeros(scores.shape[:-1], dtype=torch.int16, device=scores.device) for _ in columns]
    for j in range(1, len(columns)):
        for i in range(j):
            larger = columns[j] > columns[i]
            before[i] += larger
            before[j] += ~larger  # of equal scores the first come first
    return torch.stack([own < count for own in before], -1)


def _at_least(
    scores: Float[Tensor, "*lead p"], threshold: Float[Tensor, "*lead 1"], count: int
) -> Bool[Tensor, "*lead p"]:
    kept = scores >= threshold
    if _all_count(kept, count):
        return kept
    above = scores > threshold
    ties = scores == threshold
    wanted = count - above.sum(-1, keepdim=True)
    return above | (ties & (ties.cumsum(-1) <= wanted))


def _all_count(mask: Bool[Tensor, "*lead p"], count: int) -> bool:
    """Does every row have so many True?"""
    if mask.device.type != "cpu":
        return bool((mask.sum(-1) == count).all())
    # Summing booleans along rows is slow in torch, and counting them in NumPy is not.
    return all(np.count_nonzero(row) == count for row in mask.reshape(-1, mask.shape[-1]).numpy())


def _threshold(scores: Float[Tensor, "*lead p"], count: int) -> Float[Tensor, "*lead 1"]:
    """The `count`-th largest score along the last axis."""
    at = scores.shape[-1] - count
    if scores.device.type != "cpu" or scores.dtype is torch.bfloat16:
        return scores.kthvalue(at + 1, dim=-1, keepdim=True).values
    # NumPy's selection is vectorised, and tens of times faster than kthvalue or topk.
    return torch.as_tensor(np.partition(scores.detach().numpy(), at, axis=-1)[..., at : at + 1])


def _apportion(sizes: list[int], total: int) -> list[int]:
    """Divide `total` over layers in proportion to their sizes (Webster's method).

    Largest remainders would be simpler, but can give a layer *more* as the total falls, and masks
    of falling density would not be nested.
    """
    share = total / sum(sizes)
    counts = [max(0, math.floor(share * size) - len(sizes)) for size in sizes]
    queue = [((count + 0.5) / size, i) for i, (count, size) in enumerate(zip(counts, sizes, strict=True))]
    heapq.heapify(queue)
    for _ in range(total - sum(counts)):
        _, i = heapq.heappop(queue)
        counts[i] += 1
        if counts[i] < sizes[i]:
            heapq.heappush(queue, ((counts[i] + 0.5) / sizes[i], i))
    return counts

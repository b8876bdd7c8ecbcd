"""Patterns: which weights a sparse network may keep. Scores in, mask out.

A mask is a boolean vector beside the weights, True where a weight is kept. Only prunable weights
(see :class:`weightspace.Layout`) can be False. For given scores the masks of one pattern are nested:
a lower density keeps a subset.
"""

import heapq
import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.top_k import _keep_top, _top, _top_few
from weightspace.networks.layout import Layout


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
        counts = _apportion([entry.size for entry in layout.weights], total)
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
        for entry in layout.weights:
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
        weights = layout.weights
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
    weights = layout.weights
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

"""Patterns: which weights a sparse network may keep. Scores in, mask out.

A mask is a boolean vector beside the weights, True where a weight is kept. Only prunable weights
(see `weightspace.Layout`) can be False. For given scores the masks of one pattern are nested:
a lower density keeps a subset.

Patterns are open: any class with `Pattern.mask` is one, in every finder and generator. What else a pattern may
say of itself is listed at `Pattern`; `weightspace.masks.schedule` has what is assumed of those that do not.
"""

import heapq
import math
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.prunable import require_prunable
from weightspace.masks.top_k import _keep_top, _top, _top_few
from weightspace.networks.layout import Layout
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling
from weightspace.storage.typed import Registry


@runtime_checkable
class Pattern(Protocol):
    """A rule that turns scores into masks; the highest scores are kept.

    Only `mask` is needed. A pattern may also have, and those here that can do have:

    - `density`, a number: the fraction of all prunable weights that every network keeps, in (0, 1].
    - `count(layout)`: the exact number of prunable weights that every network keeps.
    - `steps(rate, start=1.0)`: the patterns of iterative pruning, itself last (see `Stepwise`). Without it,
      finders that prune level by level have one level.
    - `part(layout)`: the layout as the pattern sees it, of one that prunes only some tensors (`Only`, `Except`). Its
      density is then the fraction that is kept of these.
    - `with_density(density)`: the same pattern at another density, where that is more than a field.
    - `one_threshold`, True if the `count(layout)` highest scores of the whole network are kept, whatever their layer.

    Make it a frozen dataclass: its text identifies runs. `PATTERNS` writes and reads registered patterns by name.
    """

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network: True where the weight is kept, always True off the weights.

        Args:
            scores: One score per position of the vector, for one network or for many; only prunable positions are read.
            layout: Layout of the vector.
            within: Earlier masks; what they pruned stays pruned.

        Raises:
            InputError: A score is NaN, or the pattern keeps more weights than are left.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A pattern that knows the patterns on the way to it."""

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:
        """The patterns of iterative pruning, this one last.

        Args:
            rate: Fraction of what is left that each step removes, in (0, 1).
            start: Density before the first step; patterns without a density leave it out of account.
        """
        ...


PATTERNS: Registry[Pattern] = Registry("pattern")
"""Patterns by name, to write and to read: `@PATTERNS.register("mine")` above `@dataclass(frozen=True)`."""


@PATTERNS.register("Unstructured")
@dataclass(frozen=True)
class Unstructured:
    """Keep exactly round(density * prunable) single weights.

    Args:
        density: Fraction of the prunable weights kept, in (0, 1].
        scope: "global" ranks all prunable weights of a network together, "layer" keeps the same fraction of every layer
            (rounded so that the total is still exact).

    Raises:
        InputError: The density or the scope is none of these.
    """

    density: float
    scope: Literal["global", "layer"] = "global"

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))

    @property
    def one_threshold(self) -> bool:
        """Are the highest scores of the whole network kept?"""
        return self.scope == "global"

    def count(self, layout: Layout) -> int:
        """The exact number of weights kept in every network.

        Raises:
            InputError: The density keeps none.
        """
        return total_count(self.density, layout)

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:
        """The same pattern at falling densities; see `Stepwise.steps`."""
        return [replace(self, density=density) for density in densities_to(self.density, rate, start)]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
        scores = _usable(scores, layout, within)
        total = self.count(layout)
        if self.scope == "global":
            mask = _keep_top(scores, total, "the network")
            for at in layout.free:
                mask[..., at] = True
            return mask
        counts = _apportion([entry.size for entry in layout.weights], total)
        return _keep_counts(scores, layout, counts)


@PATTERNS.register("NM")
@dataclass(frozen=True)
class NM:
    """Keep at most n of every m consecutive weights along the input dimension (2:4 is NM(2, 4)).

    Mishra et al. 2021 (arXiv 2104.08378). A last, shorter group of r < m inputs keeps min(n, r). In a convolution the
    groups run along the input channels.

    Args:
        n: Weights kept in each group, at least 1.
        m: Weights in each group, at least n.

    Raises:
        InputError: The numbers are not 1 <= n <= m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "n", "m", at_least=1)
        if not self.n <= self.m:
            raise InputError(f"N:M needs 1 <= N <= M, got {self.n}:{self.m}")

    @classmethod
    def of(cls, text: str) -> "NM":
        """Read the notation "2:4".

        Raises:
            InputError: The text is in another notation, or the numbers are not 1 <= n <= m.
        """
        match = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", text) if isinstance(text, str) else None
        if match is None:
            raise InputError(f"an N:M pattern is written like 2:4, got {checks.shown(text)}")
        return cls(int(match[1]), int(match[2]))

    @property
    def density(self) -> float:
        """Fraction of the weights kept where all groups are full: n / m."""
        return self.n / self.m

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:  # noqa: ARG002
        """Fewer of each group at every step, at least one; see `Stepwise.steps`."""
        rate = checks.number(rate, "rate", at_least=0, below=1)
        left = [self.m]
        while left[-1] > self.n:
            left.append(max(self.n, min(left[-1] - 1, math.floor(left[-1] * (1 - rate)))))
        return [replace(self, n=n) for n in left[1:]] or [self]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
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


@PATTERNS.register("Channels")
@dataclass(frozen=True)
class Channels:
    """Keep round(fraction * units), at least one, whole output units of every layer but the last.

    A unit's score is the sum of its weights' scores. The output layer keeps all its units.

    Args:
        fraction: Fraction of the units of each layer kept, in (0, 1].

    Raises:
        InputError: The fraction lies outside (0, 1].
    """

    fraction: float

    spelling: ClassVar[Spelling] = Spelling("Channels", {"fraction": "density"})

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "fraction")

    def steps(self, rate: float, start: float = 1.0) -> list[Pattern]:
        """The same pattern at falling fractions of the units; see `Stepwise.steps`."""
        return [replace(self, fraction=fraction) for fraction in densities_to(self.fraction, rate, start)]

    def mask(
        self, scores: Float[Tensor, "*nets d"], layout: Layout, within: Bool[Tensor, "*nets d"] | None = None
    ) -> Bool[Tensor, "*nets d"]:
        """The mask of each network; see `Pattern.mask`."""
        scores = _usable(scores, layout, within)
        mask = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        weights = layout.weights
        for entry in weights[:-1]:
            at = layout.slices[entry.name]
            units = scores[..., at].unflatten(-1, (entry.shape[0], -1))
            keep = max(1, round(self.fraction * entry.shape[0]))
            # Weights that are out of the question count as nothing; a unit without any other ranks last.
            total = units.masked_fill(units == -math.inf, 0.0).sum(-1)
            kept = _top(total.masked_fill((units == -math.inf).all(-1), -math.inf), keep)
            mask[..., at] = kept[..., None].expand_as(units).flatten(-2)
        return mask if within is None else mask & within


def check_density(density: Any, name: str = "density") -> float:
    """A density as a plain number.

    Args:
        density: The density.
        name: Name of the argument, for the error.

    Raises:
        InputError: It is no number in (0, 1].
    """
    try:
        return checks.fraction(density, name)
    except InputError as error:
        raise InputError(f"{error}: {name} is the fraction that is kept (sparsity 0.9 is density 0.1)") from None


def check_pattern(pattern: Any, name: str = "pattern") -> Any:
    """A pattern: an object with a method `mask`.

    Args:
        pattern: The pattern.
        name: Name of the argument, for the error.

    Raises:
        InputError: It is none, or the class itself.
    """
    if isinstance(pattern, type) or not callable(getattr(pattern, "mask", None)):
        raise checks.refuse(name, "a pattern, such as Unstructured(0.1) or NM(2, 4)", pattern)
    return pattern


def check_layout(layout: Layout) -> Layout:
    """A layout, or an InputError.

    Args:
        layout: The layout.
    """
    return checks.instance(layout, "layout", Layout, "a Layout, such as that of a collection, networks.layout")


def total_count(density: float, layout: Layout) -> int:
    """The number of prunable weights at a density.

    Raises:
        InputError: There are none.
    """
    if not check_layout(layout).num_prunable:
        require_prunable(layout)
    count = round(density * layout.num_prunable)
    if count < 1:
        raise InputError(
            f"density {density} keeps none of {layout.num_prunable} prunable weights: "
            f"ask for at least {1 / layout.num_prunable:.2g}"
        )
    return count


def densities_to(density: float, rate: float, start: float = 1.0) -> list[float]:
    """Densities of iterative pruning, the goal last.

    Args:
        density: Density at the end.
        rate: Fraction of what is left that each step removes; the last removes less if need be.
        start: Density before the first step.

    Raises:
        InputError: A density lies outside (0, 1], or the rate outside (0, 1).
    """
    density, start = check_density(density), check_density(start, "start")
    rate = checks.number(rate, "rate", above=0, below=1)
    steps: list[float] = []
    while not steps or steps[-1] > density:
        following = (steps[-1] if steps else start) * (1 - rate)
        # What rounding leaves above the goal is not worth a level.
        steps.append(density if following <= density * (1 + 1e-9) else following)
    return steps


def keep_counts(
    scores: Float[Tensor, "*nets d"], layout: Layout, counts: list[int], within: Bool[Tensor, "*nets d"] | None = None
) -> Bool[Tensor, "*nets d"]:
    """A mask of the highest scores of each weight tensor; see `Pattern.mask`.

    Args:
        scores: One score per position of the vector.
        layout: Layout of the vector.
        counts: Number of weights kept in each weight tensor, in the layout's order.
        within: Earlier masks; what they pruned stays pruned.

    Raises:
        InputError: A score is NaN, or a tensor has fewer weights left than its count.
    """
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
    checks.tensor(scores, "scores")
    check_layout(layout)
    if scores.is_complex() or not scores.ndim:
        raise checks.refuse("scores", f"a tensor of real numbers, {layout.size} a network", scores)
    if scores.shape[-1] != layout.size:
        raise InputError(f"scores must have {layout.size} values a network, one a parameter; got {scores.shape[-1]}")
    if within is not None:
        checks.tensor(within, "within", dtype=torch.bool)
        if within.shape != scores.shape[-within.ndim :] or not within.ndim:
            raise checks.refuse("within", f"of the shape of the scores, {tuple(scores.shape)}", within)
    if not scores.is_floating_point():
        scores = scores.double()  # which can rank what may not be kept below all others
    usable = scores.clone() if within is None else scores.masked_fill(~within, -math.inf)
    for at in layout.free:
        usable[..., at] = -math.inf
    # The largest is NaN if any score is; only then look at each.
    if not usable.amax(-1).isfinite().all() and scores[..., layout.prunable.to(scores.device)].isnan().any():
        raise InputError("scores must be numbers, got NaN: a mask cannot be chosen from them")
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

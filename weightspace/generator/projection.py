"""From decoded vectors to sparse networks: the pattern of samples, and the masks and values under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.generator.conditions import Conditions, density_for_generators
from weightspace.generator.description import Value
from weightspace.generator.mask_rules import FittedMaskRule, extras_of, ranks_magnitudes
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.schedule import count_of, one_threshold
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.forward import at_once, blocks
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, seeds

_MASKED = 4  # networks whose masks are chosen at once: what they need stays in the cache


@dataclass(frozen=True)
class Draw:
    """Samples of one pattern.

    Args:
        pattern: Pattern of their masks.
        conditions: Conditions of the samples, (n, C); None without.
        seed: Seed of their noise.
    """

    pattern: Pattern
    conditions: Tensor | None
    seed: int


def draws_of(
    n: int,
    patterns: Sequence[Pattern],
    conditions: Conditions,
    nested: bool,
    condition: Mapping[str, Value] | None,
    guidance: float,
    seed: int,
) -> list[Draw]:
    """What is drawn for each pattern; see `weightspace.generator.FittedGenerator.sample`.

    Args:
        n: Number of samples of each pattern.
        patterns: Patterns of the samples.
        conditions: Conditions of the generator.
        nested: Whether all patterns have the same networks.
        condition: Properties of the networks, by name.
        guidance: Strength of the conditions.
        seed: Seed of the samples.

    Raises:
        InputError: A condition is not known, or guidance has none to strengthen.
    """
    densities = [density_for_generators(pattern) for pattern in patterns]
    if nested and len(patterns) > 1:
        densities = [max(density for density in densities if density is not None)] * len(patterns)
    rows = [conditions.rows(condition, n, density) for density in densities]
    if guidance != 1.0 and not conditions:
        raise InputError("guidance strengthens conditions, and this generator was fitted without: leave it at 1")
    together = nested or len(patterns) == 1
    drawn_with = [seed if together else seeds.derive(seed, "densities", i) for i in range(len(patterns))]
    return [Draw(*parts) for parts in zip(patterns, rows, drawn_with, strict=True)]


def one_pattern(
    density: float | None, pattern: Pattern | None, layout: Layout, density_of_tickets: Sequence[float]
) -> Pattern:
    """The pattern of networks that have a single one; see `patterns_of`.

    Args:
        density: One density.
        pattern: Another pattern instead.
        layout: Layout of the networks.
        density_of_tickets: Least and greatest density of the tickets, for the error.

    Raises:
        InputError: Neither or both of density and pattern are given, or there are several densities.
    """
    patterns = patterns_of(density, pattern, layout, density_of_tickets)
    if len(patterns) > 1:
        raise checks.refuse("density", "one number here, not several", density)
    return patterns[0]


def patterns_of(
    density: float | Sequence[float] | None,
    pattern: Pattern | None,
    layout: Layout,
    density_of_tickets: Sequence[float],
) -> list[Pattern]:
    """The patterns that samples are drawn under.

    Args:
        density: One density or several.
        pattern: Another pattern instead.
        layout: Layout of the networks.
        density_of_tickets: Least and greatest density of the tickets, for the error.

    Raises:
        InputError: Neither or both of density and pattern are given, or a density keeps no weight.
    """
    if (density is None) == (pattern is None):
        low, high = density_of_tickets
        raise InputError(
            "give either density= or pattern=: the density of the training tickets was "
            f"{low:.4g}{f' to {high:.4g}' if high > low else ''}"
        )
    if pattern is not None:
        return [check_pattern(pattern)]
    # NumPy's and torch's scalars are numbers too.
    one_axis = isinstance(density, list | tuple) or bool(getattr(density, "shape", ()))
    densities = checks.several(density, "density", check_density, least=1) if one_axis else [check_density(density)]  # pyright: ignore[reportArgumentType]
    densities = [float(one) for one in densities]
    patterns = [Unstructured(one) for one in densities]
    for one in patterns:
        one.count(layout)
    return list(patterns)


def project(
    vectors: Float[Tensor, "n m"], pattern: Pattern, rule: FittedMaskRule, layout: Layout, *, dense: bool = False
) -> tuple[Float[Tensor, "n d"], Bool[Tensor, "n d"]]:
    """Sparse weights and masks of decoded vectors, (n, D) each.

    A pattern in some tensors keeps all that is left of the others. That is every weight that any ticket kept: a decoded
    vector, a mean and components of all tickets, has a value there. Where no ticket was pruned, a pattern that keeps
    all weights keeps zeros too, such as those of an adapter beside a unit that is never active.

    Args:
        vectors: Decoded vectors, (n, M).
        pattern: Pattern of the masks.
        rule: Mask rule of the generator.
        layout: Layout of the networks.
        dense: Whether no ticket was pruned.
    """
    weights = vectors[:, : layout.size].contiguous()  # what `split` makes of them, in one block
    masks = torch.empty(weights.shape, dtype=torch.bool)
    dense = dense and count_of(pattern, layout) == layout.num_prunable
    for rows in blocks(len(weights), at_once(_MASKED, layout.size)):
        values, scores = rule.split(vectors[rows])
        rank_last = ranks_magnitudes(rule) and _zeros_rank_last(values, scores, pattern, layout)
        within = None if dense or rank_last else (values != 0) | ~layout.prunable
        masks[rows] = pattern.mask(scores, layout, within=within)
        torch.mul(values, masks[rows], out=weights[rows])
    return weights, masks


def sparse_networks(
    vectors: Float[Tensor, "n m"],
    pattern: Pattern,
    rule: FittedMaskRule,
    architecture: Architecture,
    layout: Layout,
    buffers: Sequence[Tensor],
    records: Sequence[Mapping[str, Any]],
    *,
    dense: bool = False,
) -> Collection:
    """A collection of decoded vectors under their masks.

    Args:
        vectors: Decoded vectors, (n, M).
        pattern: Pattern of the masks.
        rule: Mask rule of the generator.
        architecture: Architecture of the networks.
        layout: Layout of the networks.
        buffers: Buffers that all start from, in the layout's order.
        records: Records of the networks.
        dense: Whether no ticket was pruned.
    """
    weights, masks = project(vectors, pattern, rule, layout, dense=dense)
    own = {b.name: t.expand(len(weights), *b.shape).clone() for b, t in zip(layout.buffers, buffers, strict=True)}
    return Collection(
        layout,
        weights,
        architecture=architecture,
        masks=masks,
        records=records,
        buffers=own,
        extras=extras_of(rule, vectors, masks),
    )


def _zeros_rank_last(
    values: Float[Tensor, "n d"], scores: Float[Tensor, "n d"], pattern: Pattern, layout: Layout
) -> bool:
    """Need zeros not be ruled out, as they rank last and every network has enough other weights?"""
    if not one_threshold(pattern):
        return False
    count, free = count_of(pattern, layout), layout.size - layout.num_prunable
    if count is None:
        return False
    if scores.amin() > 0:
        return True
    # Comparing first and counting booleans after is twice as fast as counting numbers.
    return all(np.count_nonzero(row) - free >= count for row in (values != 0).numpy())

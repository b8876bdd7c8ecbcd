"""What a run of samples is identified by, and which of its networks are made together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weightspace.generator.description import Value
from weightspace.generator.polishing import Polishing
from weightspace.generator.projection import Draw
from weightspace.masks.patterns import Pattern
from weightspace.storage.spelling import spelled_text

_BLOCK_BYTES = 2**29  # weights of samples that are made at once


def sampling_config(
    n: int,
    patterns: Sequence[Pattern],
    seed: int,
    nested: bool,
    conditions: tuple[Mapping[str, Value], float] | None,
    polishing: Polishing | None,
) -> dict[str, Any]:
    """Settings of a run of samples.

    Args:
        n: Number of networks of each pattern.
        patterns: The patterns.
        seed: Seed of the samples.
        nested: Whether networks of all patterns are the same.
        conditions: Properties of the networks and the strength of these; None for a generator without conditions.
        polishing: How samples are polished.
    """
    config: dict[str, Any] = {"n": n, "pattern": spelled_text(patterns[0] if len(patterns) == 1 else patterns)}
    config |= {"seed": seed} | ({"nested": nested} if len(patterns) > 1 else {})
    config |= {} if conditions is None else {"condition": conditions[0], "guidance": conditions[1]}
    return config | ({} if polishing is None else polishing.config)


def block_of(count: int, size: int, polishing: Polishing | None, *, written: bool) -> int:
    """Number of samples that are made together: those on disk are written as they are made, others are kept anyway.

    Args:
        count: Number of samples.
        size: Number of weights of one.
        polishing: How they are polished.
        written: Whether they go to disk.
    """
    block = max(1, _BLOCK_BYTES // (4 * size)) if written else count
    return min(count, block if polishing is None else min(block, polishing.block))


def draws_in(draws: Sequence[Draw], n: int, rows: slice) -> Iterator[tuple[Draw, int, int, int]]:
    """Draws of which some networks are among these rows: the draw, its first and last of these, and where it begins.

    Args:
        draws: Draws of n networks each.
        n: Number of networks of a draw.
        rows: Rows of all draws one after another.
    """
    for i, draw in enumerate(draws):
        first, last = max(rows.start, i * n) - i * n, min(rows.stop, (i + 1) * n) - i * n
        if first < last:
            yield draw, first, last, i * n

"""Checks of what a search of orders is given."""

from typing import Any

from weightspace.masks.patterns import NM
from weightspace.runtime import checks


def check_search(pattern: Any, seconds: Any, restarts: Any, seed: Any) -> None:
    """Settings of a search of orders.

    Args:
        pattern: The N:M pattern.
        seconds: Longest time.
        restarts: Number of restarts, or None.
        seed: Seed of the search.

    Raises:
        InputError: One is of another kind or out of range.
    """
    check_n_m(pattern)
    checks.number(seconds, "seconds", at_least=0)
    checks.given(restarts, "restarts", checks.count, at_least=0)
    checks.seed(seed)


def check_n_m(pattern: Any) -> None:
    """An N:M pattern.

    Args:
        pattern: The pattern.

    Raises:
        InputError: It is another one.
    """
    checks.instance(pattern, "pattern", NM, "an N:M pattern, such as NM(2, 4)")

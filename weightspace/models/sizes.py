"""Checks of the sizes of networks, before memory is taken."""

from typing import Any

from weightspace.runtime import checks

_LARGEST = 2**24


def check_sizes(**sizes: Any) -> None:
    """Numbers of channels, units, classes and the like.

    Args:
        sizes: The numbers by the names of their arguments.

    Raises:
        InputError: One is no whole number of at least 1, or too large for any network.
    """
    for name, size in sizes.items():
        checks.count(size, name, at_least=1, at_most=_LARGEST)


def check_width(width: Any, widest: int) -> None:
    """A factor of the channels.

    Args:
        width: The factor.
        widest: Number of channels of the widest layer at width 1.

    Raises:
        InputError: It is no positive number, or too large for any network.
    """
    checks.number(width, "width", above=0, at_most=_LARGEST / widest)

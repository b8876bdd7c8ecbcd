"""Room for what is asked for, before it is made."""

from typing import Any

from weightspace.errors import InputError
from weightspace.runtime import allocator, checks

COMPONENTS_BESIDE = 6
"""Vectors of float32 beside the components that their computation and use need in memory, at most."""
_RECORD = 1024  # bytes of a network's record, which is in memory wherever its weights are


def check_number(n: Any, name: str, parameters: int, *, in_folder: bool) -> int:
    """A number of networks that this machine has room for.

    Args:
        n: What was got.
        name: Name of the argument.
        parameters: Parameters of each network.
        in_folder: Whether the networks are written to a folder, block by block, and not kept in memory.

    Raises:
        InputError: It is no whole number of at least 1, or there is not as much memory.
    """
    n = checks.count(n, name, at_least=1)
    each = _RECORD + (0 if in_folder else 5 * parameters)  # float32, and a mask
    memory = allocator.main_memory()
    if n * each > memory:
        raise InputError(
            f"{name} must be at most {memory // each:,} here, got {n:,}: so many networks of {parameters:,} parameters "
            f"take {n * each / 2**30:,.0f} GiB of memory, of {memory / 2**30:,.0f} GiB"
            + ("" if in_folder else "; give a folder to write them to, or ask for fewer")
        )
    return n


def check_components(components: int, parameters: int) -> None:
    """Raise InputError if this machine has no room for so many components, before they are computed.

    Args:
        components: Number of components, float32.
        parameters: Parameters of each network.
    """
    memory, each = allocator.main_memory(), 4 * parameters
    if (components + COMPONENTS_BESIDE) * each > memory:
        raise InputError(
            f"{components:,} components of {parameters:,} parameters take {components * each / 2**30:,.0f} GiB of "
            f"memory, and their computation {COMPONENTS_BESIDE * each / 2**30:,.0f} GiB more, of "
            f"{memory / 2**30:,.0f} GiB: ask for at most {max(0, memory // each - COMPONENTS_BESIDE):,}"
        )

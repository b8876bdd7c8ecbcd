"""Room for what is asked for, before it is made."""

from typing import Any

from weightspace.errors import InputError
from weightspace.runtime import allocator, checks

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

"""How many things fit into a share of memory."""

_MOST = 2.0**33  # GiB: an address space of 64 bits


def capacity(memory_gb: float, size: int) -> int:
    """How many things of a size fit, at least one.

    Args:
        memory_gb: Memory in GiB.
        size: Bytes that one of them takes.
    """
    return max(1, int(min(memory_gb, _MOST) * 2**30) // size)

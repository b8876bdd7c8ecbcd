"""How many things fit into a share of memory."""


def capacity(memory_gb: float, size: int) -> int:
    """How many things of a size fit, at least one.

    Args:
        memory_gb: Memory in GiB.
        size: Bytes that one of them takes.
    """
    return max(1, int(memory_gb * 2**30) // size)

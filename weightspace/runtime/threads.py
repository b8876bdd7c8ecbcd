"""Threads that sleep while they wait, and how many there are.

OpenMP's worker threads spin between parallel regions. When the machine is shared, a spinning thread
holds the core that its own partner needs, and training small networks becomes many times
slower. The variables are read once, when torch is imported, so this module comes first; a user's own
settings win.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

_requested: int | None = None


def use(count: int) -> None:
    """Compute with so many threads from now on; training then does not choose for itself."""
    import torch  # not above: the variables must be set before torch is imported

    global _requested
    _requested = count
    torch.set_num_threads(count)


def requested() -> int | None:
    """The number of threads given to `use`, if any."""
    return _requested

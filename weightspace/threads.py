"""Threads that sleep while they wait.

OpenMP's worker threads spin between parallel regions. When the machine is shared, a spinning thread
holds the core that its own partner needs, and training small networks becomes over a hundred times
slower. The variables are read once, when torch is imported, so this module comes first; a user's own
settings win.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

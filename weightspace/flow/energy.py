"""Are two sets of codes from one distribution? The energy test, by permutation (Székely and Rizzo 2013)."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.runtime import seeds

_PERMUTATIONS = 999
_AT_ONCE = 100


def energy_test(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], *, seed: int = 0) -> tuple[float, float]:
    """The energy distance of two sets, and the share of random divisions of both that are at least as far apart.

    Args:
        x: First set, a row each.
        y: Second set.
        seed: Seed of the divisions.
    """
    together = torch.cat([x, y]).double()
    distances = torch.cdist(together, together, compute_mode="donot_use_mm_for_euclid_dist")
    first = torch.zeros(1, len(together), dtype=torch.float64)
    first[0, : len(x)] = 1
    found = _energy(distances, first)[0]
    random = seeds.generator(seed, "energy test")
    larger = 0
    for start in range(0, _PERMUTATIONS, _AT_ONCE):
        count = min(_AT_ONCE, _PERMUTATIONS - start)
        order = torch.rand(count, len(together), generator=random).argsort(1)
        divided = torch.zeros(count, len(together), dtype=torch.float64).scatter_(1, order[:, : len(x)], 1.0)
        larger += int((_energy(distances, divided) >= found * (1 - 1e-12)).sum())
    return found.item(), (larger + 1) / (_PERMUTATIONS + 1)


def _energy(distances: Float[Tensor, "t t"], first: Float[Tensor, "p t"]) -> Float[Tensor, " p"]:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| for each division (a row: 1 for the first set, 0 for the second)."""
    n = first.sum(1)
    m = first.shape[1] - n
    sums = first @ distances  # (p, t): distance of each to all of the first set
    within = (sums * first).sum(1)
    across = sums.sum(1) - within
    total = distances.sum()
    return 2 * across / (n * m) - within / n**2 - (total - within - 2 * across) / m**2

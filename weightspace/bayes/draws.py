"""Networks drawn from posteriors: ordinary, sparse, deterministic ones."""

import torch

from weightspace import seeds
from weightspace.bayes.search import STD
from weightspace.collection import Collection
from weightspace.errors import InputError


def draw(posteriors: Collection, n: int, *, seed: int = 0) -> Collection:
    """N networks of each posterior, one posterior after another; pruned weights are zero in all of them.

    Args:
        posteriors: means as weights, standard deviations as the extra "std".
        seed: draw j of posterior i depends on (seed, i, j) alone.

    Raises:
        InputError: fewer than one network asked, or networks without standard deviations.
    """
    if n < 1:
        raise InputError(f"ask for at least one network of each posterior, got n = {n}")
    if STD not in posteriors.extras:
        raise InputError(
            f'these networks are no posteriors: they lack the extra "{STD}" (train them with bayes.Variational)'
        )
    means, std = posteriors.weights, posteriors.extras[STD]
    rows = torch.arange(len(posteriors)).repeat_interleave(n)
    weights = means[rows]
    for i in range(len(posteriors)):
        random = seeds.generator(seed, "draws of a posterior", i)
        for j in range(n):
            weights[i * n + j].add_(std[i] * torch.randn(std.shape[1], generator=random))
    return Collection(
        posteriors.layout, weights, architecture=posteriors.architecture,
        masks=None if posteriors.dense else posteriors.masks[rows],
        buffers={name: buffer[rows] for name, buffer in posteriors.buffers.items()},
        records=[
            posteriors.records[i // n] | {"kind": "draw", "posterior": i // n, "index": i} for i in range(len(weights))
        ],
    )  # fmt: skip


def means(posteriors: Collection) -> Collection:
    """The mean networks alone: a Bayesian ticket as a deterministic one, to be trained on as such."""
    return posteriors.replace(extras={name: t for name, t in posteriors.extras.items() if name != STD})

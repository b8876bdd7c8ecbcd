"""Networks drawn from posteriors: ordinary, sparse, deterministic ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.bayes.search import STD
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.forward import predict as outputs
from weightspace.runtime import seeds

_CACHED = 2**20  # weights of a block of networks that stay in the cache until they have predicted


def draw(posteriors: Collection, n: int, *, seed: int = 0) -> Collection:
    """N networks of each posterior, one posterior after another; pruned weights are zero in all of them.

    Args:
        posteriors: means as weights, standard deviations as the extra "std".
        seed: draw j of posterior i depends on (seed, i, j) alone.

    Raises:
        InputError: fewer than one network asked, or networks without standard deviations.
    """
    _check(posteriors, n)
    weights = posteriors.weights[torch.arange(len(posteriors)).repeat_interleave(n)]
    for i, row in enumerate(weights):
        _draw(posteriors, i // n, i % n, seed, row)
    rows = torch.arange(len(posteriors)).repeat_interleave(n)
    return Collection(
        posteriors.layout, weights, architecture=posteriors.architecture,
        masks=None if posteriors.dense else posteriors.masks[rows],
        buffers={name: buffer[rows] for name, buffer in posteriors.buffers.items()},
        records=[
            posteriors.records[i // n] | {"kind": "draw", "posterior": i // n, "index": i} for i in range(len(weights))
        ],
    )  # fmt: skip


@torch.no_grad()
def predict(posteriors: Collection, x: Tensor, n: int, *, seed: int = 0) -> Float[Tensor, "nets batch classes"]:
    """What `draw(posteriors, n, seed=seed).ensemble().logits(x)` gives, without keeping the networks: faster.

    Raises:
        InputError: as :func:`draw`.
    """
    _check(posteriors, n)
    module, layout = posteriors.architecture.build_seeded(0), posteriors.layout
    few = min(n, max(1, _CACHED // layout.size))
    drawn = torch.empty(few, layout.size, dtype=posteriors.weights.dtype)
    found: list[Tensor] = []
    for i in range(len(posteriors)):
        for part in blocks(n, few):
            for row, j in zip(drawn, range(part.start, part.stop), strict=False):
                _draw(posteriors, i, j, seed, row.copy_(posteriors.weights[i]))
            some = part.stop - part.start
            buffers = {name: buffer[[i] * some] for name, buffer in posteriors.buffers.items()}
            found.append(outputs(module, layout, drawn[:some], buffers, x))
    return torch.cat(found)


def means(posteriors: Collection) -> Collection:
    """The mean networks alone: a Bayesian ticket as a deterministic one, to be trained on as such."""
    return posteriors.replace(extras={name: t for name, t in posteriors.extras.items() if name != STD})


def _check(posteriors: Collection, n: int) -> None:
    if n < 1:
        raise InputError(f"ask for at least one network of each posterior, got n = {n}")
    if STD not in posteriors.extras:
        raise InputError(
            f'these networks are no posteriors: they lack the extra "{STD}" (train them with bayes.Variational)'
        )


def _draw(posteriors: Collection, i: int, j: int, seed: int, row: Tensor) -> None:
    """Add the noise of draw j of posterior i to its mean, in place."""
    random = torch.Generator().manual_seed(seeds.derive(seeds.derive(seed, "draws of a posterior", i), "draw", j))
    row.addcmul_(posteriors.extras[STD][i], torch.randn(row.shape, generator=random, dtype=row.dtype))

"""Draws from posteriors: ordinary sparse networks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from weightspace.bayes.variational import STD
from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, sample_bytes
from weightspace.networks.forward import predict as outputs
from weightspace.networks.outputs import Classes, stored_kind
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.room import check_number
from weightspace.runtime.trees import Tree

_CACHED = 2**20  # weights of a block of networks that stay in the cache until they have predicted


def draw(posteriors: Collection, n: int, *, seed: int = 0) -> Collection:
    """N networks of each posterior, one posterior after another; pruned weights are zero in all of them.

    Args:
        posteriors: Posteriors: means as weights, standard deviations as the extra "std".
        n: Number of networks drawn from each posterior.
        seed: Seed of the draws; draw j of posterior i depends on (seed, i, j) alone.

    Raises:
        InputError: `n` is less than one, or the networks have no standard deviations.
    """
    n, seed = _check(posteriors, n), checks.seed(seed)
    weights = torch.empty(n * len(posteriors), posteriors.layout.size, dtype=posteriors.weights.dtype)
    for i, row in enumerate(weights):
        _draw(posteriors, i // n, i % n, seed, row)
    rows = torch.arange(len(posteriors)).repeat_interleave(n)
    return Collection(
        posteriors.layout,
        weights,
        architecture=posteriors.architecture,
        masks=None if posteriors.dense else posteriors.masks[rows],
        buffers={name: buffer[rows] for name, buffer in posteriors.buffers.items()},
        records=[
            posteriors.records[i // n] | {"kind": "draw", "posterior": i // n, "index": i} for i in range(len(weights))
        ],
    )


@torch.no_grad()
def predict(
    posteriors: Collection, x: Tree, n: int, *, seed: int = 0, device: str = "auto"
) -> Float[Tensor, "nets batch ..."]:
    """Logits, or values of regressions, of the networks that `draw` gives, without keeping the networks.

    It is faster than `draw(posteriors, n, seed=seed).ensemble().logits(x)`, which has the same values.

    Args:
        posteriors: Posteriors: means as weights, standard deviations as the extra "std".
        x: Inputs (batch, ...): a tensor, a tuple of a network's inputs, or a mapping of them by name.
        n: Number of networks drawn from each posterior.
        seed: Seed of the draws, as in `draw`.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        InputError: The device is not available, `n` is less than one, or the networks have no standard deviations.
    """
    device = devices.pick(device)
    check_inputs(x)
    n, seed = _check(posteriors, n, kept=False), checks.seed(seed)
    module, layout = posteriors.architecture.build_seeded(0).to(device), posteriors.layout
    kind = stored_kind(posteriors.records[0]) or Classes()
    at_once = min(n, max(1, _CACHED // layout.size))
    drawn, per_sample = torch.empty(at_once, layout.size, dtype=posteriors.weights.dtype), sample_bytes(module, x)
    logits: list[Tensor] = []
    for i in range(len(posteriors)):
        for part in blocks(n, at_once):
            for row, j in zip(drawn, range(part.start, part.stop), strict=False):
                _draw(posteriors, i, j, seed, row)
            size = part.stop - part.start
            buffers = {name: buffer[[i] * size].to(device) for name, buffer in posteriors.buffers.items()}
            outputs_of_part = outputs(module, layout, drawn[:size].to(device), buffers, x, per_sample)
            logits.append(kind.predictions(outputs_of_part))
    return torch.cat(logits)


def predict_values(posteriors: Collection, x: Tree, n: int, *, seed: int = 0, device: str = "auto") -> Normal:
    """Predictive distribution of regressions: the normal distribution with the mean and variance of the mixture.

    The variance is that of the draws, all posteriors together, plus that of the noise around them.

    Args:
        posteriors: Posteriors of regressions.
        x: Inputs (batch, ...): a tensor, a tuple of a network's inputs, or a mapping of them by name.
        n: Number of networks drawn from each posterior.
        seed: Seed of the draws, as in `draw`.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Returns:
        A distribution with batch shape (batch, ...): `.mean`, `.stddev`, `.icdf(0.975)`, `.log_prob(y)`.

    Raises:
        InputError: The device is not available, there are fewer than two draws, or the networks are no posteriors of
            regressions.
    """
    check_networks(posteriors, "posteriors")
    check_inputs(x)
    n, seed, device = checks.count(n, "n", at_least=1), checks.seed(seed), devices.pick(device)
    if not all("noise_std" in record for record in posteriors.records):
        raise InputError(
            "the records of these networks have no noise_std: they are no posteriors of regressions. For classes and "
            "yes or no, draw(posteriors, n).ensemble().predict_proba(x) is the predictive distribution"
        )
    values = predict(posteriors, x, n, seed=seed, device=device)
    if len(values) < 2:
        raise InputError("the variance needs at least two draws: give n = 2 or more")
    noise = torch.tensor([record["noise_std"] for record in posteriors.records], dtype=values.dtype)
    variance = values.var(0) + noise.square().mean()
    return Normal(values.mean(0), variance.sqrt())


def means(posteriors: Collection) -> Collection:
    """Mean networks without their standard deviations: Bayesian tickets as deterministic ones, which can be trained on.

    Args:
        posteriors: Posteriors: means as weights, standard deviations as the extra "std".
    """
    check_networks(posteriors, "posteriors")
    return posteriors.replace(extras={name: t for name, t in posteriors.extras.items() if name != STD})


def _check(posteriors: Collection, n: int, *, kept: bool = True) -> int:
    """A number of draws from each posterior, whose weights are kept in memory or not."""
    check_networks(posteriors, "posteriors")
    n = check_number(n, "n", posteriors.layout.size, in_folder=not kept)
    if STD not in posteriors.extras:
        raise InputError(
            f'these networks are no posteriors: they lack the extra "{STD}" (train them with bayes.Variational)'
        )
    return n


def _draw(posteriors: Collection, i: int, j: int, seed: int, row: Tensor) -> None:
    """Write draw j of posterior i into a row, which holds the noise first: no other memory is touched."""
    random = torch.Generator().manual_seed(seeds.derive(seeds.derive(seed, "draws of a posterior", i), "draw", j))
    row.normal_(generator=random)
    torch.addcmul(posteriors.weights[i], posteriors.extras[STD][i], row, out=row)

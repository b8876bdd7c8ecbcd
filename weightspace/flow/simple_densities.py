"""Simple densities of codes: what a flow has to beat. Each is fitted to training codes, after a linear regression on
their conditions, and takes the settings that are best on the codes that it is judged on, which favours it.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.runtime import seeds

_COMPONENTS = (2, 3, 4, 6, 8, 12, 16)
_BANDWIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # in standard deviations of each number
_RIDGE = 1e-3
_FLOOR = 1e-3  # of the codes' mean variance, added to those of a mixture's components


@dataclass(frozen=True)
class SimpleDensity:
    """A fitted density.

    Args:
        name: Kind of density.
        how: Its settings.
        log_density: Log-density of each held-out code.
        draw: Draws codes: a number of them and a seed.
    """

    name: str
    how: str
    log_density: Float[Tensor, " m"]
    draw: Callable[[int, int], Float[Tensor, "n k"]]


def best_of_each_kind(
    training: Float[Tensor, "n k"],
    held_out: Float[Tensor, "m k"],
    known: Float[Tensor, "n c"] | None,
    known_held_out: Float[Tensor, "m c"] | None,
    *,
    seed: int,
) -> list[SimpleDensity]:
    """The Gaussian, the Gaussian mixture and the kernel density that give held-out codes the highest log-density.

    Args:
        training: Codes to fit to.
        held_out: Codes to judge on.
        known: Conditions of the first, as numbers; None without.
        known_held_out: Conditions of the second.
        seed: Seed of the mixtures' starts.
    """
    x, y, shift = _residuals(training, held_out, known, known_held_out)
    found: list[SimpleDensity] = []
    for kind in (_gaussians(x), _mixtures(x, seed), _kernels(x)):
        fitted = [(name, how, torch.as_tensor(score(y)), draw) for name, how, score, draw in kind]
        if fitted:
            name, how, scores, draw = max(fitted, key=lambda one: one[2].mean().item())
            found.append(SimpleDensity(name, how, scores, _shifted(draw, shift)))
    return found


def _residuals(
    training: Tensor, held_out: Tensor, known: Tensor | None, known_held_out: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes less what a ridge regression on their conditions says, and what it says of the held-out ones."""
    x, y = training.double().cpu(), held_out.double().cpu()
    if known is None or known_held_out is None:
        return x.numpy(), y.numpy(), np.zeros_like(y.numpy())
    features = known.double().cpu()
    centre, mean = features.mean(0), x.mean(0)
    a = features - centre
    slope = torch.linalg.solve(a.T @ a + _RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ (x - mean))
    shift = (known_held_out.double().cpu() - centre) @ slope
    return (x - a @ slope).numpy(), (y - shift).numpy(), shift.numpy()


def _shifted(draw: Callable[[int, int], np.ndarray], shift: np.ndarray) -> Callable[[int, int], Tensor]:
    def drawn(n: int, seed: int) -> Tensor:
        return torch.as_tensor(draw(n, seed) + shift[np.arange(n) % len(shift)])

    return drawn


_Fitted = tuple[str, str, Callable[[np.ndarray], np.ndarray], Callable[[int, int], np.ndarray]]


def _gaussians(x: np.ndarray) -> Iterator[_Fitted]:
    """With a covariance shrunk by Ledoit and Wolf, and with a diagonal one."""
    from sklearn.covariance import ledoit_wolf

    mean, variances = x.mean(0), x.var(0, ddof=1 if len(x) > 1 else 0)
    shrunk = ledoit_wolf(x)[0]
    for how, covariance in (("Ledoit-Wolf covariance", shrunk), ("diagonal covariance", np.diag(variances))):
        gaussian = torch.distributions.MultivariateNormal(torch.as_tensor(mean), torch.as_tensor(covariance))
        yield "Gaussian", how, _scores_of(gaussian), _draws_of(gaussian)


def _scores_of(gaussian: torch.distributions.MultivariateNormal) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: gaussian.log_prob(torch.as_tensor(y)).numpy()


def _draws_of(gaussian: torch.distributions.MultivariateNormal) -> Callable[[int, int], np.ndarray]:
    def draw(n: int, seed: int) -> np.ndarray:
        noise = torch.randn(n, len(gaussian.loc), generator=seeds.generator(seed, "Gaussian"), dtype=torch.float64)
        return (gaussian.loc + noise @ gaussian.scale_tril.T).numpy()

    return draw


def _mixtures(x: np.ndarray, seed: int) -> Iterator[_Fitted]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    n, k = x.shape
    floor = _FLOOR * float(x.var(0).mean())
    for components in _COMPONENTS:
        for kind in ("full", "diag"):
            if n < components * (2 if kind == "diag" else max(2, k)):
                continue  # a component would have too few codes
            model: Any = GaussianMixture(components, covariance_type=kind, reg_covar=floor, random_state=seed % 2**32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # one that is not there yet is judged like others
                model.fit(x)
            how = f"{components} components, {'full' if kind == 'full' else 'diagonal'} covariances"
            yield "Gaussian mixture", how, model.score_samples, _mixture_draws(model)


def _mixture_draws(model: Any) -> Callable[[int, int], np.ndarray]:
    def draw(n: int, seed: int) -> np.ndarray:
        model.random_state = seed % 2**32
        return np.random.default_rng(seed % 2**32).permutation(model.sample(n)[0])

    return draw


def _kernels(x: np.ndarray) -> Iterator[_Fitted]:
    from sklearn.neighbors import KernelDensity

    std = x.std(0)
    for bandwidth in _BANDWIDTHS:
        model: Any = KernelDensity(bandwidth=bandwidth).fit(x / std)
        yield "kernel density", f"bandwidth {bandwidth:g}", _kernel_scores(model, std), _kernel_draws(model, std)


def _kernel_scores(model: Any, std: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    volume = float(np.log(std).sum())
    return lambda y: model.score_samples(y / std) - volume


def _kernel_draws(model: Any, std: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda n, seed: model.sample(n, random_state=seed % 2**32) * std

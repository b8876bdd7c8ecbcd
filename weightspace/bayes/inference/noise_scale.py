"""Noise of regressions: how far targets lie from what a network predicts."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.outputs import like_targets
from weightspace.runtime import checks
from weightspace.runtime.trees import Tree
from weightspace.tasks.task import Task


class NoiseScale(nn.Module):
    """Standard deviation of normal noise, of N regressions; one for all outputs of a network.

    It is learned by natural-gradient steps of the ELBO, which make its square a running mean of the squared residuals
    (of drawn weights), whatever the units of the targets are.

    Args:
        start: Standard deviations at the start (n,).
        least: Smallest standard deviations (n,); a network that fits its data exactly would go to zero.
        learned: Whether it is learned.
    """

    rate = 0.05  # weight of a step's residuals in the running mean

    def __init__(self, start: Float[Tensor, " n"], least: Float[Tensor, " n"], *, learned: bool) -> None:
        super().__init__()
        self.log_std = nn.Parameter(start.maximum(least).log(), requires_grad=learned)
        self.least = nn.Buffer(least, persistent=False)

    @classmethod
    def fixed(cls, std: float, n: int = 1) -> "NoiseScale":
        """Noise that is known.

        Args:
            std: Standard deviation.
            n: Number of networks.
        """
        check_noise(std)
        return cls(torch.full((n,), std), torch.full((n,), std), learned=False)

    @property
    def std(self) -> Float[Tensor, " n"]:
        """Standard deviations (n,)."""
        return self.log_std.exp()

    @torch.no_grad()
    def learn(self, observations: float) -> None:
        """Take a step along the natural gradient, from the gradient that a backward pass left; then there is none.

        Args:
            observations: Number of values that the loss is the negative log-likelihood of, outputs times samples.
        """
        slope = self.log_std.grad
        if slope is None:
            return
        # d loss / d log_std = observations * (1 - mean square / std^2)
        ratio = 1 - slope / observations
        self.log_std.add_(0.5 * torch.log1p(self.rate * (ratio - 1))).clamp_(min=self.least.log())
        self.log_std.grad = None


def noise_of(task: Task, outputs: Tree, noise_std: float | None) -> NoiseScale:
    """The noise of a task's regressions, at the start the root mean square of their residuals.

    Args:
        task: Task whose outputs are values.
        outputs: Outputs (n, samples, ...) of the networks for the first training samples.
        noise_std: Standard deviation of the noise; None learns it.
    """
    kind = task.output_kind
    predictions = kind.predictions(outputs)
    y = kind.targets(task.train.head(predictions.shape[1]).y).to(predictions.dtype)
    y = y.expand(len(predictions), *y.shape)
    tiny = torch.finfo(predictions.dtype).tiny ** 0.5
    least = (0.001 * y.flatten(1).std(1, correction=0)).clamp(min=tiny)
    if noise_std is not None:
        return NoiseScale.fixed(noise_std, len(predictions)).to(predictions.dtype)
    residuals = like_targets(predictions, y) - y
    return NoiseScale(residuals.flatten(1).square().mean(1).sqrt(), least, learned=True)


def check_noise(noise_std: float | None, name: str = "noise_std") -> float | None:
    """A standard deviation that noise can have, or None.

    Args:
        noise_std: Standard deviation of the targets around the outputs.
        name: Name of the argument, for the error.

    Raises:
        InputError: It is no positive number.
    """
    try:
        return checks.given(noise_std, name, checks.number, above=0)
    except InputError as error:
        raise InputError(f"{error}: leave it out (None), and it is learned") from None

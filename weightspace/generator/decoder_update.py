"""How refinement updates a decoder: clipped gradients, Adam, a warm-up and cosine decay."""

import math
from collections.abc import Mapping

from torch import Tensor

from weightspace.recipes.optimizers import Adam

_WARM_UP = 100  # steps, but at most a tenth of all
_CLIP = 1.0  # largest norm of a gradient


class DecoderUpdate:
    """Adam for the mean and the components of a decoder, each with a learning rate of its own.

    Args:
        lr_mean: Peak learning rate of the mean.
        lr: Peak learning rate of the components.
        steps: Steps of the whole training.
    """

    def __init__(self, lr_mean: float, lr: float, steps: int) -> None:
        self.rates = {"mean": lr_mean, "components": lr}
        self.adam, self.steps = Adam(lr=lr), steps

    def start(self, mean: Tensor, components: Tensor) -> dict[str, Tensor]:
        """The state before the first step, with "mean" and "components" in it.

        Args:
            mean: Mean of the decoder, (M,).
            components: Components of the decoder, (K, M).
        """
        state = {"mean": mean, "components": components}
        moments = {f"{name}.{k}": t for name in self.rates for k, t in self.adam.start(state[name]).items()}
        return state | moments

    def apply_(self, state: dict[str, Tensor], gradients: Mapping[str, Tensor], step: int) -> None:
        """Change the state in place; gradients may be changed too.

        Args:
            state: What `start` returned.
            gradients: Gradients of "mean" and "components".
            step: Steps that are done.
        """
        warm = max(1, min(_WARM_UP, self.steps // 10))
        share = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        for name, gradient in gradients.items():
            norm = gradient.norm()
            clipped = gradient.mul_(_CLIP / norm) if norm > _CLIP else gradient
            moments = {k.partition(".")[2]: t for k, t in state.items() if k.startswith(f"{name}.")}
            self.adam.update_(state[name], clipped, moments, self.rates[name] * share, 0.0, step + 1)

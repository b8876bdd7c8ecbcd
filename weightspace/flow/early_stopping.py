"""Codes that a flow is not trained on, and the weights at which they are predicted best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from weightspace.flow.training_pairs import Pairs
from weightspace.flow.velocity import Velocity, with_presence
from weightspace.networks.layout import Layout

_PAIRS, _NUMBERS = 4096, 2**24  # pairs of noise and codes, and numbers in them for long codes
_AT_ONCE = 1024  # pairs in a pass


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs that stay the same, so that losses of different weights differ by the weights alone.

    Args:
        pairs: Pairs of noise and validation codes, in passes.
        conditions: Conditions of all codes, (N, C).
    """

    pairs: Sequence[Pairs]
    conditions: Tensor | None

    @classmethod
    def draw(cls, batch: Callable[[], Pairs], conditions: Tensor | None) -> "ValidationPairs":
        """As many batches as make some thousand pairs, at least one.

        Args:
            batch: Draws the pairs of one batch.
            conditions: Conditions of all codes, (N, C).
        """
        drawn = [batch()]
        size, codes = drawn[0][2].shape
        drawn += [batch() for _ in range(min(_PAIRS, _NUMBERS // codes) // size - 1)]
        columns = [torch.cat(parts).split(_AT_ONCE) for parts in zip(*drawn, strict=True)]
        return cls(list(zip(*columns, strict=True)), conditions)

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        """What training keeps beside its weights: the best ones so far, and their loss.

        Args:
            weights: Weights before the first step, flat.
        """
        return {"best": weights.clone(), "least": torch.tensor(math.inf)}

    @torch.no_grad()
    def keep_best(self, velocity: Velocity, layout: Layout, state: dict[str, Tensor], name: str) -> bool:
        """Keep `state[name]` as `state["best"]` if its loss is the lowest so far, and say whether it is.

        Args:
            velocity: Velocity network.
            layout: Layout of its weights.
            state: State of the training, with what `start` returned.
            name: Name of the weights in it.
        """
        velocity.eval()
        total, count = 0.0, 0
        device = state[name].device
        for chosen, *drawn in self.pairs:
            t, x_t, dx_t = (tensor.to(device) for tensor in drawn)
            known = None if self.conditions is None else with_presence(self.conditions[chosen]).to(device)
            predicted = functional_call(velocity, layout.unpack(state[name]), (x_t, t, known))
            total += (predicted - dx_t).square().sum().item()
            count += dx_t.numel()
        velocity.train()
        better = bool(total / count < state["least"])
        if better:
            state["least"].fill_(total / count)
            state["best"].copy_(state[name])
        return better

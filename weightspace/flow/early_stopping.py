"""Codes that a flow is not trained on, and the weights at which they are predicted best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from weightspace.flow.velocity import Velocity, with_presence
from weightspace.networks.layout import Layout

_PAIRS, _NUMBERS = 4096, 2**24  # pairs of noise and codes, and numbers in them for long codes
_AT_ONCE = 1024  # pairs in a pass

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Which codes (b,), and t (b, 1), x_t and dx_t (b, K) on the paths to them."""


@dataclass(frozen=True)
class HeldOut:
    """Pairs that stay the same, so that losses of different weights differ by the weights alone.

    Args:
        pairs: in passes.
        conditions: of all codes.
    """

    pairs: Sequence[Pairs]
    conditions: Tensor | None

    @classmethod
    def draw(cls, batch: Callable[[], Pairs], conditions: Tensor | None) -> "HeldOut":
        """As many batches as make some thousand pairs, at least one."""
        drawn = [batch()]
        size, codes = drawn[0][2].shape
        drawn += [batch() for _ in range(min(_PAIRS, _NUMBERS // codes) // size - 1)]
        columns = [torch.cat(parts).split(_AT_ONCE) for parts in zip(*drawn, strict=True)]
        return cls(list(zip(*columns, strict=True)), conditions)

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        """What training keeps beside its weights."""
        return {"best": weights.clone(), "least": torch.tensor(math.inf)}

    @torch.no_grad()
    def keep_best(self, velocity: Velocity, layout: Layout, state: dict[str, Tensor], name: str) -> None:
        """Keep `state[name]` as `state["best"]` if its loss is the lowest so far."""
        velocity.eval()
        total, count = 0.0, 0
        for chosen, t, x_t, dx_t in self.pairs:
            known = None if self.conditions is None else with_presence(self.conditions[chosen])
            predicted = functional_call(velocity, layout.unpack(state[name]), (x_t, t, known))
            total += (predicted - dx_t).square().sum().item()
            count += dx_t.numel()
        velocity.train()
        if total / count < state["least"]:
            state["least"].fill_(total / count)
            state["best"].copy_(state[name])

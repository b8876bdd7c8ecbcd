"""The velocity field of a flow, a residual network sized for codes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 32

Velocity = nn.Module
"""velocity(x, t, conditions): (n, K), (n, 1) or one time for all (1, 1), (n, C) -> (n, K)."""


class ResidualVelocity(nn.Module):
    """velocity(x, t): residual blocks with the time added inside each.

    Args:
        codes: Length of a code.
        width: Width of the residual stream.
        blocks: Number of residual blocks.
        conditions: Numbers that describe each network (see `weightspace.generator.Conditions`); they are added
            to the time.
    """

    def __init__(self, codes: int, width: int, blocks: int, conditions: int = 0) -> None:
        super().__init__()
        self.inward = nn.Linear(codes, width)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU())
        self.condition = nn.Sequential(nn.Linear(conditions, width), nn.SiLU()) if conditions else None
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, codes)
        # The field starts at zero, so that early training does not have to undo a random one.
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(
        self, x: Float[Tensor, "n k"], t: Float[Tensor, "#n 1"], conditions: Float[Tensor, "n c"] | None = None
    ) -> Float[Tensor, "n k"]:
        """Velocities (n, K) at points.

        Args:
            x: Points, (n, K).
            t: Their times, (n, 1), or one time for all, (1, 1).
            conditions: Conditions of the networks, (n, C), from `with_presence`.
        """
        frequencies = torch.exp(torch.linspace(0, math.log(200.0), _FREQUENCIES, device=x.device, dtype=x.dtype))
        angles = t * frequencies  # (n, frequencies)
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        if self.condition is not None:
            time = time + self.condition(conditions)
        h = self.inward(x)
        for block in self.blocks:
            h = block(h, time)
        return self.outward(self.norm(h))


class Block(nn.Module):
    """A residual block, h + W2 silu(W1 norm(h) + time).

    Args:
        width: Width of the residual stream.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.time = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Float[Tensor, "n width"], time: Float[Tensor, "#n width"]) -> Float[Tensor, "n width"]:
        """The residual stream (n, width) after the block.

        Args:
            h: Residual stream, (n, width).
            time: Embedded times, (n, width) or (1, width).
        """
        return h + self.second(nn.functional.silu(self.first(self.norm(h)) + self.time(time)))


def with_presence(conditions: Float[Tensor, "n c"]) -> Float[Tensor, "n twice"]:
    """Conditions as the field sees them, (n, 2 C): unknown ones (NaN) are zero, and a flag says which are known.

    Args:
        conditions: Conditions, (n, C), NaN where unknown.
    """
    known = ~conditions.isnan()
    return torch.cat([conditions.masked_fill(~known, 0.0), known.to(conditions.dtype)], dim=1)

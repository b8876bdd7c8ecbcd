"""Random draws of networks side by side, each from a generator of its own."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from weightspace import seeds


class OwnDraws(Messenger):
    """An effect handler: network i's row of every normal site depends on its seed, the site and the step alone.

    Pyro draws all rows from one stream, so that a network's draws would depend on which networks lie beside it.

    Args:
        own: a seed for each network.
        step: iteration.
        still: sites whose value is their location, as nobody reads it.
    """

    def __init__(self, own: Sequence[int], step: int, still: Sequence[str] = ()) -> None:
        super().__init__()
        self.own, self.step, self.still = own, step, still
        self.drawn = 0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        base = msg["fn"]
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if type(base) not in (dist.Normal, dist.LogNormal):
            return
        location, scale = base.loc, base.scale
        if msg["name"] in self.still:
            msg["value"], msg["done"] = location, True
            return
        rows = [
            torch.randn(
                location.shape[1:], generator=seeds.generator(s, f"draw {self.drawn} of {msg['name']}", self.step)
            )
            for s in self.own
        ]
        value: Tensor = location + scale * torch.stack(rows)
        msg["value"] = value.exp() if type(base) is dist.LogNormal else value
        msg["done"] = True
        self.drawn += 1

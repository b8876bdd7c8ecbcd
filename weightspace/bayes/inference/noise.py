"""Random draws of networks side by side, each from a generator of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from weightspace.bayes.inference.distributions import Gate, MeanField
from weightspace.runtime import seeds


class OwnDraws(Messenger):
    """An effect handler: network i's row of every normal or gate site depends on its seed, the site and the step alone.

    Pyro draws all rows from one stream, so that a network's draws would depend on which networks lie beside it.

    Args:
        network_seeds: One seed for each network.
        step: Iteration of the training.
        still: Names of sites that are not drawn and have their location as value, because nobody reads it.
    """

    def __init__(self, network_seeds: Sequence[int], step: int, still: Sequence[str] = ()) -> None:
        super().__init__()
        self.network_seeds, self.step, self.still = network_seeds, step, still
        self.drawn = 0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        base = msg["fn"]
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if msg["name"] in self.still:
            msg["value"], msg["done"] = base.loc, True
            return
        if type(base) in (dist.Normal, MeanField, dist.LogNormal):
            noise = self._rows(torch.randn, base.loc, msg["name"])
            value: Tensor = torch.addcmul(base.loc, base.scale, noise)
            msg["value"] = value.exp() if type(base) is dist.LogNormal else value
        elif type(base) is Gate:
            msg["value"] = base.of_uniform(self._rows(torch.rand, base.logits, msg["name"]))
        else:
            return
        msg["done"] = True
        self.drawn += 1

    def _rows(self, source: Callable[..., Tensor], like: Tensor, site: str) -> Tensor:
        """Random numbers in the shape of a tensor, on its device; each network's from a generator of its own."""
        purpose = f"draw {self.drawn} of {site}"
        rows = [
            source(like.shape[1:], generator=seeds.generator(seed, purpose, self.step)) for seed in self.network_seeds
        ]
        return (torch.stack(rows) if len(rows) > 1 else rows[0][None]).to(like.device)

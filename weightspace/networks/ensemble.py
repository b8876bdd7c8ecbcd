"""Ensemble: many networks of one architecture that predict together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout


@dataclass(frozen=True)
class Ensemble:
    """N classifiers whose predicted probabilities are averaged.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        layout: Layout of the networks.
        weights: (N, D).
        buffers: (N, *shape) by name.
    """

    module: nn.Module
    layout: Layout
    weights: Float[Tensor, "nets d"]
    buffers: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.weights)

    def logits(self, x: ArrayLike | Tensor) -> Float[Tensor, "nets batch classes"]:
        """Raw outputs of every network, in one batched call."""
        inputs = torch.as_tensor(x, device=self.weights.device)
        if inputs.is_floating_point():
            inputs = inputs.to(self.weights.dtype)
        return predict(self.module, self.layout, self.weights, self.buffers, inputs)

    def member_proba(self, x: ArrayLike | Tensor) -> Float[Tensor, "nets batch classes"]:
        """Class probabilities of every network."""
        return self.logits(x).softmax(-1)

    def predict_proba(self, x: ArrayLike | Tensor) -> Float[Tensor, "batch classes"]:
        """Class probabilities of the ensemble: the mean over its networks."""
        return self.member_proba(x).mean(0)

    def predict(self, x: ArrayLike | Tensor) -> Tensor:
        """The most probable class of each input."""
        return self.predict_proba(x).argmax(-1)

"""Ensemble: many networks of one architecture that predict together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import Classes, OutputKind, Regression
from weightspace.networks.temperature import at_temperature, fit_temperature, require_temperature
from weightspace.runtime import checks, trees
from weightspace.runtime.trees import Tree


@dataclass(frozen=True)
class Ensemble:
    """N networks whose predictions are averaged: probabilities of classifiers, values of regressions.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        layout: Layout of the networks.
        weights: (N, D).
        buffers: (N, *shape) by name.
        outputs: What the networks' outputs mean.
        temperature: Temperature of the ensemble's probabilities; see `calibrated`.
    """

    module: nn.Module
    layout: Layout
    weights: Float[Tensor, "nets d"]
    buffers: Mapping[str, Tensor]
    outputs: OutputKind = Classes()
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.weights)

    def raw(self, x: ArrayLike | Tree) -> Tree:
        """What every network returns, with an axis of networks first, in one batched call.

        Args:
            x: Inputs: a tensor or array, a tuple of a network's inputs, or a mapping of them by name.
        """
        return predict(self.module, self.layout, self.weights, self.buffers, self._inputs(x))

    def logits(self, x: ArrayLike | Tree) -> Float[Tensor, "nets batch ..."]:
        """The outputs that predictions are made from; logits have their classes on the last axis."""
        return self.outputs.predictions(self.raw(x))

    def member_proba(self, x: ArrayLike | Tree) -> Float[Tensor, "nets batch ..."]:
        """Probabilities of every network: softmax over classes, or the sigmoid of logits of yes or no.

        Raises:
            InputError: The networks predict values, or have one output that is not known to be a logit.
        """
        return self.outputs.probabilities(self.logits(x))

    def predict_proba(self, x: ArrayLike | Tree) -> Float[Tensor, "batch ..."]:
        """Probabilities of the ensemble: the mean over its networks, at the ensemble's temperature.

        Raises:
            InputError: The networks predict values, or have one output that is not known to be a logit.
        """
        p = self.member_proba(x).mean(0)
        return p if self.temperature == 1.0 else at_temperature(p, self.temperature, self.outputs)

    def calibrated(self, x: ArrayLike | Tree, y: Tree) -> "Ensemble":
        """The same networks at the temperature that makes the negative log-likelihood of these targets least.

        The most probable classes stay the same. Give validation data, never test data.

        Args:
            x: Inputs.
            y: Their targets.

        Raises:
            InputError: The networks predict values.
        """
        require_temperature(self.outputs)
        plain = replace(self, temperature=1.0)
        found = fit_temperature(plain.predict_proba(x), self.outputs.targets(y), self.outputs)
        return replace(plain, temperature=found)

    def predict(self, x: ArrayLike | Tree) -> Tensor:
        """The most probable class of each input, 0 or 1 for logits of yes or no, or the mean value of regressions."""
        if isinstance(self.outputs, Regression):
            return self.logits(x).mean(0)
        if isinstance(self.outputs, Classes):
            return self.predict_proba(x).argmax(-1)
        return (self.predict_proba(x) > 0.5).long()

    def _inputs(self, x: Any) -> Tree:
        several = isinstance(x, Mapping) or (isinstance(x, tuple | list) and bool(trees.tensors(x)))
        if several:
            parts = x.items() if isinstance(x, Mapping) else enumerate(x)
            made = {name: self._inputs(part) for name, part in parts}
            return made if isinstance(x, Mapping) else tuple(made.values())
        try:
            inputs = torch.as_tensor(x, device=self.weights.device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            wanted = "inputs of the networks: a tensor or array, a tuple of them, or a mapping of them by name"
            raise checks.refuse("x", wanted, x) from error
        return inputs.to(self.weights.dtype) if inputs.is_floating_point() else inputs

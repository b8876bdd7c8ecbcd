"""What networks predict together where they are no classifiers of one label: mean probabilities, or mean values."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.evaluation.metrics import predictive
from weightspace.networks.outputs import Binary, Classes, OutputKind, selected
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree


@dataclass(frozen=True)
class JointOutputs:
    """The outputs of N networks as one network's.

    Args:
        networks: Number of networks.
        outputs: What a network would return that predicts as they do together; further floating-point tensors of a
            structure are means.
        predictions: Its tensor of predictions, with classes on the last axis: log-probabilities, logits or values.
        votes: Number of networks that predict each class (of yes or no: no and yes) on the last axis; None for values.
        variance: Variance of the members' values; None where these are no values.
    """

    networks: int
    outputs: Tree
    predictions: Tensor
    votes: Float[Tensor, "*targets c"] | None = None
    variance: Tensor | None = None

    @property
    def disagreement(self) -> float:
        """Share of targets on which two networks predict differently, as the mean over pairs."""
        assert self.votes is not None, "values are not voted for"
        return predictive.disagreement(self.votes.reshape(-1, self.votes.shape[-1]))


class MeanOutputs:
    """Adds up the outputs of block after block of networks.

    Args:
        kind: What the networks' outputs mean: `Classes`, `Binary` or `Regression`.
    """

    def __init__(self, kind: OutputKind) -> None:
        self.kind = kind
        self.networks = 0
        self.sums: list[Tensor] = []
        self.structure: Tree = None
        self.dtype = torch.float32

    def add(self, outputs: Tree) -> None:
        """Add the outputs of further networks on the same samples."""
        predictions = self.kind.predictions(outputs)
        self.dtype = predictions.dtype
        new = self._summed(predictions.double())
        structure = trees.apply(
            lambda tensor: tensor.double().sum(0) if tensor.is_floating_point() else tensor[0], outputs
        )
        if self.networks:
            logarithmic = {Classes: 1, Binary: 2}.get(type(self.kind), 0)  # how many sums are of logarithms
            new = [
                torch.logaddexp(a, b) if i < logarithmic else a + b
                for i, (a, b) in enumerate(zip(self.sums, new, strict=True))
            ]
            structure = trees.apply(lambda a, b: a + b if a.is_floating_point() else a, self.structure, structure)
        self.sums, self.structure = new, structure
        self.networks += len(predictions)

    def result(self) -> JointOutputs:
        """The outputs of all networks so far, as one network's."""
        assert self.networks, "no outputs were added"
        n, kind = self.networks, self.kind
        if isinstance(kind, Classes):
            joint = self.sums[0] - math.log(n)
            return JointOutputs(n, self._outputs(joint.movedim(-1, kind.axis)), joint, self.sums[1])
        if isinstance(kind, Binary):
            joint, yes = self.sums[0] - self.sums[1], self.sums[2]
            given = joint.sigmoid() if kind.probabilities_given else joint
            return JointOutputs(n, self._outputs(given), joint, torch.stack([n - yes, yes], -1))
        mean = self.sums[0] / n
        variance = (self.sums[1] / n - mean.square()).clamp(min=0) * n / max(n - 1, 1)
        return JointOutputs(n, self._outputs(mean), mean, variance=variance)

    def _summed(self, predictions: Float[Tensor, "n ..."]) -> list[Tensor]:
        """Sums over networks, of logarithms first where probabilities are averaged."""
        if isinstance(self.kind, Classes):
            votes = F.one_hot(predictions.argmax(-1), predictions.shape[-1]).sum(0).double()
            return [predictions.log_softmax(-1).logsumexp(0), votes]
        if isinstance(self.kind, Binary):
            yes, no = F.logsigmoid(predictions).logsumexp(0), F.logsigmoid(-predictions).logsumexp(0)
            return [yes, no, (predictions > 0).sum(0).double()]
        return [predictions.sum(0), predictions.square().sum(0)]

    def _outputs(self, joint: Tensor) -> Tree:
        """The structure that a network returns, with the joint predictions in their place."""
        kind: Any = self.kind
        joint = joint.to(self.dtype)
        if isinstance(self.structure, Tensor):
            return joint
        chosen = selected(self.structure, kind.output, "output")

        def mean(tensor: Tensor) -> Tensor:
            if tensor is chosen:
                return joint
            return (tensor / self.networks).to(self.dtype) if tensor.is_floating_point() else tensor

        return trees.apply(mean, self.structure)

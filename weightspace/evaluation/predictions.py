"""What a group of networks predicts on a set of inputs, gathered in blocks of networks."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.evaluation.memory import capacity
from weightspace.evaluation.metrics import predictive
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, predict
from weightspace.networks.outputs import Classes, OutputKind
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.sparse.predicting import predict_sparse

COMPARED = 512  # of larger groups so many networks are compared one by one
_COPIES = 6  # outputs, and probabilities, logarithms, ... in float64 beside them


@dataclass(frozen=True)
class Predictions:
    """Predictions of N classifiers of one label on S samples; the logits themselves are not kept.

    Args:
        networks: Number of networks.
        joint: Log-probabilities of the ensemble.
        mean_entropy: Entropy of each prediction in nats, as the mean over networks.
        votes: Number of networks that predict each class.
    """

    networks: int
    joint: Float[Tensor, "1 s c"]
    mean_entropy: Float[Tensor, " s"]
    votes: Float[Tensor, "s c"]

    @property
    def entropy(self) -> Float[Tensor, " s"]:
        """Entropy of the ensemble's prediction, in nats."""
        return predictive.entropy(self.joint)[0]

    @property
    def mutual_information(self) -> Float[Tensor, " s"]:
        """Entropy of the mean prediction minus mean entropy: how much the networks' predictions differ, in nats."""
        return (self.entropy - self.mean_entropy).clamp(min=0)


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions on labelled samples, and what they are worth.

    Args:
        predictions: Predictions of all networks together, as the scorer gathers them; None where outputs cannot be
            averaged.
        errors: How each network errs: where it is wrong, or a value such as the residual, for each target.
        parts: What each of (up to 512 of) the networks contributes to an ensemble: the probability that it gives to
            the right class, or the residual; None where outputs cannot be averaged.
        scores: Metrics of every network by name, the main one first.
    """

    predictions: Any
    errors: Bool[Tensor, "n t"] | Float[Tensor, "n t"]
    parts: Float[Tensor, "m s ..."] | None
    scores: Mapping[str, Float[Tensor, " n"]]

    @property
    def main(self) -> Float[Tensor, " n"]:
        """The main metric of every network."""
        return next(iter(self.scores.values()))

    @property
    def finite(self) -> bool:
        """Whether all metrics, their spread and all errors are finite."""
        figures = [*self.scores.values(), self.main.std(correction=0), self.errors]
        return all(bool(figure.isfinite().all()) for figure in figures)


@runtime_checkable
class OutputSum(Protocol):
    """Gathers what block after block of networks predict together."""

    def add(self, outputs: Tree) -> None:
        """Add the outputs of further networks on the same samples, networks first."""
        ...

    def result(self) -> Any:
        """The predictions of all networks so far."""
        ...


class PredictionSum:
    """Adds up the predictions of block after block of classifiers of one label.

    Args:
        kind: What the networks' outputs mean.
    """

    def __init__(self, kind: OutputKind = Classes()) -> None:
        self.kind = kind
        self.networks = 0
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, outputs: Tree) -> None:
        """Add the outputs of further networks on the same samples."""
        self.add_predicted(predictive.Predicted(self.kind.predictions(outputs)))

    def add_predicted(self, predicted: predictive.Predicted) -> None:
        """Add what further networks predict on the same samples.

        Args:
            predicted: Predictions of the networks.
        """
        log_p, entropy, votes = predicted.log_p.logsumexp(0), predicted.entropy.sum(0), predicted.votes
        if self.sums is not None:
            log_p = torch.logaddexp(self.sums[0], log_p)
            entropy, votes = entropy + self.sums[1], votes + self.sums[2]
        self.sums = log_p, entropy, votes
        self.networks += len(predicted.logits)

    def result(self) -> Predictions:
        """The predictions of all networks so far."""
        assert self.sums is not None, "no outputs were added"
        log_sum, entropy, votes = self.sums
        joint = log_sum - math.log(self.networks)
        return Predictions(self.networks, joint[None], entropy / self.networks, votes)


def outputs_in_blocks(
    networks: Collection, x: Tree, *, memory_gb: float, prepare: Callable[[Collection], Collection] | None = None
) -> Iterator[Tree]:
    """What every network returns for the same inputs, a block of networks at a time, with networks first.

    Args:
        networks: The networks.
        x: Inputs.
        memory_gb: Memory for a block: its weights and masks, outputs and what is computed from them, in GiB.
        prepare: What is done to each block first, such as estimating BatchNorm statistics.
    """
    module = networks.architecture.build_seeded(0)
    one = predict(module, networks.layout, networks[:1].weights, networks[:1].buffers, trees.take(x, slice(0, 1)))
    values = sum(tensor.numel() for tensor in trees.tensors(one))
    size = capacity(memory_gb, _COPIES * 8 * trees.samples(x) * values + 16 * networks.layout.size)
    for rows in blocks(len(networks), size):
        own = networks[rows]  # a copy: modules may write to their tensors, as embeddings with a largest norm do
        part = own if prepare is None else prepare(own)
        yield predict_sparse(part, x, module)

"""What a group of networks predicts on a set of inputs, gathered in blocks of networks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.evaluation.memory import capacity
from weightspace.evaluation.metrics import calibration, predictive
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, predict
from weightspace.tasks.task import Split

COMPARED = 512  # of larger groups so many networks are compared one by one
_COPIES = 6  # logits, and probabilities, logarithms, ... in float64 beside them


@dataclass(frozen=True)
class Predictions:
    """Predictions of N networks on S samples; the logits themselves are not kept.

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
class NetworkMetrics:
    """Predictive metrics of every network; `weightspace.report.results.GroupMetrics` explains them."""

    accuracy: Float[Tensor, " n"]
    nll: Float[Tensor, " n"]
    brier: Float[Tensor, " n"]
    ece: Float[Tensor, " n"]
    adaptive_ece: Float[Tensor, " n"]
    mace: Float[Tensor, " n"]

    @classmethod
    def of(cls, logits: Float[Tensor, "n s c"], y: Tensor) -> "NetworkMetrics":
        """The metrics of networks by their logits.

        Args:
            logits: Logits of every network.
            y: The right classes.
        """
        width = calibration.equal_width(logits, y)
        return cls(
            accuracy=predictive.accuracy(logits, y),
            nll=predictive.nll(logits, y),
            brier=predictive.brier(logits, y),
            ece=width.ece,
            adaptive_ece=calibration.equal_mass(logits, y).ece,
            mace=width.mace,
        )

    @classmethod
    def concatenate(cls, parts: "list[NetworkMetrics]") -> "NetworkMetrics":
        """The metrics of several blocks of networks, in order."""
        return cls(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def to_lists(self) -> dict[str, list[float]]:
        """Every metric as a list of numbers, by the name of its field."""
        return {one.name: getattr(self, one.name).tolist() for one in fields(self)}


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions on labelled samples with each network's own metrics.

    Args:
        predictions: Predictions of all networks together.
        wrong: Where each network errs.
        right: Probability that each of (up to 512 of) the networks gives to the right class.
        metrics: Metrics of every network.
    """

    predictions: Predictions
    wrong: Bool[Tensor, "n s"]
    right: Float[Tensor, "m s"]
    metrics: NetworkMetrics


class PredictionSum:
    """Adds up the predictions of block after block of networks."""

    def __init__(self) -> None:
        self.networks = 0
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, logits: Float[Tensor, "n s c"]) -> None:
        """Add the logits of further networks on the same samples."""
        log_p = logits.double().log_softmax(-1).logsumexp(0)
        entropy = predictive.entropy(logits).sum(0)
        votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0).double()
        if self.sums is not None:
            log_p = torch.logaddexp(self.sums[0], log_p)
            entropy, votes = entropy + self.sums[1], votes + self.sums[2]
        self.sums = log_p, entropy, votes
        self.networks += len(logits)

    def result(self) -> Predictions:
        """The predictions of all networks so far."""
        assert self.sums is not None, "no logits were added"
        log_sum, entropy, votes = self.sums
        joint = log_sum - math.log(self.networks)
        return Predictions(self.networks, joint[None], entropy / self.networks, votes)


def logits_in_blocks(
    networks: Collection, x: Tensor, *, memory_gb: float, prepare: Callable[[Collection], Collection] | None = None
) -> Iterator[Float[Tensor, "n s c"]]:
    """Logits of every network on the same inputs, a block of networks at a time.

    Args:
        networks: The networks.
        x: Inputs.
        memory_gb: Memory for a block: its weights and masks, logits and what is computed from them, in GiB.
        prepare: What is done to each block first, such as estimating BatchNorm statistics.
    """
    module = networks.architecture.build_seeded(0)
    classes = predict(module, networks.layout, networks[:1].weights, networks[:1].buffers, x[:1]).shape[-1]
    size = capacity(memory_gb, _COPIES * 8 * len(x) * classes + 16 * networks.layout.size)
    for rows in blocks(len(networks), size):
        part = networks[rows] if prepare is None else prepare(networks[rows])
        yield predict(module, part.layout, part.weights, part.buffers, x)


def score(
    networks: Collection, data: Split, *, memory_gb: float, prepare: Callable[[Collection], Collection] | None = None
) -> ScoredPredictions:
    """Predictions on labelled samples, with each network's metrics.

    Args:
        networks: The networks.
        data: Labelled samples.
        memory_gb: Memory for a block of networks, see `logits_in_blocks`.
        prepare: What is done to each block first, see `logits_in_blocks`.
    """
    total = PredictionSum()
    metrics: list[NetworkMetrics] = []
    wrong: list[Tensor] = []
    right: list[Tensor] = []
    for logits in logits_in_blocks(networks, data.x, memory_gb=memory_gb, prepare=prepare):
        total.add(logits)
        missing = COMPARED - sum(map(len, right))
        if missing > 0:
            index = data.y.expand(min(missing, len(logits)), -1)[..., None]
            right.append(logits[:missing].softmax(-1).gather(-1, index)[..., 0])
        wrong.append(predictive.errors(logits, data.y))
        metrics.append(NetworkMetrics.of(logits, data.y))
    return ScoredPredictions(total.result(), torch.cat(wrong), torch.cat(right), NetworkMetrics.concatenate(metrics))

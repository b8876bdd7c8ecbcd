"""What a group of networks predicts on a set of inputs, gathered in blocks of networks."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.evaluation.metrics import calibration, predictive
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, predict
from weightspace.tasks.task import Split

SOME = 512  # of larger groups so many networks are compared one by one
_COPIES = 6  # logits, and probabilities, logarithms, ... in float64 beside them


@dataclass(frozen=True)
class Predictions:
    """Predictions of N networks on S samples; the logits themselves are not kept.

    Args:
        joint: log-probabilities of the ensemble.
        mean_entropy: mean over networks of each prediction's entropy.
        votes: networks that predict each class.
    """

    networks: int
    joint: Float[Tensor, "1 s c"]
    mean_entropy: Float[Tensor, " s"]
    votes: Float[Tensor, "s c"]

    @property
    def entropy(self) -> Float[Tensor, " s"]:
        return predictive.entropy(self.joint)[0]

    @property
    def mutual_information(self) -> Float[Tensor, " s"]:
        """Entropy of the mean prediction minus mean entropy: how much the networks' predictions differ, in nats."""
        return (self.entropy - self.mean_entropy).clamp(min=0)


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions on labelled samples with each network's own metrics.

    Args:
        wrong: where each network errs.
        metrics: one value a network: accuracy, nll, brier, ece, adaptive ece, mace.
        right: probability that each of (up to 512 of) the networks gives to the right class.
    """

    predictions: Predictions
    wrong: Bool[Tensor, "n s"]
    right: Float[Tensor, "m s"]
    metrics: Mapping[str, Float[Tensor, " n"]]


class PredictionSum:
    """Adds up the logits of block after block of networks."""

    def __init__(self) -> None:
        self.networks = 0
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, logits: Float[Tensor, "n s c"]) -> None:
        log_p = logits.double().log_softmax(-1).logsumexp(0)
        entropy = predictive.entropy(logits).sum(0)
        votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0).double()
        if self.sums is not None:
            log_p = torch.logaddexp(self.sums[0], log_p)
            entropy, votes = entropy + self.sums[1], votes + self.sums[2]
        self.sums = log_p, entropy, votes
        self.networks += len(logits)

    def result(self) -> Predictions:
        assert self.sums is not None, "no logits were added"
        log_sum, entropy, votes = self.sums
        joint = log_sum - math.log(self.networks)
        return Predictions(self.networks, joint[None], entropy / self.networks, votes)


def logits_in_blocks(
    networks: Collection, x: Tensor, *, memory: int, prepare: Callable[[Collection], Collection] | None = None
) -> Iterator[Float[Tensor, "n s c"]]:
    """Logits of every network on the same inputs, a block of networks at a time.

    Args:
        memory: bytes for a block: its weights and masks, logits and what is computed from them.
        prepare: what is done to each block first, such as estimating BatchNorm statistics.
    """
    module = networks.architecture.build_seeded(0)
    classes = predict(module, networks.layout, networks[:1].weights, networks[:1].buffers, x[:1]).shape[-1]
    size = max(1, memory // (_COPIES * 8 * len(x) * classes + 16 * networks.layout.size))
    for rows in blocks(len(networks), size):
        part = networks[rows] if prepare is None else prepare(networks[rows])
        yield predict(module, part.layout, part.weights, part.buffers, x)


def score(
    networks: Collection, data: Split, *, memory: int, prepare: Callable[[Collection], Collection] | None = None
) -> ScoredPredictions:
    """Predictions on labelled samples, with each network's metrics; see :func:`logits_in_blocks`."""
    total = PredictionSum()
    parts: list[dict[str, Tensor]] = []
    right: list[Tensor] = []
    for logits in logits_in_blocks(networks, data.x, memory=memory, prepare=prepare):
        total.add(logits)
        missing = SOME - sum(map(len, right))
        if missing > 0:
            index = data.y.expand(min(missing, len(logits)), -1)[..., None]
            right.append(logits[:missing].softmax(-1).gather(-1, index)[..., 0])
        parts.append({"wrong": predictive.errors(logits, data.y), **of_each(logits, data.y)})
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return ScoredPredictions(total.result(), whole.pop("wrong"), torch.cat(right), whole)


def of_each(logits: Float[Tensor, "n s c"], y: Tensor) -> dict[str, Tensor]:
    """The metrics of each network, by name."""
    width = calibration.equal_width(logits, y)
    return {
        "accuracy": 1 - predictive.errors(logits, y).double().mean(1),
        "nll": predictive.nll(logits, y),
        "brier": predictive.brier(logits, y),
        "ece": width.ece,
        "adaptive ece": calibration.equal_mass(logits, y).ece,
        "mace": width.mace,
    }

"""Classifiers of one label a sample: accuracy, likelihood and calibration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.metrics import calibration, intervals, predictive
from weightspace.evaluation.predictions import (
    COMPARED,
    Predictions,
    PredictionSum,
    ScoredPredictions,
    outputs_in_blocks,
)
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Classes, OutputKind
from weightspace.report.metrics import (
    ACCURACY,
    EnsembleIntervals,
    EnsembleMetrics,
    PredictorMetrics,
    ReportedMetric,
    Scoring,
)
from weightspace.report.results import ReliabilityBin
from weightspace.tasks.data import Data


@dataclass(frozen=True)
class OneLabel:
    """Scores classifiers of one label a sample, by accuracy.

    Args:
        kind: What the networks' outputs mean.
    """

    kind: OutputKind = Classes()

    @property
    def main(self) -> ReportedMetric:
        return ACCURACY

    @property
    def reported(self) -> Scoring | None:
        return None

    @property
    def ensemble_loss(self) -> str:
        return "NLL"

    def score(
        self,
        networks: Collection,
        data: Data,
        *,
        memory_gb: float,
        prepare: Callable[[Collection], Collection] | None = None,
    ) -> ScoredPredictions:
        y = self.kind.targets(data.y)
        total = PredictionSum(self.kind)
        scores: list[dict[str, Tensor]] = []
        wrong: list[Tensor] = []
        right: list[Tensor] = []
        for outputs in outputs_in_blocks(networks, data.x, memory_gb=memory_gb, prepare=prepare):
            predicted = predictive.Predicted(self.kind.predictions(outputs))
            total.add_predicted(predicted)
            logits = predicted.logits
            missing = COMPARED - sum(map(len, right))
            if missing > 0:
                index = y.expand(min(missing, len(logits)), -1)[..., None]
                right.append(logits[:missing].softmax(-1).gather(-1, index)[..., 0])
            wrong.append(predicted.errors(y))
            scores.append(network_metrics(predicted, y))
        together = {name: torch.cat([part[name] for part in scores]) for name in scores[0]}
        return ScoredPredictions(total.result(), torch.cat(wrong), torch.cat(right), together)

    def total(self) -> PredictionSum:
        return PredictionSum(self.kind)

    def ensemble(self, predictions: Predictions, data: Data) -> EnsembleMetrics:
        return ensemble_metrics(predictions, self.kind.targets(data.y))

    def shifted(self, predictions: Predictions, data: Data) -> Mapping[str, float]:
        metrics = predictor_metrics(predictions.joint, self.kind.targets(data.y))
        return {name: metrics[name] for name in ("accuracy", "nll", "ece")}

    def intervals(self, predictions: Predictions, data: Data, *, seed: int) -> EnsembleIntervals | None:
        return intervals.ensemble_intervals(predictions.joint, self.kind.targets(data.y), seed=seed)

    def reliability(self, predictions: Predictions, data: Data) -> list[ReliabilityBin]:
        return reliability_bins(calibration.equal_width(predictions.joint, self.kind.targets(data.y)))

    def gain(self, parts: Tensor) -> Float[Tensor, " s"]:
        return intervals.log_likelihood(parts)


def network_metrics(predicted: predictive.Predicted, y: Tensor) -> dict[str, Float[Tensor, " n"]]:
    """Metrics of every network by what it predicts.

    Args:
        predicted: Predictions of every network, or those of an ensemble as one.
        y: The right classes.
    """
    confidence = calibration.Confidence.of(predicted, y)
    width = confidence.equal_width
    return {
        "accuracy": predicted.accuracy(y),
        "nll": predicted.nll(y),
        "brier": predicted.brier(y),
        "ece": width.ece,
        "adaptive_ece": confidence.equal_mass.ece,
        "mace": width.mace,
    }


def predictor_metrics(joint: Float[Tensor, "1 s c"], y: Tensor) -> PredictorMetrics:
    """Metrics of one predictor.

    Args:
        joint: Its log-probabilities, or logits.
        y: The right classes.
    """
    metrics = network_metrics(predictive.Predicted(joint), y)
    return PredictorMetrics({name: value.item() for name, value in metrics.items()})


def ensemble_metrics(predictions: Predictions, y: Tensor) -> EnsembleMetrics:
    """Metrics of an ensemble as one predictor.

    Args:
        predictions: Predictions of its members.
        y: The right classes.
    """
    together: dict[str, Any] = {
        **predictor_metrics(predictions.joint, y).scores,
        "mutual_information": predictions.mutual_information.mean().item(),
        "disagreement": predictive.disagreement(predictions.votes),
    }
    return EnsembleMetrics(together)


def reliability_bins(bins: calibration.Bins) -> list[ReliabilityBin]:
    """Count, mean confidence and accuracy of each bin of confidence of one predictor; zeros where a bin is empty.

    Args:
        bins: Bins of one predictor.
    """
    rows = zip(bins.count[0].tolist(), bins.confidence[0].tolist(), bins.accuracy[0].tolist(), strict=True)
    return [ReliabilityBin(n, confidence / max(n, 1), right / max(n, 1)) for n, confidence, right in rows]

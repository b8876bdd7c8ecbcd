"""Networks that are no classifiers of one label: scored by their task's own metrics and loss.

What stands in the place of a classifier's errors: wrong predictions of each position or label, residuals of values
(over the targets' standard deviation, so that outputs of several units count alike), or the loss of each sample where
nothing else is known of the outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from weightspace.evaluation.mean_outputs import JointOutputs, MeanOutputs
from weightspace.evaluation.metrics import calibration, intervals
from weightspace.evaluation.one_label import reliability_bins
from weightspace.evaluation.predictions import COMPARED, ScoredPredictions, outputs_in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Binary, Classes, OutputKind, Regression
from weightspace.report.metrics import EnsembleIntervals, EnsembleMetrics, ReportedMetric, Scoring
from weightspace.report.results import ReliabilityBin
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Data
from weightspace.tasks.task import Task

_TARGETS = 20_000  # targets of evenly spaced samples on which two ensembles are compared
_NORMAL = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class OtherOutputs:
    """Scores networks by the metrics and the loss of their task.

    Args:
        task: The task.
    """

    task: Task

    @property
    def kind(self) -> OutputKind:
        """What the outputs mean."""
        return self.task.output_kind

    @property
    def averaged(self) -> bool:
        """Whether outputs can be averaged, as probabilities or values."""
        return isinstance(self.kind, Classes | Binary | Regression)

    @property
    def main(self) -> ReportedMetric:
        return self.reported.main

    @property
    def reported(self) -> Scoring:
        kind = self.kind
        metrics = [ReportedMetric(metric.name, metric.higher_is_better) for metric in self.task.scores]
        metrics.append(ReportedMetric("loss", False))
        if isinstance(kind, Classes | Binary) and "ece" not in {metric.name for metric in metrics}:
            metrics.append(ReportedMetric("ece", False))
        values = "residual correlation" if isinstance(kind, Regression) else "loss correlation"
        errors = "error IoU" if isinstance(kind, Classes | Binary) else values
        return Scoring(type(kind).__name__, metrics, errors)

    @property
    def ensemble_loss(self) -> str:
        return "mean squared error over the targets' variance" if isinstance(self.kind, Regression) else "NLL"

    def score(
        self,
        networks: Collection,
        data: Data,
        *,
        memory_gb: float,
        prepare: Callable[[Collection], Collection] | None = None,
    ) -> ScoredPredictions:
        y, total = data.y, self.total()
        scores: dict[str, list[Tensor]] = {metric.name: [] for metric in self.reported.metrics}
        errors: list[Tensor] = []
        parts: list[Tensor] = []
        for outputs in outputs_in_blocks(networks, data.x, memory_gb=memory_gb, prepare=prepare):
            if total is not None:
                total.add(outputs)
                missing = COMPARED - sum(map(len, parts))
                if missing > 0:
                    parts.append(self._parts(trees.take(outputs, slice(0, missing)), y))
            errors.append(self._errors(outputs, y))
            for name, values in self._metrics(outputs, y).items():
                scores[name].append(values)
        together = {name: torch.cat(values) for name, values in scores.items()}
        predictions = None if total is None else total.result()
        return ScoredPredictions(predictions, torch.cat(errors), torch.cat(parts) if parts else None, together)

    def total(self) -> MeanOutputs | None:
        return MeanOutputs(self.kind) if self.averaged else None

    def ensemble(self, predictions: JointOutputs | None, data: Data) -> EnsembleMetrics:
        if predictions is None:
            return EnsembleMetrics({})
        figures = dict(self.shifted(predictions, data))
        if predictions.votes is not None:
            return EnsembleMetrics({**figures, "disagreement": predictions.disagreement})
        assert predictions.variance is not None
        if predictions.networks > 1:
            error = (predictions.predictions - self._targets(data.y, predictions.predictions)).abs()
            covered = error <= _NORMAL * predictions.variance.sqrt()
            figures |= {"spread": predictions.variance.mean().sqrt().item(), "coverage": covered.double().mean().item()}
        return EnsembleMetrics(figures)

    def shifted(self, predictions: JointOutputs | None, data: Data) -> Mapping[str, float]:
        if predictions is None:
            return {}
        one = trees.apply(lambda tensor: tensor[None], predictions.outputs)
        return {name: values.item() for name, values in self._metrics(one, data.y).items()}

    def intervals(self, predictions: JointOutputs | None, data: Data, *, seed: int) -> EnsembleIntervals | None:  # noqa: ARG002
        return None

    def reliability(self, predictions: JointOutputs | None, data: Data) -> list[ReliabilityBin]:
        if predictions is None or not isinstance(self.kind, Classes | Binary):
            return []
        return reliability_bins(self._bins(predictions.predictions[None], data.y))

    def gain(self, parts: Tensor) -> Float[Tensor, " s"]:
        if isinstance(self.kind, Regression):
            return -parts.square().mean(1)
        counted = ~parts.isnan()
        log_p = torch.where(counted, intervals.log_likelihood(parts), 0.0)
        return log_p.sum(1) / counted.sum(1).clamp(min=1)

    def _metrics(self, outputs: Tree, y: Tree) -> dict[str, Float[Tensor, " n"]]:
        """Metrics of every network, the main one first, by their outputs with networks first."""
        members = [trees.take(outputs, i) for i in range(len(trees.first(outputs)))]
        figures = {metric.name: [metric(one, y) for one in members] for metric in self.task.scores}
        figures["loss"] = [self.task.loss(one, y).item() for one in members]
        result = {name: torch.tensor(values, dtype=torch.float64) for name, values in figures.items()}
        if isinstance(self.kind, Classes | Binary) and "ece" not in result:
            result["ece"] = self._bins(self.kind.predictions(outputs), y).ece
        return result

    def _bins(self, predictions: Tensor, y: Tree) -> calibration.Bins:
        """Bins of confidence of each network, over all positions or labels that count."""
        truth, counted = self._counted(y)
        if isinstance(self.kind, Classes):
            flat = predictions.reshape(len(predictions), -1, predictions.shape[-1])
            return calibration.equal_width(flat[:, counted], truth[counted])
        return calibration.of_yes(predictions.sigmoid().reshape(len(predictions), -1), truth)

    def _errors(self, outputs: Tree, y: Tree) -> Tensor:
        """Wrong predictions of every network, its residuals, or its losses, (n, targets)."""
        if not self.averaged:
            count = len(trees.first(outputs))
            return torch.stack([sample_losses(self.task.loss, trees.take(outputs, i), y) for i in range(count)])
        if isinstance(self.kind, Regression):
            return self._residuals(outputs, y).flatten(1)
        truth, counted = self._counted(y)
        labels = self.kind.labels(self.kind.predictions(outputs))
        return (labels.reshape(len(labels), -1) != truth)[:, counted]

    def _parts(self, outputs: Tree, y: Tree) -> Float[Tensor, "n s k"]:
        """What networks contribute to the loss of an ensemble on each target; NaN on targets that do not count."""
        samples = trees.samples(y, "targets")
        each = max(1, self.kind.targets(y).numel() // samples)
        rows = torch.arange(0, samples, -(-samples * each // _TARGETS))
        if isinstance(self.kind, Regression):
            return self._residuals(outputs, y)[:, rows].double().reshape(-1, len(rows), each)
        predictions = self.kind.predictions(outputs)[:, rows]
        truth = self.kind.targets(y)[rows]
        if isinstance(self.kind, Classes):
            counted = truth != self.kind.ignored
            index = torch.where(counted, truth, 0).expand(predictions.shape[:-1])[..., None]
            right = predictions.double().softmax(-1).gather(-1, index)[..., 0].masked_fill(~counted, torch.nan)
        else:
            flat = predictions.double().reshape(len(predictions), *truth.shape)
            right = (flat * (2.0 * truth - 1)).sigmoid()
        return right.reshape(-1, len(rows), each)

    def _residuals(self, outputs: Tree, y: Tree) -> Float[Tensor, "n s ..."]:
        """Predicted minus true values, over each target's standard deviation."""
        truth = self.kind.targets(y)
        spread = truth.double().std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        predictions = self.kind.predictions(outputs)
        return ((predictions.reshape(len(predictions), *truth.shape) - truth) / scale).to(predictions.dtype)

    def _targets(self, y: Tree, like: Tensor) -> Tensor:
        return self.kind.targets(y).reshape(like.shape)

    def _counted(self, y: Tree) -> tuple[Tensor, Tensor]:
        """All targets in one row, and which of them count."""
        truth = self.kind.targets(y).flatten()
        counted = (
            truth != self.kind.ignored if isinstance(self.kind, Classes) else torch.ones_like(truth, dtype=torch.bool)
        )
        return truth, counted


def sample_losses(loss: Callable[[Tree, Tree], Tensor], outputs: Tree, y: Tree) -> Float[Tensor, " s"]:
    """The loss of each sample by itself.

    Args:
        loss: Mean loss of outputs against targets.
        outputs: One network's outputs.
        y: Targets.
    """
    given = trees.tensors(outputs)
    count = len(given)

    def one(*parts: Tensor) -> Tensor:
        rows = [part[None] for part in parts]
        return loss(trees.rebuild(outputs, rows[:count]), trees.rebuild(y, rows[count:])).reshape(())

    columns = [*given, *trees.tensors(y)]
    try:
        return vmap(one)(*columns).detach().double()
    except RuntimeError:
        # Control flow on data, or random numbers, do not vectorise; one after another it works, or fails for good.
        return torch.stack([one(*(column[i] for column in columns)).detach().double() for i in range(len(columns[0]))])

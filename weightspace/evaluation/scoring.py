"""How networks are scored on a task: as classifiers of one label, or by the task's own metrics and loss."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.one_label import OneLabel
from weightspace.evaluation.other_outputs import OtherOutputs
from weightspace.evaluation.predictions import OutputSum, ScoredPredictions
from weightspace.networks.collection import Collection
from weightspace.report.metrics import EnsembleIntervals, EnsembleMetrics, ReportedMetric, Scoring
from weightspace.report.results import ReliabilityBin
from weightspace.tasks.data import Data
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task

Prepare = Callable[[Collection], Collection]


@runtime_checkable
class Scorer(Protocol):
    """Scores networks and ensembles on labelled samples; predictions are what its sums gather."""

    @property
    def main(self) -> ReportedMetric:
        """The metric that networks are judged by."""
        ...

    @property
    def reported(self) -> Scoring | None:
        """What the report says of the metrics; None for classifiers of one label."""
        ...

    @property
    def ensemble_loss(self) -> str:
        """What ensembles are compared by, such as "NLL"."""
        ...

    def score(
        self, networks: Collection, data: Data, *, memory_gb: float, prepare: Prepare | None = None
    ) -> ScoredPredictions:
        """Predictions on labelled samples, with each network's metrics.

        Args:
            networks: The networks.
            data: Labelled samples.
            memory_gb: Memory for a block of networks, see `outputs_in_blocks`.
            prepare: What is done to each block first, see `outputs_in_blocks`.
        """
        ...

    def total(self) -> OutputSum | None:
        """Gathers predictions of an ensemble; None where outputs cannot be averaged."""
        ...

    def ensemble(self, predictions: Any, data: Data) -> EnsembleMetrics:
        """Metrics of an ensemble as one predictor."""
        ...

    def shifted(self, predictions: Any, data: Data) -> Mapping[str, float]:
        """Metrics of an ensemble under a shift of its inputs."""
        ...

    def intervals(self, predictions: Any, data: Data, *, seed: int) -> EnsembleIntervals | None:
        """Intervals of an ensemble's metrics, if there are any."""
        ...

    def reliability(self, predictions: Any, data: Data) -> list[ReliabilityBin]:
        """Bins of an ensemble's confidence; empty where there are no probabilities."""
        ...

    def gain(self, parts: Tensor) -> Float[Tensor, " s"]:
        """What an ensemble gains from each sample, a function of the mean of its members' contributions."""
        ...


def scorer_of(task: Task) -> Scorer:
    """The scorer of a task: classifiers of one label by accuracy, all others by the task's metrics and loss.

    Args:
        task: The task.

    Raises:
        InputError: The task is a training loop, which has no samples.
    """
    require_samples(task, "scoring networks")
    if task.classification and (task.metrics is None or [metric.name for metric in task.scores] == ["accuracy"]):
        return OneLabel(task.output_kind)
    return OtherOutputs(task)

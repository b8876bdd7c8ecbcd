"""Metrics of torchmetrics, and whatever is called as they are, as metrics of a task."""

import copy
import re
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, LossOnly, OutputKind, like_targets
from weightspace.runtime.trees import Tree
from weightspace.tasks.metrics import Metric


@runtime_checkable
class TorchMetric(Protocol):
    """What torchmetrics calls a metric."""

    higher_is_better: bool | None

    def update(self, preds: Any, target: Any) -> None:
        """Take predictions and targets.

        Args:
            preds: Predictions.
            target: Targets.
        """
        ...

    def compute(self) -> Any:
        """The figure of all that was taken."""
        ...

    def reset(self) -> None:
        """Forget what was taken."""
        ...


def metric_from(metric: TorchMetric, kind: OutputKind) -> Metric:
    """A metric of torchmetrics as one of a task.

    Its name is that of its class (`MulticlassF1Score` is "multiclass_f1_score"), its direction what it says itself. It
    gets logits of classes with the classes on the axis after the samples, logits or probabilities of yes, values in the
    targets' shape, or, where nothing is known of the outputs, what the network returns.

    Args:
        metric: The metric; it stays as it is.
        kind: What the outputs mean.

    Raises:
        InputError: It does not say which direction is better.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()
    if not isinstance(metric.higher_is_better, bool):
        raise InputError(
            f"{type(metric).__name__} does not say whether more is better: give Metric({name!r}, function, "
            "higher_is_better=...) with a function of outputs and targets"
        )
    return Metric(name, _Figure(metric, kind), metric.higher_is_better)


@dataclass(frozen=True)
class _Figure:
    """The figure of one network's outputs, by a fresh copy of the metric."""

    metric: Any
    kind: OutputKind

    def __call__(self, outputs: Tree, y: Tree) -> Tensor | float:
        predicted, truth = _as_torchmetrics_wants(self.kind, outputs, y)
        metric = copy.deepcopy(self.metric)
        if isinstance(predicted, Tensor) and hasattr(metric, "to"):
            metric = metric.to(predicted.device)
        metric.reset()
        metric.update(predicted, truth)
        return metric.compute()


def _as_torchmetrics_wants(kind: OutputKind, outputs: Tree, y: Tree) -> tuple[Any, Any]:
    if isinstance(kind, LossOnly):
        return outputs, y
    predicted, truth = kind.predictions(outputs), kind.targets(y)
    if isinstance(kind, Classes):
        return predicted.movedim(-1, 1), truth
    truth = truth.long() if isinstance(kind, Binary) else truth
    return like_targets(predicted, truth), truth

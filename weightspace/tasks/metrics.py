"""Metrics of a task: named functions of outputs and targets, each with its better direction."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.outputs import Classes, LossOnly, OutputKind, Regression, like_targets, nll
from weightspace.runtime import checks
from weightspace.runtime.trees import Tree


@dataclass(frozen=True)
class Metric:
    """A figure of one network's predictions.

    Args:
        name: Name in records, such as "accuracy"; records have it as "validation_accuracy".
        function: Function of outputs and targets as the network and the data give them, samples first. It returns the
            figure, or with `per_sample` one value a sample.
        higher_is_better: Whether more is better.
        per_sample: Whether the function returns a value for each sample, whose mean is the figure. Such a metric is
            measured batch by batch where a split does not fit into memory.
        transform: Function of the mean, such as math.exp; None leaves it as it is.
    """

    name: str
    function: Callable[[Tree, Tree], Tensor | float]
    higher_is_better: bool = True
    per_sample: bool = False
    transform: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        checks.text(self.name, "name", "accuracy")
        checks.function(self.function, "function", "of outputs and targets")
        checks.settle(self, checks.flag, "higher_is_better", "per_sample")
        checks.settle_given(self, checks.function, "transform", what="of the mean, such as math.exp")
        if not self.name.isidentifier() or self.name == "loss":
            raise InputError(
                f'the name of a metric is one word such as "accuracy" or "top_5", not "loss", got {self.name!r}'
            )

    def values(self, outputs: Tree, y: Tree) -> Tensor:
        """What the function returns, as float64: one value, or one a sample.

        Raises:
            InputError: The function returns no number, or not one a sample.
        """
        values = torch.as_tensor(self.function(outputs, y)).detach().double()
        if values.ndim != int(self.per_sample):
            what = "one value a sample" if self.per_sample else "one number"
            raise InputError(
                f"the metric {self.name!r} must return {what}, got a tensor of shape {tuple(values.shape)}"
            )
        return values

    def of_values(self, values: Tensor) -> float:
        """The figure, from what `values` returned for all samples."""
        figure = values.mean().item()
        return figure if self.transform is None else self.transform(figure)

    def __call__(self, outputs: Tree, y: Tree) -> float:
        """The figure of one network's outputs on samples."""
        return self.of_values(self.values(outputs, y))


def accuracy(kind: OutputKind) -> Metric:
    """Share of the targets that are predicted; as the mean over samples of the share of their positions."""
    return Metric("accuracy", partial(_right, kind), per_sample=True)


def perplexity(kind: OutputKind) -> Metric:
    """Exponential of the mean negative log-likelihood of a position, in nats."""
    return Metric("perplexity", partial(_surprise, kind), False, per_sample=True, transform=_exp)


def r2(kind: OutputKind) -> Metric:
    """Coefficient of determination R^2, as the mean over outputs: 1 for perfect, 0 for the targets' mean.

    A target that does not vary counts 1 if it is predicted exactly, else 0, as in scikit-learn.
    """
    return Metric("r2", partial(_determination, kind))


def rmse(kind: OutputKind) -> Metric:
    """Root mean square error, in the units of the targets."""
    return Metric("rmse", partial(_squared_errors, kind), False, per_sample=True, transform=math.sqrt)


def _right(kind: OutputKind, outputs: Tree, y: Tree) -> Tensor:
    truth, labels = kind.targets(y), kind.labels(kind.predictions(outputs))
    right = (like_targets(labels, truth) == truth).double().reshape(len(truth), -1)
    if not isinstance(kind, Classes):
        return right.mean(1)
    counted = (truth != kind.ignored).reshape(len(truth), -1)
    return (right * counted).sum(1) / counted.sum(1)


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf  # beyond it, math.exp raises an OverflowError


def _surprise(kind: OutputKind, outputs: Tree, y: Tree) -> Tensor:
    return nll(kind, kind.predictions(outputs), kind.targets(y))


def _determination(kind: OutputKind, outputs: Tree, y: Tree) -> Tensor:
    truth = kind.targets(y).double()
    predicted = like_targets(kind.predictions(outputs), truth).double()
    truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1)
    residual = (truth - predicted).square().sum(0)
    total = (truth - truth.mean(0)).square().sum(0)
    constant = torch.where(residual == 0, 1.0, 0.0).double()
    return torch.where(total == 0, constant, 1 - residual / total).mean()


def _squared_errors(kind: OutputKind, outputs: Tree, y: Tree) -> Tensor:
    truth = kind.targets(y)
    errors = like_targets(kind.predictions(outputs), truth) - truth
    return errors.double().square().reshape(len(truth), -1).mean(1)


METRICS: dict[str, Callable[[OutputKind], Metric]] = {
    "accuracy": accuracy,
    "perplexity": perplexity,
    "r2": r2,
    "rmse": rmse,
}
"""Metrics that are known by name; each is made for what the outputs mean."""


def metric_of(metric: "str | Metric", kind: OutputKind) -> Metric:
    """A metric, or the one of this name.

    Raises:
        InputError: No metric has the name, or it does not apply to such outputs.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise InputError(f"no metric is called {metric!r}: use {', '.join(METRICS)}, or a Metric of your own")
    values = isinstance(kind, Regression)
    if isinstance(kind, LossOnly) or values == (metric in ("accuracy", "perplexity")):
        raise InputError(
            f"the metric {metric!r} does not apply to outputs that are {kind}: say what they mean with outputs=, or "
            "use a Metric of your own"
        )
    return METRICS[metric](kind)


def default_metrics(kind: OutputKind) -> tuple[Metric, ...]:
    """The metrics of a task that names none: accuracy of classes and of yes or no, R^2 of values."""
    if isinstance(kind, LossOnly):
        return ()
    return (r2(kind),) if isinstance(kind, Regression) else (accuracy(kind),)

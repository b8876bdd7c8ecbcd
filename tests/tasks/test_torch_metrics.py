"""Metrics of torchmetrics in a task: the same figures as ours, with their own name and direction."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, LossOnly, Regression
from weightspace.tasks.metrics import METRICS
from weightspace.tasks.torch_metrics import metric_from


class Far:
    """As torchmetrics has them, without torchmetrics."""

    higher_is_better: bool | None = False

    def __init__(self) -> None:
        self.most = 0.0

    def update(self, preds, target) -> None:
        self.most = max(self.most, (preds - target).abs().max().item())

    def compute(self) -> float:
        return self.most

    def reset(self) -> None:
        self.most = 0.0


def test_anything_that_is_called_so() -> None:
    own = Far()
    metric = metric_from(own, Regression())
    assert (metric.name, metric.higher_is_better) == ("far", False)
    y = torch.tensor([1.0, 2.0, 3.0])
    assert metric(torch.tensor([[1.0], [2.5], [3.0]]), y) == 0.5
    assert metric(torch.tensor([1.0, 2.1, 3.0]), y) == pytest.approx(0.1)  # what it took before is forgotten
    assert own.most == 0.0  # it stays as it is
    assert metric_from(own, LossOnly())(y, y + 2) == 2.0
    own.higher_is_better = None
    with pytest.raises(InputError, match="whether more is better"):
        metric_from(own, Regression())


def test_a_task_measures_it(task: ws.Task) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics = ["accuracy", torchmetrics.classification.MulticlassAccuracy(10, average="micro")]
    short = replace(task, recipe=ws.Recipe("2it", 16), metrics=metrics)
    assert [metric.name for metric in short.scores] == ["accuracy", "multiclass_accuracy"]
    for record in ws.collect(short, 2).records:
        found = record["metrics"]
        assert found["validation_multiclass_accuracy"] == pytest.approx(found["validation_accuracy"], abs=1e-6)


def test_positions_yes_or_no_and_values() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    torch.manual_seed(0)
    logits, y = torch.randn(6, 5, 3), torch.randint(3, (6, 5))
    positions = metric_from(torchmetrics.classification.MulticlassAccuracy(3, average="micro"), Classes())
    assert positions(logits, y) == pytest.approx(METRICS["accuracy"](Classes())(logits, y))
    binary = metric_from(torchmetrics.classification.BinaryAccuracy(), Binary())
    yes, labels = torch.randn(7, 1), torch.randint(2, (7,)).float()
    assert binary(yes, labels) == pytest.approx(METRICS["accuracy"](Binary())(yes, labels))
    values = metric_from(torchmetrics.regression.R2Score(), Regression())
    x, truth = torch.randn(9, 1), torch.randn(9)
    assert values(x, truth) == pytest.approx(METRICS["r2"](Regression())(x, truth), abs=1e-5)


def test_classes_and_other_things_are_refused(task: ws.Task) -> None:
    for wrong in (Far, 3):
        with pytest.raises((InputError, TypeError)):
            replace(task, metrics=[wrong])

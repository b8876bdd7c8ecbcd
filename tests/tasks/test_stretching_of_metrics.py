"""A metric that compares every sample with every other is seldom meant."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace import tasks


def task(metric) -> ws.Task:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    base = tasks.from_tensors("line", x, x[:, :1], lambda: nn.Linear(4, 1), loss=F.mse_loss)
    return replace(base, metrics=[tasks.Metric("own", metric, higher_is_better=False)])


def test_it_is_said_before_training() -> None:
    with pytest.warns(UserWarning, match=r"the metric 'own' .* compares every sample with every other"):
        task(lambda outputs, y: (outputs - y[:, 0]).abs().mean()).try_out()


def test_one_shape_and_axes_that_are_written_out_are_fine() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task(lambda outputs, y: (outputs - y).abs().mean()).try_out()
        task(lambda outputs, y: (outputs[:, None, 0] - y[None, :, 0]).abs().mean()).try_out()
    assert said == []

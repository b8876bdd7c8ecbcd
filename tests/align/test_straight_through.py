"""Matching by the loss halfway between."""

import torch

import weightspace as ws
from tests.fixtures import outputs
from weightspace.align import (
    StraightThrough,
)


def test_straight_through_keeps_functions(dense: ws.Collection, task: ws.Task) -> None:
    fitted = StraightThrough(ws.Step(iterations=30)).fit(dense, task)
    aligned = fitted.transform(dense[:3])
    x = task.test.x[:30]
    torch.testing.assert_close(outputs(aligned, x), outputs(dense[:3], x), rtol=1e-4, atol=1e-4)
    assert torch.equal(fitted.transform(dense[1:3]).weights, aligned.weights[1:])

"""Wrong calls that fuzzing found: each is refused by the argument's name."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace import models, sparse, tickets
from weightspace.generator.conditions import Condition

HUGE = 10**30
CALLS: dict[str, tuple[Callable[[ws.Collection, ws.Task], Any], str]] = {
    "outputs, huge": (lambda n, t: models.LeNet300(outputs=HUGE), "outputs"),
    "outputs, a flag": (lambda n, t: models.LeNet5(outputs=True), "outputs"),
    "outputs, negative": (lambda n, t: models.SmallConv(outputs=-1), "outputs"),
    "inputs, a flag": (lambda n, t: models.ResNet18(inputs=True), "inputs"),
    "width, huge": (lambda n, t: models.ResNet20(width=1e12), "width"),
    "width, none": (lambda n, t: models.Conv(width=0.0), "width"),
    "channels, huge": (lambda n, t: models.VGG(channels=HUGE), "channels"),
    "side, huge": (lambda n, t: models.ViT(side=HUGE), "side"),
    "a layer, huge": (lambda n, t: models.MLP([2, HUGE, 2]), r"sizes\[1\]"),
    "predict nothing": (lambda n, t: n.ensemble().predict(None), "x"),
    "predict a text": (lambda n, t: n.ensemble().predict_proba("0.5"), "x"),
    "predict a huge number": (lambda n, t: n.ensemble().raw(HUGE), "x"),
    "a device that is none": (lambda n, t: t.train.to("2:4"), "device"),
    "no device": (lambda n, t: t.train.to(""), "device"),
    "a network too far": (lambda n, t: n.module(HUGE), "i must"),
    "a huge example": (lambda n, t: n.architecture.example(HUGE), "samples"),
    "no shape": (lambda n, t: tickets.effective_masks(n, []), "shape"),
    "a text as shape": (lambda n, t: tickets.effective_density(n, ""), "shape"),
    "a matrix of NaN": (lambda n, t: sparse.kept_magnitude(torch.full((2, 4), math.nan), ws.NM(2, 4)), "matrix"),
    "a condition of NaN": (lambda n, t: Condition("noise", mean=math.nan), "mean"),
    "codes of NaN": (lambda n, t: ws.FlowMatching().scale(torch.full((2, 3), math.nan)), "codes"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_call_is_refused_by_name(name: str, tickets: ws.Collection, task: ws.Task) -> None:
    call, argument = CALLS[name]
    try:
        call(tickets, task)
    except ws.InputError as error:
        assert argument.replace("\\", "") in str(error)  # noqa: PT017
    except Exception as error:  # the tests' own check of types comes first
        assert "jaxtyping" in type(error).__module__ or "beartype" in type(error).__module__, error  # noqa: PT017
    else:
        pytest.fail("it was taken")


def test_right_calls_are_taken(tickets: ws.Collection, task: ws.Task) -> None:
    assert isinstance(tickets.ensemble().predict(task.test.head(2).x), torch.Tensor)
    assert models.ResNet20(width=0.25, outputs=4).head.out_features == 4
    assert task.train.head(2).to("cpu").x.device.type == "cpu"
    assert sparse.kept_magnitude(torch.ones(2, 4), ws.NM(2, 4)) == 4

"""Wrong calls that fuzzing found: each is refused by the argument's name."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace import evaluation, masks, models, sparse, tickets
from weightspace.generator.conditions import Condition, Conditions
from weightspace.networks import layout

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
    "a schedule that is none": (lambda n, t: tickets.Pruner(n[0].module(), 0.5), "schedule"),
    "an optimiser that is none": (
        lambda n, t: tickets.Pruner(n[0].module(), tickets.GradualSchedule(), optimizer="Adam"),
        "optimizer",
    ),
    "iterations of half": (
        lambda n, t: tickets.Pruner(n[0].module(), tickets.GradualSchedule(), iterations=0.5),
        "iter",
    ),
    "controls of none": (lambda n, t: tickets.TicketControls().rewound(None), "tickets"),
    "scores of another shape": (
        lambda n, t: tickets.TicketControls().inverted(n.replace(extras={"rewind": n.weights}), torch.ones(2, 3)),
        "scores must",
    ),
    "masks of none": (lambda n, t: tickets.effective_masks(None, (64,)), "networks"),
    "layers of none": (lambda n, t: tickets.collapsed_layers(None), "networks"),
    "a shape that does not fit": (lambda n, t: tickets.effective_masks(n, (1,)), "shape"),
    "a loop that is none": (lambda n, t: ws.tasks.from_loop("a", n.architecture, train="x"), "train"),
    "shares of NaN": (
        lambda n, t: ws.tasks.from_tensors("a", t.train.x, t.train.y, n.architecture, validation=math.nan),
        "validation",
    ),
    "metrics of numbers": (lambda n, t: replace(t, metrics=[1]), "metrics"),
    "a sample too far": (lambda n, t: t.train.batch([HUGE]), "rows"),
    "samples of halves": (lambda n, t: t.train.batch([0.5]), "rows"),
    "a mask of samples that is too short": (lambda n, t: t.train.batch([True]), "rows"),
    "a head of half": (lambda n, t: t.train.head(1.5), "n must"),
    "a card that is not there": (lambda n, t: t.train.to("cuda:99"), "device"),
    "no entries": (lambda n, t: ws.Layout(None), "entries"),
    "an entry of nothing": (lambda n, t: layout.Entry(None, (1,), "weight", "float32"), "name"),
    "an entry of half": (lambda n, t: layout.Entry("a", (0.5,), "weight", "float32"), "shape"),
    "a role that is none": (lambda n, t: layout.Entry("a", (1,), "x", "float32"), "role"),
    "names of nothing": (lambda n, t: n.layout.with_prunable(None), "names"),
    "globs of nothing": (lambda n, t: n.layout.selected(None), "globs"),
    "an architecture of nothing": (lambda n, t: ws.Architecture(None), "name"),
    "arguments of nothing": (lambda n, t: ws.Architecture("MLP", None), "arguments"),
    "a layout that is none": (lambda n, t: n.architecture.following(3), "layout"),
    "sizes of nothing": (lambda n, t: models.MLP(None), "sizes"),
    "an image of nothing": (lambda n, t: models.Conv(image=3), "image"),
    "an image of NaN": (lambda n, t: models.Conv(image=(3, math.nan, 3)), "image"),
    "a depth of lists": (lambda n, t: models.VGG([16]), "depth"),
    "a step of a tensor": (lambda n, t: ws.Recipe(torch.zeros(3)), "length"),
    "an epoch of NaN": (lambda n, t: ws.Step.of("1ep").total(math.nan), "per_epoch"),
    "a rate of NaN": (lambda n, t: ws.NM(2, 4).steps(math.nan), "rate"),
    "overlap of nothing": (lambda n, t: masks.overlap_matrix(None, n.masks), "masks"),
    "overlap of other lengths": (lambda n, t: masks.overlap_matrix(n.masks, n.masks[:, :3]), "others"),
    "a report of nothing": (lambda n, t: evaluation.alignment_report(None, n, t), "original"),
    "a reference too far": (lambda n, t: evaluation.alignment_report(n, n, t, reference=HUGE), "reference"),
    "a symmetry of nothing": (lambda n, t: ws.WeightMatching().symmetry_of(None), "networks"),
    "a proof of nothing": (lambda n, t: ws.symmetry.prove(None, n[0].module(), t.train.head(2).x), "symmetry"),
    "a name that no file has": (lambda n, t: n.save("\ud800"), "folder"),
    "a metric that no record has": (lambda n, t: n.best(1, "x"), "metric must"),
    "codes of text": (lambda n, t: ws.FlowMatching().scale("x"), "codes"),
    "a condition of nothing": (lambda n, t: Condition(None), "name"),
    "conditions of nothing": (lambda n, t: Conditions(None), "each"),
    "processes that do not run": (
        lambda n, t: ws.collect_on(ws.processes(2), t, 2, shards=2, folder="never"),
        "executor must be workers",
    ),
    "shards of processes that do not run": (
        lambda n, t: ws.train_on(ws.processes(2), n, t, "1it", shards=2, folder="never"),
        "executor must be workers",
    ),
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

"""Contract: every verb computes on the device that it is told, and brings its results back to the CPU."""

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves

import weightspace as ws
from tests.fake_device import WrongDevice, card
from tests.symmetry.examples import Attention
from weightspace.align import (
    ActivationMatching,
    FittedMatching,
    MergeMany,
    StraightThrough,
    Universe,
    WeightMatching,
)
from weightspace.evaluation import MCDropout, connectivity
from weightspace.evaluation.baselines import Baselines
from weightspace.generator import GateMask, SharedMask
from weightspace.masks import NM
from weightspace.storage.checkpoints import save_checkpoint
from weightspace.symmetry import trace
from weightspace.tasks.task import Split
from weightspace.training.batchnorm import recalibrated

ON_CARD: dict[str, Callable[[torch.Tensor], object]] = {
    "scalar": lambda x: x * torch.tensor(2.0),
    "factory on the tensor's device": lambda x: x + torch.arange(3, device=x.device),
    "index on the CPU": lambda x: x[torch.tensor([1, 0])] + x[:2],
    "copy from the CPU": lambda x: x.clone().copy_(torch.ones(3)),
    "moved and back": lambda x: x.cpu().numpy() + (x.to("cpu") + torch.ones(3)).numpy(),
    "like": lambda x: torch.zeros_like(x) + x.new_ones(3) + x.new_tensor([1.0, 2.0, 3.0]) + deepcopy(x) + x,
    "gradient": lambda x: x.clone().requires_grad_().square().sum().backward(),
    "module": lambda x: torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).to("cuda")(x),
    "module to a tensor's device": lambda x: torch.nn.Linear(3, 3).to(x.device)(x),
    "vmap": lambda x: vmap(grad(lambda a: (a * x + torch.ones(3, device=a.device)).sum()))(torch.stack([x, x])),
}
"""What a card computes."""

REFUSED: dict[str, Callable[[torch.Tensor], object]] = {
    "factory without a device": lambda x: x + torch.arange(3),
    "in vmap": lambda x: vmap(lambda a: a * torch.ones(3))(torch.stack([x, x])),
    "in a gradient": lambda x: grad(lambda a: (a * torch.ones(3)).sum())(x),
    "index that must be on the card": lambda x: x.index_select(0, torch.tensor([1, 0])),
    "index on the card of a tensor that is not": lambda x: torch.arange(3.0)[x.long()],
    "concatenation": lambda x: torch.cat([x, torch.zeros(3)]),
    "numpy": lambda x: x.numpy(),
    "array": lambda x: np.asarray(x),
    "equal": lambda x: torch.equal(x, torch.ones(3)),
    "module that stayed": lambda x: torch.nn.Linear(3, 3)(x),
    "state that stayed": lambda x: functional_call(torch.nn.Linear(3, 3).to("cuda"), {"bias": torch.zeros(3)}, (x,)),
    "random numbers there": lambda x: torch.randn(3, device=x.device),
    "generator of the CPU": lambda x: x.clone().bernoulli_(0.5, generator=torch.Generator()),
}
"""What a card refuses: the negative controls of all tests below."""


@pytest.mark.parametrize("name", ON_CARD)
def test_card_computes(name: str) -> None:
    with card():
        ON_CARD[name](torch.ones(3).to("cuda"))


@pytest.mark.parametrize("name", REFUSED)
def test_card_refuses(name: str) -> None:
    with card(), pytest.raises(WrongDevice):
        REFUSED[name](torch.ones(3).to("cuda"))
    if "stayed" not in name:
        REFUSED[name](torch.ones(3))  # without a card nothing is wrong


def test_a_tensor_knows_where_it_is() -> None:
    with card():
        x = torch.ones(3)
        y = x.to("cuda")
        assert [t.device.type for t in (x, y, y + y, y[:1].cpu())] == ["cpu", "cuda", "cuda", "cpu"]
        assert y.is_cuda
        assert not x.is_cuda
        assert torch.zeros(2, device="cuda").device == torch.device("cuda", 0)
        y.zero_()
        assert x.sum() == 3  # a tensor that is moved is copied
    assert y.device.type == "cpu"


Same = Callable[[Callable[[str], Any]], None]
REAL = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")]


@pytest.fixture(params=["simulated", pytest.param("real", marks=REAL)])
def same_on_a_card(request: pytest.FixtureRequest) -> Same:
    """Checks that a card computes what the CPU computes, with the same random numbers, and returns it on the CPU."""

    def check(run: Callable[[str], Any]) -> None:
        expected = tree_leaves(run("cpu"))
        if request.param == "real":
            found, tolerance = tree_leaves(run("cuda")), 1e-3
            assert not any(isinstance(one, torch.Tensor) and one.is_cuda for one in found)
        else:
            with card() as placement:
                found, tolerance = tree_leaves(run("cuda")), 1e-6
                assert placement.products
                assert not any(isinstance(one, torch.Tensor) and placement.has(one) for one in found)
        for a, b in zip(expected, found, strict=True):
            if isinstance(a, torch.Tensor | float):
                torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=tolerance)
            else:
                assert a == b

    return check


@pytest.fixture(scope="module")
def two(task: ws.Task) -> ws.Task:
    """Digits, two iterations."""
    return replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=2)))


@pytest.fixture(scope="module")
def short(two: ws.Task) -> ws.Collection:
    """Networks of that task."""
    return ws.collect(two, 2)


def test_collect(same_on_a_card: Same, two: ws.Task) -> None:
    same_on_a_card(lambda device: ws.collect(two, 2, device=device).weights)


def test_find(same_on_a_card: Same, short: ws.Collection, two: ws.Task) -> None:
    finder = ws.tickets.IMP(density=0.5, rate=0.5)
    same_on_a_card(lambda device: finder.find(short, two, device=device).weights)


FLOW = ws.FlowMatching(width=8, blocks=1, steps=3, batch_size=8, validation_fraction=0.25)
GENERATORS: dict[str, ws.TicketGenerator] = {
    "plain": ws.TicketGenerator(compress=ws.PCA(3), generate=FLOW),
    "refined": ws.TicketGenerator(
        compress=ws.PCA(3), generate=FLOW, refine=ws.TaskRefinement(steps=2, networks=3, batch_size=8)
    ),
    "shared mask, conditions": ws.TicketGenerator(
        compress=ws.PCA(3),
        generate=replace(FLOW, validation_fraction=0.0),
        refine=ws.TaskRefinement(patterns=[NM(2, 4)], steps=2, networks=3, batch_size=8, directions="random"),
        masks=SharedMask(),
        conditions=("metrics.validation_loss",),
    ),
    "gates": ws.TicketGenerator(
        compress=ws.PCA(3),
        generate=FLOW,
        refine=ws.TaskRefinement(steps=2, networks=3, batch_size=8, ramp=1.0),
        masks=GateMask(),
    ),
    "raw weights": ws.TicketGenerator(compress=None, generate=replace(FLOW, pairing="optimal")),
}


@pytest.fixture(scope="module")
def aligned(tickets: ws.Collection) -> ws.Collection:
    return WeightMatching().fit(tickets).transform(tickets)


@pytest.mark.parametrize("name", GENERATORS)
def test_fit_and_sample(same_on_a_card: Same, aligned: ws.Collection, task: ws.Task, name: str) -> None:
    def run(device: str) -> object:
        model = GENERATORS[name].fit(aligned, task=task, device=device)
        samples = model.sample(2, density=0.2, device=device)
        return model.tensors(), samples.weights, model.log_prob(aligned[:1], device=device) if name == "plain" else ()

    same_on_a_card(run)


def test_resumed_training_is_on_the_card(same_on_a_card: Same, tmp_path: Path) -> None:
    """A checkpoint is written from the CPU, and read to where the training goes on."""
    codes = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def run(device: str) -> object:
        path = tmp_path / f"{device}.safetensors"
        whole = FLOW.fit(codes, device=device, checkpoint=path)
        state = {name: tensor.to(device) for name, tensor in load_file(path).items() if name != "done"}
        save_checkpoint(path, state, 1)
        return whole.weights, FLOW.fit(codes, device=device, checkpoint=path).weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weightspace.flow.flow_matching._CHECKPOINT_EVERY", 1)
        same_on_a_card(run)


def test_statistics(same_on_a_card: Same) -> None:
    """BatchNorm statistics of samples."""
    architecture = ws.Architecture.of(lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)))
    layout = architecture.layout()
    buffers = {b.name: torch.zeros(2, *b.shape, dtype=getattr(torch, b.dtype)) for b in layout.buffers}
    networks = ws.Collection(layout, torch.randn(2, layout.size), architecture=architecture, buffers=buffers)
    data = Split(torch.randn(20, 4), torch.zeros(20))
    same_on_a_card(lambda device: recalibrated(networks, data, device=device).buffers)


def test_evaluate(same_on_a_card: Same, aligned: ws.Collection, two: ws.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of few baselines on few samples, which go the way of all."""
    points, groups = Baselines.curve_points, Baselines.groups
    chosen = {0, 12, 28}  # the least noise, the most, and a KDE
    monkeypatch.setattr(Baselines, "curve_points", lambda self: [p for i, p in enumerate(points(self)) if i in chosen])
    monkeypatch.setattr(Baselines, "groups", lambda self, **k: itertools.islice(groups(self, **k), 2))
    monkeypatch.setattr("weightspace.evaluation.ensembles.shifts", lambda *_args, **_kwargs: iter(()))
    few = replace(two, test=two.test.head(40), validation=two.validation.head(40))

    def run(device: str) -> object:
        dropout = MCDropout(rates=(0.2,))
        report = ws.evaluate(
            aligned[:2], few, training=aligned[2:6], align=None, dropout=dropout, seed=0, device=device
        )
        return report.to_json()

    same_on_a_card(run)


def test_barriers(same_on_a_card: Same, dense: ws.Collection, task: ws.Task) -> None:
    same_on_a_card(lambda device: [b.losses for b in connectivity.barriers(dense[:2], task, points=1, device=device)])


MATCHERS: dict[str, Callable[[ws.Collection, ws.Task, str], ws.Collection]] = {
    "growing mean": lambda n, _, d: WeightMatching().fit(n, device=d).transform(n, device=d),
    "MergeMany": lambda n, _, d: WeightMatching(population=MergeMany(2)).fit(n, device=d).transform(n, device=d),
    "Universe": lambda n, _, d: WeightMatching(population=Universe(2)).fit(n, device=d).transform(n, device=d),
    "activations": lambda n, t, d: ActivationMatching().fit(n, t.train.x[:100]).transform(n, device=d),
    "loss": lambda n, t, d: StraightThrough(ws.Step(iterations=2)).fit(n, t).transform(n, device=d),
}


@pytest.fixture
def traced(dense: ws.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes the time of these tests, and is done on the CPU."""
    symmetry = WeightMatching().symmetry_of(dense)
    monkeypatch.setattr(WeightMatching, "symmetry_of", lambda *_args: symmetry)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", MATCHERS)
def test_align(same_on_a_card: Same, dense: ws.Collection, task: ws.Task, name: str) -> None:
    same_on_a_card(lambda device: MATCHERS[name](dense[:3], task, device).weights)


def test_align_heads(same_on_a_card: Same) -> None:
    architecture = ws.Architecture.of(Attention)
    symmetry = trace(architecture.build_seeded(0), torch.randn(2, 7, 5))
    two = torch.randn(2, symmetry.layout.size)
    fitted = FittedMatching(symmetry, False, {"weights": two[0]})
    networks = ws.Collection(symmetry.layout, two, architecture=architecture)
    same_on_a_card(lambda device: fitted.transform(networks, device=device).weights)

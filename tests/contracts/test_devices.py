"""Contract: every verb computes on the device that it is told, and brings its results back to the CPU."""

import importlib
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
from weightspace import bayes
from weightspace.align import (
    ActivationMatching,
    FittedMatching,
    MergeMany,
    StraightThrough,
    Universe,
    WeightMatching,
)
from weightspace.bayes.gates import LOGITS
from weightspace.bayes.inference.noise import OwnDraws
from weightspace.evaluation import MCDropout, connectivity
from weightspace.evaluation.baselines import Baselines
from weightspace.generator import GateMask, SharedMask
from weightspace.masks import NM, Except
from weightspace.storage.checkpoints import save_checkpoint
from weightspace.symmetry import trace
from weightspace.tasks.data import ArrayDataset, DatasetSplit, Split
from weightspace.training.batchnorm import recalibrated
from weightspace.training.conversion import initial
from weightspace.training.engine import Execution

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
def same_on_a_card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Same:
    """Checks that a card computes what the CPU computes, with the same random numbers, and returns it on the CPU."""
    for name in ("training.collect", "tickets.finder"):  # what trains fastest here is not measured
        module = importlib.import_module(f"weightspace.{name}")
        monkeypatch.setattr(module, "choose_execution", lambda *_args, **_options: Execution(2, None, 0.0))

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
REFINEMENT = ws.TaskRefinement(steps=2, networks=3, batch_size=8)
GENERATORS: dict[str, ws.TicketGenerator] = {
    "refined": ws.TicketGenerator(compress=ws.PCA(3), generate=FLOW, refine=REFINEMENT),
    "shared mask, conditions": ws.TicketGenerator(
        compress=ws.PCA(3),
        generate=replace(FLOW, validation_fraction=0.0),
        refine=replace(REFINEMENT, patterns=[NM(2, 4)], directions="random"),
        masks=SharedMask(),
        conditions=("metrics.validation_loss",),
    ),
    "gates": ws.TicketGenerator(
        compress=ws.PCA(3),
        generate=replace(FLOW, pairing="optimal"),
        refine=replace(REFINEMENT, ramp=1.0),
        masks=GateMask(),
    ),
}


@pytest.fixture(scope="module")
def aligned(tickets: ws.Collection) -> ws.Collection:
    return WeightMatching().fit(tickets).transform(tickets)


@pytest.mark.parametrize("name", GENERATORS)
def test_fit_and_sample(same_on_a_card: Same, aligned: ws.Collection, task: ws.Task, name: str) -> None:
    def run(device: str) -> object:
        model = GENERATORS[name].fit(aligned, task=task, device=device)
        samples = model.sample(2, density=0.2, device=device)
        return model.tensors(), samples.weights, model.log_prob(aligned[:1], device=device) if name == "refined" else ()

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
    monkeypatch.setattr(Baselines, "groups", lambda self, **k: groups(self, **k)[:2])
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


class Parts(torch.nn.Module):
    """Takes words and numbers by name; its embedding stays deterministic, and its statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = torch.nn.Embedding(5, 3), torch.nn.BatchNorm1d(3)
        self.first, self.out = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)

    def forward(self, words: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.out(self.first(self.norm(self.words(words) + numbers)).relu())


@pytest.fixture(scope="module")
def parts() -> ws.Task:
    """A regression with inputs by name, whose training split is read batch by batch."""
    random = torch.Generator().manual_seed(0)
    x = {"words": torch.randint(5, (60,), generator=random), "numbers": torch.randn(60, 3, generator=random)}
    y = x["numbers"].sum(1, keepdim=True)
    recipe = ws.Recipe(ws.Step.of("2it"), batch_size=16, optimizer=ws.Adam(lr=0.01))
    task = ws.tasks.from_tensors("parts", x, y, Parts, recipe=recipe, loss=torch.nn.functional.mse_loss)
    return replace(task, train=DatasetSplit(ArrayDataset(task.train.x, task.train.y)))


def starts_of(task: ws.Task, n: int = 2, density: float = 1.0) -> ws.Collection:
    """Untrained networks of a task, pruned to a density of the weights that have a posterior."""
    networks = initial(task.architecture, [{"seed": i} for i in range(n)])
    if density == 1:
        return networks
    masks = ws.Unstructured(density).mask(networks.weights.abs(), networks.layout)
    return networks.replace(weights=networks.weights * masks, masks=masks)


@pytest.fixture(scope="module")
def digits(two: ws.Task) -> ws.Task:
    return replace(two, recipe=ws.Recipe(ws.Step.of("2it"), batch_size=16, optimizer=ws.Adam(lr=0.01)))


VARIATIONAL = {
    "weights, pruned, a prior with sites": (bayes.Variational(prior=bayes.Horseshoe()), 2, 0.3),
    "local, one network": (bayes.Variational(estimator="local"), 1, 1.0),
    "flipout, a mixture, a warm-up": (
        bayes.Variational(prior=bayes.ScaleMixture(), estimator="flipout", warm_up=ws.Step(iterations=2), draws=2),
        2,
        0.3,
    ),
}


@pytest.mark.parametrize("name", VARIATIONAL)
def test_variational(same_on_a_card: Same, digits: ws.Task, name: str) -> None:
    variational, n, density = VARIATIONAL[name]
    networks = starts_of(digits, n, density)

    def run(device: str) -> object:
        found = variational.fit(networks, digits, device=device)
        return found.weights, found.extras["std"], [dict(record["metrics"]) for record in found.records]

    same_on_a_card(run)


def test_noise_that_stays_on_the_cpu_is_seen(digits: ws.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = OwnDraws._rows
    monkeypatch.setattr(OwnDraws, "_rows", lambda *parts: rows(*parts).cpu())
    with card(), pytest.raises(WrongDevice):
        bayes.Variational().fit(starts_of(digits), digits, device="cuda")


def test_variational_of_parts(same_on_a_card: Same, parts: ws.Task) -> None:
    """Inputs by name, read batch by batch; deterministic layers, buffers and a noise that is learned."""
    variational, networks = bayes.Variational(deterministic=("words",)), starts_of(parts)

    def run(device: str) -> object:
        found = variational.fit(networks, parts, device=device)
        predicted = bayes.predict_values(found, parts.test.x, 3, device=device)
        noise = [record["noise_std"] for record in found.records]
        return found.weights, found.buffers, found.extras["std"], noise, predicted.mean, predicted.stddev

    same_on_a_card(run)


def test_sparse_layers_of_one_network_are_dense_on_a_card(same_on_a_card: Same, digits: ws.Task) -> None:
    """On the CPU such a layer is multiplied by compressed rows."""
    large = replace(digits, architecture=ws.tasks.digits(hidden=(64,)).architecture)
    networks = starts_of(large, 1, 0.1)
    assert bayes.Variational().network(networks, large)._apart[0].sparse == ["1"]
    same_on_a_card(lambda device: bayes.Variational().fit(networks, large, device=device).weights)
    with card():
        assert not bayes.Variational().network(networks, large, device="cuda")._apart[0].sparse


def test_resumed_posteriors_are_on_the_card(same_on_a_card: Same, parts: ws.Task, tmp_path: Path) -> None:
    variational, networks = bayes.Variational(deterministic=("words",)), starts_of(parts)

    def run(device: str) -> object:
        path = tmp_path / device
        whole, again = (variational.start(networks, parts, device=device) for _ in range(2))
        whole.run(1)
        whole.save(path)
        whole.run(2)
        again.resume(path)
        again.run(2)
        return whole.network.means().cpu(), again.network.means().cpu()

    same_on_a_card(run)


GATES = {
    "labels": bayes.GateSearch(0.3, length=ws.Step(iterations=2)),
    "dense": bayes.GateSearch.concrete(0.3, length=ws.Step(iterations=2)),
    "gradients": bayes.GateSearch.concrete(0.3, "gradients", length=ws.Step(iterations=2)),
    "features": bayes.GateSearch.concrete(0.3, "features", length=ws.Step(iterations=2)),
}


@pytest.mark.parametrize("name", GATES)
def test_gates(same_on_a_card: Same, digits: ws.Task, parts: ws.Task, name: str) -> None:
    task = parts if name == "dense" else digits
    networks = starts_of(task)

    def run(device: str) -> object:
        found = GATES[name].find(networks, task, device=device)
        return found.weights, found.extras[LOGITS]

    same_on_a_card(run)


def test_study(same_on_a_card: Same, parts: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind of method of a study, but MC dropout, whose random numbers a real card draws itself."""
    monkeypatch.setattr("weightspace.bayes.study.study.MCDropout", lambda: MCDropout(rates=(0.2,)))
    starts = bayes.Study._starts
    monkeypatch.setattr(bayes.Study, "_starts", lambda *levels, **_options: starts(*levels, with_controls=False))
    finder = bayes.BayesianIMP(
        pattern=Except(ws.Unstructured(0.5), "words.*"),
        rate=0.5,
        variational=bayes.Variational(deterministic=("words",)),
    )
    study = bayes.Study(parts, finder, {"|mu|": bayes.MeanMagnitude()}, networks=1, draws=2)

    def run(device: str) -> object:
        rows = study.run(tmp_path / device, device=device).rows
        return [
            (row.method, row.density, row.metric("loss"), row.metric("nll"))
            for row in rows
            if row.method != "MC dropout"
        ]

    same_on_a_card(run)

"""Gate posteriors: their KL, exact tables, the search and its budget."""

from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace import bayes
from weightspace.bayes.gates import LOGITS
from weightspace.bayes.inference.distributions import Gate
from weightspace.errors import InputError


@pytest.fixture(scope="module")
def short(task: ws.Task) -> ws.Task:
    return replace(task, recipe=ws.Recipe(ws.Step.of("3ep"), batch_size=64, optimizer=ws.Adam(lr=3e-3)))


def test_the_kl_of_gates_is_that_of_bernoulli_variables() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=random, dtype=torch.float64) * 3
    temperature = torch.tensor(0.5, dtype=torch.float64)
    found = torch.distributions.kl_divergence(Gate(temperature, a), Gate(temperature, b))
    plain = [torch.distributions.Bernoulli(logits=logits) for logits in (a, b)]
    torch.testing.assert_close(found, torch.distributions.kl_divergence(*plain))
    assert (found > 0).all()


def test_relaxed_gates_are_open_as_often_as_bernoulli_ones() -> None:
    """P(gate > 1/2) is the probability of the Bernoulli variable, at any temperature."""
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for temperature in (0.2, 0.67, 2.0):
        gates = Gate(torch.tensor(temperature), torch.full((20_000,), 0.8)).of_uniform(uniform)
        assert (gates > 0.5).float().mean().item() == pytest.approx(torch.tensor(0.8).sigmoid().item(), abs=0.01)
        assert 0 <= gates.min() < gates.max() <= 1


def gated(module: nn.Module, **settings) -> bayes.GatedNetwork:
    layout = ws.Layout.of(module)
    return bayes.GatedNetwork(module, layout.pack(module.state_dict())[None], {}, density=0.3, **settings)


def test_the_loss_is_cross_entropy_and_weighted_kl() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    network = gated(module, prior=0.7)
    network.logits.data.add_(torch.randn(network.logits.shape, generator=torch.Generator().manual_seed(1)))
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 6, 4, generator=random), torch.randint(3, (1, 6), generator=random)
    torch.manual_seed(0)
    loss = bayes.MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, 60)
    torch.manual_seed(0)
    with pyro.poutine.trace() as trace:
        network.guide(x, y, 60)
    gates = trace.trace.nodes["gates"]["value"][:, 0]
    entropy = nn.functional.cross_entropy(network.outputs(gates, x)[0], y[0], reduction="sum") * 10
    q, p = (torch.distributions.Bernoulli(logits=a) for a in (network.logits, network.start))
    torch.testing.assert_close(loss, entropy + 0.7 * torch.distributions.kl_divergence(q, p).sum())


def test_gates_that_matter_open_and_the_others_close() -> None:
    """The label is one of the inputs; the others are noise."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=random)
    task = ws.Task(
        "sign",
        ws.Architecture.of(lambda: nn.Linear(8, 2, bias=False)),
        train=ws.Split(x, (x[:, 3] > 0).long()),
        validation=ws.Split(x[:64], (x[:64, 3] > 0).long()),
        test=ws.Split(x[:64], (x[:64, 3] > 0).long()),
        recipe=ws.Recipe(ws.Step.of("5ep"), batch_size=64),
    )
    weights = torch.cat([-torch.ones(1, 8), torch.ones(1, 8)], 1)
    start = ws.Collection(task.architecture.layout(), weights, architecture=task.architecture, records=[{"seed": 0}])
    for search in (bayes.GateSearch(2 / 16, budget="balance"), bayes.GateSearch(2 / 16, strength=0.05)):
        found = search.find(start, task)
        assert found.masks[0].nonzero()[:, 0].tolist() == [3, 11]
    assert found.weights[0, 3] == -1, "weights are not trained"


@pytest.mark.parametrize(
    "finder",
    [bayes.GateSearch(0.1, length=ws.Step.of("2ep")), bayes.GateSearch.concrete(0.1, length=ws.Step.of("2ep"))],
)
def test_a_search_gives_the_exact_density_and_resumes(
    finder: bayes.GateSearch, dense: ws.Collection, short: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = finder.find(dense[:2], short)
    assert (found.masks[:, found.layout.prunable].sum(1) == ws.Unstructured(0.1).count(found.layout)).all()
    assert torch.equal(found.weights, dense[:2].weights * found.masks)
    alone = finder.find(dense[1:2], short)
    # But for gates whose gradient is rounding.
    same = (alone.extras[LOGITS][0] - found.extras[LOGITS][1]).abs() < 1e-3
    assert same.double().mean() > 0.95, "what a search draws does not depend on its neighbours"

    update, calls = bayes.gates._Search._update, 0

    def interrupt(self) -> float:
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(bayes.gates, "_CHECKPOINT_STEPS", 10)
    monkeypatch.setattr(bayes.gates._Search, "_update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finder.find(dense[:2], short, folder=tmp_path / "run")
    again = finder.find(dense[:2], short, folder=tmp_path / "run")
    assert torch.equal(again.extras[LOGITS], found.extras[LOGITS])
    assert calls < 25 + 40, "it went on from the checkpoint"


def test_the_budget_holds_the_number_of_open_gates(dense: ws.Collection, short: ws.Task) -> None:
    prunable = dense.layout.prunable
    searches = [bayes.GateSearch(0.05, budget="balance"), bayes.GateSearch(0.05, strength=1e-6)]
    held, free = (
        replace(search, length=ws.Step(epochs=10)).find(dense[:2], short).extras[LOGITS][:, prunable].sigmoid().mean()
        for search in searches
    )
    assert held < 0.07
    assert free > 1.5 * held, "without a budget more gates open"


def test_draws_of_gates_differ_in_their_masks(dense: ws.Collection, short: ws.Task) -> None:
    found = bayes.GateSearch(0.2, length=ws.Step.of("1ep")).find(dense[:2], short)
    drawn = bayes.draw_gates(found, 3, seed=1)
    assert len(drawn) == 6
    assert not torch.equal(drawn.masks[0], drawn.masks[1])
    assert torch.equal(drawn.weights[4], dense.weights[1] * drawn.masks[4])
    with pytest.raises(InputError, match="no gates"):
        bayes.draw_gates(dense[:1], 2)


def test_impossible_searches_are_refused(dense: ws.Collection, short: ws.Task) -> None:
    for wrong in ({"density": 1.0}, {"objective": "x"}, {"budget": "x"}, {"lr": 0.0}, {"strength": -1.0}):
        with pytest.raises(InputError):
            bayes.GateSearch(**wrong)
    search = bayes.GateSearch(0.1, length=ws.Step.of("1ep"))
    assert isinstance(search, ws.tickets.finder.Finder)
    with pytest.raises(InputError, match="device 'cuda:9' is not available here: there is cpu"):
        search.find(dense[:1], short, device="cuda:9")
    by_default, on_the_cpu = search.find(dense[:1], short), search.find(dense[:1], short, device="cpu")
    assert torch.equal(on_the_cpu.masks, by_default.masks)
    with pytest.raises(InputError, match="no seed"):
        bayes.GateSearch(0.1, length=ws.Step.of("1ep")).find(dense[:1].replace(records=[{}]), short)


@pytest.mark.parametrize("objective", ["features", "loss", "gradients", "gradient norm"])
def test_objectives_towards_the_dense_network(objective: str, task: ws.Task, dense: ws.Collection) -> None:
    """Open gates change nothing; some closed gates do; each as computed by hand."""
    network = bayes.GatedNetwork(
        task.architecture.build_seeded(0),
        dense[:2].weights,
        {},
        density=0.5,
        objective=objective,  # pyright: ignore[reportArgumentType]
    )
    x, y = (torch.stack([part[:20], part[:20]]) for part in (task.train.x, task.train.y))
    ones = torch.ones(2, len(network.at)).requires_grad_()
    closed = torch.ones(2, len(network.at)).index_fill(1, torch.arange(0, len(network.at), 3), 0.0).requires_grad_()
    opened, pruned = network.preserved(ones, x, y), network.preserved(closed, x, y)
    by_hand: list[float] = []
    for i in range(2):
        results = []
        for gates in (ones[i], closed[i]):
            module = dense.module(i).eval()
            vector = dense.weights[i].index_copy(0, network.at, dense.weights[i, network.at] * gates)
            module.load_state_dict(dense.layout.unpack(vector))
            seen: list[torch.Tensor] = []
            for layer in module:
                if isinstance(layer, nn.Linear):
                    layer.register_forward_hook(lambda _l, _i, out, seen=seen: seen.append(out))
            loss = nn.functional.cross_entropy(module(x[i]), y[i])
            gradients = torch.autograd.grad(loss, [layer.weight for layer in module if isinstance(layer, nn.Linear)])
            results.append((loss.item(), seen, gradients))
        (loss, features, gradients), (loss_sparse, features_sparse, gradients_sparse) = results
        if objective == "loss":
            by_hand.append(abs(loss_sparse / loss - 1))
        elif objective == "features":
            by_hand.append(sum((a - b).square().mean().item() for a, b in zip(features, features_sparse, strict=True)))
        elif objective == "gradients":
            standard = lambda g: (g - g.mean()) / g.std()  # noqa: E731
            pairs = zip(gradients, gradients_sparse, strict=True)
            by_hand.append(sum((standard(a) - standard(b)).square().mean().item() for a, b in pairs))
        else:
            flat = torch.cat([g.flatten() for g in gradients_sparse])
            by_hand.append(-(flat * closed[i]).norm().item())
    assert torch.allclose(pruned, torch.tensor(by_hand), rtol=1e-3, atol=1e-5)
    if objective != "gradient norm":
        assert torch.allclose(opened, torch.zeros(2), atol=1e-5)


def test_every_objective_keeps_the_count_asked(task: ws.Task, dense: ws.Collection) -> None:
    short = replace(task, train=ws.Split(task.train.x[:128], task.train.y[:128]))
    masks = []
    for objective in ("dense", "features", "loss", "gradients", "gradient norm"):
        found = bayes.GateSearch.concrete(0.2, objective, length=ws.Step(epochs=3)).find(dense[:1], short)
        assert int(found.masks[:, found.layout.prunable].sum()) == round(0.2 * found.layout.num_prunable)
        masks.append(found.masks[0])
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])

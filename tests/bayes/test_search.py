"""Bayesian tickets: their density, rewinding, resuming and device."""

import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import nn

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError
from weightspace.tickets.finder import Finder, LevelFinder


def test_bayesian_tickets_have_the_density_and_the_rewind_weights(task: ws.Task, adam: ws.Task) -> None:
    start = ws.collect(adam, 2, seed=0)
    finder = bayes.BayesianIMP(density=0.25, rate=0.5, score=bayes.SignalToNoise())
    found = finder.find(start, adam)
    count = ws.Unstructured(0.25).count(found.layout)
    assert (found.masks[:, found.layout.prunable].sum(1) == count).all()
    untrained = torch.stack(
        [found.layout.pack(adam.architecture.build_seeded(r["seed"]).state_dict()) for r in start.records]
    )
    assert torch.equal(found.extras["rewind"], untrained * found.masks)
    assert not torch.equal(found.weights, found.extras["rewind"])
    assert found.records[0]["method"]["score"] == "SignalToNoise()"
    assert torch.equal(finder.find(start, adam, device="cpu").weights, found.weights)


def test_a_search_has_the_contract_of_finders(adam: ws.Task, tickets: ws.Collection, tmp_path) -> None:
    finder = bayes.BayesianIMP(density=0.25, rate=0.5)
    assert isinstance(finder, LevelFinder)
    assert not isinstance(bayes.Variational(), Finder)
    for search in (finder.find, finder.find_levels):
        with pytest.raises(InputError, match="device 'cuda:9' is not available here: there is cpu"):
            search(tickets[:1], adam, folder=tmp_path / "run", device="cuda:9")
    assert not (tmp_path / "run").exists(), "refused before work starts"


@pytest.mark.parametrize("sigma", ["initial", "learned", "rescaled"])
def test_an_interrupted_search_continues_to_the_same_bytes(
    task: ws.Task, adam: ws.Task, sigma, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ws.collect(adam, 2, seed=0)
    finder = bayes.BayesianIMP(density=0.4, rate=0.4, sigma=sigma)
    whole = finder.find(start, adam, folder=tmp_path / "whole")
    original, calls = bayes.inference.variational.Inference.run, 0

    def interrupt(self, *arguments) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(bayes.inference.variational.Inference, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finder.find(start, adam, folder=tmp_path / "parts")
    monkeypatch.setattr(bayes.inference.variational.Inference, "run", original)
    parts = finder.find(start, adam, folder=tmp_path / "parts")
    assert torch.equal(parts.weights, whole.weights)
    assert torch.equal(parts.extras["std"], whole.extras["std"])


def test_rewinding_goes_on_from_the_rewind_point(adam: ws.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ws.collect(adam, 1, seed=0)
    steps: list[int] = []
    batch = bayes.inference.variational.Inference._batch
    monkeypatch.setattr(
        bayes.inference.variational.Inference, "_batch", lambda self: steps.append(self.step) or batch(self)
    )
    finder = bayes.BayesianIMP(density=0.5, rate=0.5, rewind=ws.Step(epochs=1))
    levels = finder.find_levels(start, adam)
    per_epoch = adam.recipe.per_epoch(len(adam.train))
    rest = list(range(per_epoch, 3 * per_epoch))
    assert steps == [*range(per_epoch), *rest, *rest], "no level trains longer than the schedule"
    early = finder.start(start, adam)
    assert torch.equal(levels[1].extras["rewind"], early.weights * levels[1].masks)


class Named(nn.Module):
    """Two inputs by name, one of tokens, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(5, 3), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, values: torch.Tensor, token: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.hidden(torch.cat([values, self.embedding(token)], -1)).relu()
        return {"logits": self.out(hidden), "hidden": hidden}


class Samples(list, torch.utils.data.Dataset):
    """A list is a dataset."""


def named(in_memory: bool) -> ws.Task:
    random = torch.Generator().manual_seed(0)
    x = {"values": torch.randn(60, 2, generator=random), "token": torch.randint(5, (60,), generator=random)}
    y = torch.stack([x["values"][:, 0] > 0, x["token"] > 2], -1).float()
    samples = Samples(({key: part[i] for key, part in x.items()}, y[i]) for i in range(60))
    return ws.tasks.from_dataset(
        "named",
        samples,
        Named,
        recipe=ws.Recipe("6it", batch_size=20, optimizer=ws.Adam(lr=1e-2)),
        loss=lambda outputs, y: nn.functional.binary_cross_entropy_with_logits(outputs["logits"], y),
        outputs=ws.tasks.OUTPUT_KINDS.from_json({"kind": "binary"}, "a test"),
        in_memory=in_memory,
    )


def test_structured_inputs_datasets_and_several_labels_have_posteriors() -> None:
    """The same bytes whether the data are in memory or read batch by batch; draws know what their outputs mean."""
    tasks = named(True), named(False)
    start = ws.collect(tasks[0], 2, seed=0)
    settings = bayes.Variational(deterministic=("embedding",))
    posteriors, again = (settings.fit(start, task) for task in tasks)
    assert torch.equal(posteriors.weights, again.weights)
    assert torch.equal(posteriors.extras["std"], again.extras["std"])
    assert set(posteriors.records[0]["metrics"]) == {"validation_loss", "validation_accuracy"}
    assert settings.to_json()["deterministic"] == ("embedding",)
    x = tasks[0].test.head(4).x
    ensemble = bayes.draw(posteriors, 3, seed=1).ensemble()
    torch.testing.assert_close(ensemble.predict_proba(x), ensemble.logits(x).sigmoid().mean(0))
    torch.testing.assert_close(bayes.predict(posteriors, x, 3, seed=1), ensemble.logits(x))
    for objective in ("labels", "dense", "features", "loss", "gradients"):
        search = bayes.GateSearch(0.5, objective, length=ws.Step(iterations=2))
        found = search.find(start, tasks[1])
        assert found.records[0]["density"] == pytest.approx(0.5, abs=0.02)
    guided = bayes.WithGuide(AutoDiagonalNormal, draws=2, steps=2, variational=settings).sample(start[:1], tasks[1])
    assert guided.ensemble().logits(x).shape == (2, 4, 2)


def test_only_layers_with_a_posterior_are_pruned() -> None:
    task = named(True)
    start, variational = ws.collect(task, 1, seed=0), bayes.Variational(deterministic=("embedding",))
    with pytest.raises(InputError, match=r"embedding.weight stays deterministic and .* prunes it"):
        bayes.BayesianIMP(density=0.5, variational=variational).find(start, task)
    pattern = ws.masks.Except(ws.Unstructured(0.5), "embedding.*")
    for score in (bayes.SignalToNoise(), bayes.Bound(0.5)):
        found = bayes.BayesianIMP(rate=0.5, pattern=pattern, score=score, variational=variational).find(start, task)
        slices = found.layout.slices
        assert found.masks[:, slices["embedding.weight"]].all()
        left = sum(int(found.masks[0, slices[name]].sum()) for name in ("hidden.weight", "out.weight"))
        assert left == (30 + 12) // 2


def test_tickets_of_a_regression_have_its_metrics_and_noise() -> None:
    """Targets (N,) of outputs (N, 1), and (N, 1): one likelihood."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(80, 3, generator=random)
    y = (x @ torch.tensor([1.0, -2.0, 0.0]))[:, None] + 0.1 * torch.randn(80, 1, generator=random)
    recipe = ws.Recipe("10it", batch_size=30, optimizer=ws.Adam(lr=1e-2))
    found: list[ws.Collection] = []
    for targets, loss in ((y, nn.functional.mse_loss), (y[:, 0], lambda o, y: (o[:, 0] - y).square().mean())):
        task = ws.tasks.from_tensors(
            "line", x, targets, lambda: nn.Linear(3, 1), recipe=recipe, loss=loss, metrics=["rmse", "r2"]
        )
        found.append(bayes.BayesianIMP(density=0.67, rate=0.5).find(ws.collect(task, 2, seed=0), task))
    assert torch.equal(found[0].weights, found[1].weights)
    assert found[0].records[0]["noise_std"] == found[1].records[0]["noise_std"]
    metrics = found[0].records[0]["metrics"]
    assert list(metrics) == ["validation_loss", "validation_rmse", "validation_r2"]
    assert metrics["validation_loss"] == pytest.approx(metrics["validation_rmse"] ** 2, rel=1e-4)
    assert bayes.draw(found[0], 2).ensemble().predict(x[:5]).shape == (5, 1), "means of values, not classes"
    with pytest.raises(InputError, match="no posteriors of regressions"):
        bayes.predict_values(found[0].replace(records=[{}, {}]), x, 2)

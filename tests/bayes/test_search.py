"""Bayesian tickets: their density, rewinding, resuming and device."""

import pytest
import torch

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


def test_a_search_has_the_contract_of_finders_on_the_cpu(adam: ws.Task, tickets: ws.Collection, tmp_path) -> None:
    finder = bayes.BayesianIMP(density=0.25, rate=0.5)
    assert isinstance(finder, LevelFinder)
    assert not isinstance(bayes.Variational(), Finder)
    for search in (finder.find, finder.find_levels):
        with pytest.raises(InputError, match="on the CPU only, got device 'cuda'.*'auto'"):
            search(tickets[:1], adam, folder=tmp_path / "run", device="cuda")
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

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.generator import polishing
from weightspace.training import trainer as training


def test_polished_samples_keep_their_masks_and_are_those_of_train(generator: ws.FittedGenerator, task: ws.Task) -> None:
    plain = generator.sample(4, density=0.2, seed=1)
    polished = generator.sample(4, density=0.2, seed=1, polish="20it", task=task)
    assert torch.equal(polished.masks, plain.masks)
    assert torch.equal(polished.weights != 0, (polished.weights != 0) & polished.masks)
    trained = ws.train(plain, task, "20it")
    torch.testing.assert_close(polished.weights, trained.weights, rtol=1e-3, atol=1e-4)  # groups may be of other sizes
    assert dict(polished.records[0].metrics) == pytest.approx(dict(trained.records[0].metrics), rel=1e-2, abs=1e-3)
    before, after = (
        torch.nn.functional.nll_loss(one.ensemble().member_proba(task.train.x).mean(0).log(), task.train.y)
        for one in (plain, polished)
    )
    assert after < before


def test_polishing_reads_training_data_alone(generator: ws.FittedGenerator, task: ws.Task) -> None:
    def poisoned(split: ws.Split) -> ws.Split:
        return ws.Split(torch.full_like(split.x, 3.0), split.y.roll(1))

    blind = replace(task, test=poisoned(task.test), validation=poisoned(task.validation))
    weights = [generator.sample(2, density=0.2, polish="3it", task=one).weights for one in (task, blind)]
    assert torch.equal(*weights)
    other = replace(task, train=ws.Split(task.train.x, task.train.y.roll(1)))  # the control
    assert not torch.equal(generator.sample(2, density=0.2, polish="3it", task=other).weights, weights[0])


def test_an_interrupted_polishing_goes_on(
    generator: ws.FittedGenerator, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"density": 0.2, "seed": 2, "polish": "6it", "task": task}
    whole = generator.sample(3, **asked)
    original = training.Trainer.run

    def stop(self: training.Trainer, step: int, *rest: object) -> None:
        original(self, min(step, 4), *rest)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            generator.sample(3, folder=tmp_path / "s", **asked)
    resumed = generator.sample(3, folder=tmp_path / "s", **asked)
    assert torch.equal(resumed.weights, whole.weights)
    with pytest.raises(ws.StorageError):  # a folder of other samples
        generator.sample(3, folder=tmp_path / "s", density=0.2, seed=2)


def test_new_last_layers_are_the_cheapest_polish(
    generator: ws.FittedGenerator, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, how = generator.sample(3, density=0.2, seed=1), ws.LastLayer(samples=200)
    asked = {"density": 0.2, "seed": 1, "polish": how, "task": task}
    polished = generator.sample(3, **asked)
    assert torch.equal(polished.masks, plain.masks)
    assert torch.equal(polished.weights != 0, plain.weights != 0)
    assert torch.equal(polished.weights, how.refit(plain, task).weights)
    assert polished.records[0].metrics.keys() == {"validation_loss", "validation_accuracy"}

    monkeypatch.setattr(polishing, "_REFITTED", 2)
    refit, calls = ws.LastLayer.refit, list[int]()

    def stop(self: ws.LastLayer, networks: ws.Collection, *rest: object, **named: object) -> ws.Collection:
        calls.append(len(networks))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return refit(self, networks, *rest, **named)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ws.LastLayer, "refit", stop)
    with pytest.raises(KeyboardInterrupt):
        generator.sample(3, folder=tmp_path / "s", **asked)
    resumed = generator.sample(3, folder=tmp_path / "s", **asked)
    assert calls == [2, 1, 1]  # what was done is not done again
    assert torch.allclose(resumed.weights, polished.weights, atol=1e-6)
    with pytest.raises(ws.StorageError):  # a folder of other samples
        generator.sample(3, folder=tmp_path / "s", **asked | {"polish": ws.LastLayer(samples=100)})


def test_half_a_request_is_refused(generator: ws.FittedGenerator, task: ws.Task) -> None:
    with pytest.raises(InputError, match="give task="):
        generator.sample(2, density=0.2, polish="3it")
    with pytest.raises(InputError, match="say how"):
        generator.sample(2, density=0.2, task=task)
    with pytest.raises(InputError, match="at least one"):
        generator.sample(2, density=0.2, polish="0it", task=task)

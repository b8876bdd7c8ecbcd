"""Variational training: seeds, checkpoints and refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError


def test_draws_in_training_do_not_depend_on_the_neighbours(adam: ws.Task, tickets: ws.Collection) -> None:
    together = bayes.Variational().fit(tickets[:2], adam)
    alone = bayes.Variational().fit(tickets[1:2], adam)
    torch.testing.assert_close(alone.weights[0], together.weights[1], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_at_the_very_end_keeps_the_loss(adam: ws.Task, tickets: ws.Collection, tmp_path) -> None:
    inference = bayes.Variational().start(tickets[:2], adam)
    inference.run(inference.length)
    inference.save(tmp_path / "c.safetensors")
    again = bayes.Variational().start(tickets[:2], adam)
    again.resume(tmp_path / "c.safetensors")
    assert (again.step, again.loss) == (inference.step, inference.loss)
    assert torch.equal(again.network.means(), inference.network.means())


def test_what_variational_training_does_not_know_is_refused(adam: ws.Task, tickets: ws.Collection) -> None:
    for change in (
        {"optimizer": ws.Adam(weight_decay=0.1)},
        {"augmentation": ws.Augmentation(flip=True)},
        {"optimizer": ws.SGD(lr=0.1)},
    ):
        with pytest.raises(InputError):
            bayes.Variational().fit(tickets[:1], replace(adam, recipe=replace(adam.recipe, **change)))


def test_divergence_stops_with_the_step_and_the_rate(adam: ws.Task, tickets: ws.Collection) -> None:
    wild = replace(adam, recipe=replace(adam.recipe, optimizer=ws.Adam(lr=1e9)))
    with pytest.raises(InputError, match=r"at step \d+ \(learning rate 1e\+09\)"):
        bayes.Variational().fit(tickets[:1], wild)
    assert math.isfinite(bayes.Variational().fit(tickets[:1], adam).records[0]["metrics"]["validation_loss"])


@pytest.mark.parametrize("norm", [False, True])
def test_training_that_is_interrupted_midway_goes_on_to_the_same_bytes(
    norm: bool, adam: ws.Task, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8) if norm else nn.ReLU(), nn.Linear(8, 10)
    )
    own = replace(adam, architecture=ws.Architecture.of(build))
    start = ws.collect(replace(own, recipe=replace(own.recipe, length=ws.Step(iterations=1))), 2)
    whole = bayes.Variational().fit(start, own)
    monkeypatch.setattr(bayes.inference.variational, "_CHECKPOINT_STEPS", 10)
    batch, calls = bayes.inference.variational.Inference._batch, 0

    def interrupt(self):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return batch(self)

    monkeypatch.setattr(bayes.inference.variational.Inference, "_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bayes.Variational().fit(start, own, folder=tmp_path / "run")
    again = bayes.Variational().fit(start, own, folder=tmp_path / "run")
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(again.extras["std"], whole.extras["std"])
    assert all(torch.equal(b, whole.buffers[n]) for n, b in again.buffers.items())
    assert calls < 25 + 3 * 17, "it went on from the checkpoint"

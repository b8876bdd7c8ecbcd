"""Lottery ticket adaptation: only the chosen entries change, apart means apart, and runs resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.adapt.conftest import RECIPE
from weightspace import adapt
from weightspace.tickets import finder
from weightspace.training import trainer as training
from weightspace.training.conversion import trainer_for

OPTIMIZERS = {
    "adamw": ws.Adam(lr=0.01, weight_decay=0.5, decoupled=True),
    "adam": ws.Adam(lr=0.01, weight_decay=0.5),
    "momentum": ws.SGD(lr=0.05, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_untrained_entries_are_the_base_bit_for_bit(base: ws.Collection, first: ws.Task, optimizer: str) -> None:
    task = replace(first, recipe=replace(RECIPE, optimizer=OPTIMIZERS[optimizer]))
    vectors = adapt.LoTA(density=0.2).find(base, task)
    adapted, trained = vectors.on(base), vectors.trained
    assert torch.equal(adapted.weights[~trained], base.weights[~trained])
    assert (adapted.weights != base.weights)[trained].float().mean() > 0.9
    full = trainer_for(base, task)  # the control: all entries move under decay
    full.run(6)
    assert (full.weights != base.weights).float().mean() > 0.9


def test_exactly_so_many_weights_are_trained_and_the_head_is_trained_entirely(
    base: ws.Collection, vectors: adapt.TaskVectors
) -> None:
    layout = base.layout
    head = {name: vectors.trained[:, layout.slices[name]] for name in ("head.weight", "head.bias")}
    assert all(part.all() for part in head.values())
    chosen = vectors.trained.sum(1) - sum(part.shape[1] for part in head.values())
    body = sum(entry.size for entry in layout.weights if entry.name != "head.weight")
    assert chosen.tolist() == [round(0.2 * body)] * 2
    frozen = [e.name for e in layout.parameters if e.role != "weight" and not e.name.startswith("head")]
    assert frozen
    assert not any(vectors.trained[:, layout.slices[name]].any() for name in frozen)


def test_the_largest_changes_of_the_calibration_are_trained(base: ws.Collection, first: ws.Task) -> None:
    vectors = adapt.LoTA(density=0.2, calibration="4it").find(base, first)
    short = replace(first, recipe=replace(RECIPE, length=ws.Step.of("4it")))
    full = trainer_for(base, short)
    full.run(4)
    expected = ws.Unstructured(0.2).mask((full.weights - base.weights).abs(), base.layout)
    assert torch.equal(vectors.masks, expected)
    other = adapt.LoTA(density=0.2, by="magnitude").find(base, first)
    assert torch.equal(other.masks, ws.Unstructured(0.2).mask(base.weights.abs(), base.layout))
    assert not torch.equal(other.masks, expected)
    random = adapt.LoTA(density=0.2, by="random").find(base, first)
    assert not torch.equal(random.masks[0], random.masks[1])


def test_a_second_task_trains_other_entries(
    base: ws.Collection, first: ws.Task, second: ws.Task, vectors: adapt.TaskVectors
) -> None:
    after = vectors.on(base)
    then = adapt.LoTA(density=0.2, apart_from=vectors).find(after, first)
    assert not (then.trained & vectors.trained).any()
    both = then.on(after)
    assert torch.equal(both.weights[vectors.trained], after.weights[vectors.trained])
    together = adapt.LoTA(density=0.2).find(after, first)
    assert (together.trained & vectors.trained).any()  # the control

    other = ws.starts(ws.collect(second, 2, seed=1))
    with pytest.warns(UserWarning, match=r"left out of the vectors to stay apart from.*head\.weight \(3, 8\)"):
        apart = adapt.LoTA(density=0.2, apart_from=vectors, whole="head.*").find(other, second)
    place = "encoder.0.weight"
    ours, theirs = (v.trained[:, v.layout.slices[place]] for v in (apart, vectors))
    assert ours.any()
    assert not (ours & theirs).any()


def test_a_run_resumes_to_the_same_bytes(
    base: ws.Collection, first: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(finder, "block_size", lambda *_, **__: 1)
    lota = adapt.LoTA(density=0.2, whole="head.*")
    whole = lota.find(base, first)
    run = training.Trainer.run

    for stop in (3, 9):  # in the calibration, and in the adaptation
        steps = 0

        def interrupted(self: training.Trainer, until: int, tick: object, stop: int = stop) -> None:
            nonlocal steps
            while self.step < until:
                run(self, self.step + 1)
                self.save(self.checkpoint) if self.checkpoint else None
                steps += 1
                if steps == stop:
                    raise KeyboardInterrupt

        folder = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                lota.find(base, first, folder=folder)
        assert list(folder.glob("*.checkpoint.safetensors"))
        resumed = lota.find(base, first, folder=folder)
        assert torch.equal(resumed.weights, whole.weights)
        assert torch.equal(resumed.trained, whole.trained)
        assert not list(folder.glob("*.checkpoint.safetensors"))


def test_what_does_not_fit_is_refused(base: ws.Collection, first: ws.Task, vectors: adapt.TaskVectors) -> None:
    with pytest.raises(ws.InputError, match="dense"):
        adapt.LoTA().find(vectors, first)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ws.InputError, match="no tensor is called 'decoder"):
        adapt.LoTA(on=("decoder.*",)).find(base, first)
    with pytest.raises(ws.InputError, match="no weights are left to choose among"):
        adapt.LoTA(on="head.*", whole="head.*").find(base, first)
    with pytest.raises(ws.InputError, match="are left"):
        adapt.LoTA(density=1.0, apart_from=vectors).find(base, first)
    for settings in ({"density": 0.0}, {"calibration": "3 weeks"}, {"by": "random", "calibration": "3it"}):
        with pytest.raises(ws.InputError):
            adapt.LoTA(**settings)  # pyright: ignore[reportArgumentType]

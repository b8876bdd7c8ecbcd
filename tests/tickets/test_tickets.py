from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.masks.schedule import steps_to
from weightspace.storage.spelling import spelled_text, spelling_of
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import choose_execution


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("density", [0.37, 0.1])
def test_every_finder_reaches_the_exact_density(dense: ws.Collection, task: ws.Task, density: float, scope) -> None:
    count = round(density * dense.layout.num_prunable)
    finders = [
        ws.tickets.GradualPruning(density=density, scope=scope, length=ws.Step(epochs=2)),
        ws.tickets.IMP(density=density, rate=0.6, scope=scope),
    ]
    for finder in finders:
        tickets = finder.find(dense[:2], task)
        assert (tickets.masks[:, dense.layout.prunable].sum(1) == count).all()
        assert ((tickets.weights != 0)[:, dense.layout.prunable].sum(1) == count).all()
        record = tickets.records[1]
        assert (record["kind"], record["parent"], record["seed"]) == ("ticket", 1, dense.records[1]["seed"])
        assert record["method"]["name"] == spelling_of(finder).name


def test_gradual_masks_are_nested_and_fall_on_a_cubic_curve(dense: ws.Collection, task: ws.Task, monkeypatch) -> None:
    masks: list[torch.Tensor] = []
    prune = ws.training.Trainer.prune
    monkeypatch.setattr(ws.training.Trainer, "prune", lambda self, m: masks.append(m.clone()) or prune(self, m))
    ws.tickets.GradualPruning(density=0.2, length=ws.Step(epochs=3), ramp=0.7, every=4).find(dense[:2], task)
    assert len(masks) == 0.7 * 60 // 4 + 1
    assert masks[0].all()
    assert all((later <= earlier).all() for earlier, later in pairwise(masks))
    kept = [m[0, dense.layout.prunable].double().mean().item() for m in masks]
    expected = [0.2 + 0.8 * (1 - i / 10) ** 3 for i in range(11)]
    assert kept == pytest.approx(expected, abs=1e-3)


def test_imp_levels_end_exactly_and_never_skip() -> None:
    levels = [pattern.density for pattern in ws.tickets.IMP(density=0.1).levels()]
    assert len(levels) == 11
    assert levels[:2] == [0.8, pytest.approx(0.64)]
    assert levels[-1] == 0.1
    assert all(b >= 0.8 * a - 1e-12 for a, b in pairwise(levels))


@pytest.mark.parametrize("rewind", ["0it", "1ep"])
def test_imp_rewinds_survivors_to_their_early_weights(dense: ws.Collection, task: ws.Task, rewind: str) -> None:
    step = ws.Step.of(rewind)
    tickets = ws.tickets.IMP(density=0.5, rate=0.5, rewind=step).find(dense[:3], task)
    early = trainer_for(initial(task.architecture, dense[:3].records), task, execution=choose_execution(task, 3))
    early.run(step.total(early.per_epoch))
    assert torch.equal(tickets.extras["rewind"], early.weights)
    # The mask is the largest half of the trained dense networks, and the ticket is what training the
    # rewound survivors under that mask gives.
    masks = ws.Unstructured(0.5).mask(dense[:3].weights.abs(), dense.layout)
    assert torch.equal(tickets.masks, masks)
    again = early.fork(masks)
    again.run(again.length)
    assert torch.equal(tickets.weights, again.weights)


def test_imp_masks_are_nested(dense: ws.Collection, task: ws.Task) -> None:
    wide = ws.tickets.IMP(density=0.5, rate=0.5).find(dense[:2], task)
    narrow = ws.tickets.IMP(density=0.25, rate=0.5).find(dense[:2], task)
    assert (narrow.masks <= wide.masks).all()
    assert not torch.equal(narrow.masks, wide.masks)


def test_tickets_work_far_better_than_their_masks_on_other_weights(tickets: ws.Collection, task: ws.Task) -> None:
    def accuracy(networks: ws.Collection) -> float:
        return (networks.ensemble().logits(task.validation.x).argmax(-1) == task.validation.y).double().mean().item()

    crossed = tickets.replace(weights=tickets.weights.roll(1, 0) * tickets.masks)
    assert accuracy(tickets) > accuracy(crossed) + 0.3


def test_a_finder_resumes_in_its_folder_and_refuses_others(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    finder = ws.tickets.GradualPruning(density=0.3, length=ws.Step(epochs=2))
    first = finder.find(dense[:3], task, folder=tmp_path / "t")
    again = finder.find(dense[:3], task, folder=tmp_path / "t")
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.masks, again.masks)
    with pytest.raises(StorageError, match=r"density: 0\.3 there, 0\.4 asked"):
        replace(finder, density=0.4).find(dense[:3], task, folder=tmp_path / "t")
    with pytest.raises(StorageError, match=r"inputs\.networks"):
        finder.find(dense[1:4], task, folder=tmp_path / "t")


def test_imp_knows_networks_trained_with_adam_after_a_round_trip_to_disk(task: ws.Task, tmp_path: Path) -> None:
    adam = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam(1e-2)))
    ws.collect(adam, 2, folder=tmp_path / "zoo")
    loaded = ws.Collection.load(tmp_path / "zoo")
    assert len(ws.tickets.IMP(density=0.5, rate=0.5).find(loaded, adam)) == 2


def test_networks_that_were_aligned_are_not_rewound(dense: ws.Collection, task: ws.Task) -> None:
    aligned = ws.WeightMatching().fit(dense).transform(dense)
    with pytest.raises(InputError, match="not as collect trained it"):
        ws.tickets.IMP(density=0.5).find(aligned, task)
    found = ws.tickets.GradualPruning(density=0.5, length=ws.Step(epochs=2)).find(aligned, task)
    assert not any("aligned" in record for record in found.records)


def test_an_interrupted_imp_goes_on_at_its_level(
    dense: ws.Collection, task: ws.Task, tmp_path: Path, monkeypatch
) -> None:
    finder = ws.tickets.IMP(density=0.2, rate=0.4)
    whole = finder.find(dense[:2], task, folder=tmp_path / "whole")
    run = ws.training.Trainer.run
    calls = 0

    def stop(self, until, tick=lambda _: None):
        nonlocal calls
        calls += 1
        if calls == 4:  # the early weights, two levels, and then
            raise KeyboardInterrupt
        run(self, until, tick)

    monkeypatch.setattr(ws.training.Trainer, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        finder.find(dense[:2], task, folder=tmp_path / "broken")
    resumed = finder.find(dense[:2], task, folder=tmp_path / "broken")
    assert calls == 4 + 1 + len(finder.levels()) - 2
    assert torch.equal(resumed.weights, whole.weights)


def test_networks_of_different_densities_reach_the_same(dense: ws.Collection, task: ws.Task) -> None:
    parts = [
        ws.tickets.GradualPruning(density=d, length=ws.Step(epochs=2)).find(dense[i : i + 2], task)
        for i, d in ((0, 0.5), (2, 0.3))
    ]
    mixed = ws.Collection.concatenate(parts)
    found = ws.tickets.GradualPruning(density=0.1, length=ws.Step(epochs=2)).find(mixed, task)
    assert (found.masks[:, found.layout.prunable].sum(1) == round(0.1 * found.layout.num_prunable)).all()


def test_bad_requests_are_refused(dense: ws.Collection, tickets: ws.Collection, task: ws.Task) -> None:
    for make in (ws.tickets.GradualPruning, ws.tickets.IMP):
        with pytest.raises(InputError, match="density"):
            make(density=0.0)
        with pytest.raises(InputError, match="keeps 189 weights already"):
            make(density=0.5).find(tickets, task)
    with pytest.raises(InputError, match="too short to prune little by little"):
        ws.tickets.GradualPruning(length=ws.Step(iterations=5)).find(dense, task)
    with pytest.raises(InputError, match="ramp"):
        ws.tickets.GradualPruning(ramp=0.0)
    with pytest.raises(InputError, match="rate"):
        ws.tickets.IMP(rate=1.0)
    with pytest.raises(InputError, match="not as collect trained it"):
        ws.tickets.IMP(density=0.1).find(tickets, task)
    other = replace(task, recipe=replace(task.recipe, batch_size=7))
    with pytest.raises(InputError, match="this task's recipe"):
        ws.tickets.IMP().find(dense, other)
    with pytest.raises(InputError, match="cannot rewind to 9ep"):
        ws.tickets.IMP(rewind=ws.Step(epochs=9)).find(dense, task)


def test_the_last_rung_of_the_ladder_is_the_ticket(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    finder = ws.tickets.IMP(density=0.3, rate=0.5, rewind=ws.Step(epochs=1))
    rungs = finder.find_levels(dense[:2], task, folder=tmp_path / "ladder")
    found = finder.find(dense[:2], task)
    assert [round(rung.densities[0].item(), 3) for rung in rungs] == [1.0, 0.5, 0.3]
    assert torch.equal(rungs[-1].weights, found.weights)
    assert torch.equal(rungs[-1].extras["rewind"], found.extras["rewind"])
    assert (rungs[2].masks <= rungs[1].masks).all()
    assert torch.equal(finder.find_levels(dense[:2], task, folder=tmp_path / "ladder")[1].weights, rungs[1].weights)


@pytest.mark.parametrize("pattern", [ws.NM(2, 4), ws.Channels(0.5)])
def test_iterative_pruning_reaches_any_pattern(pattern, dense: ws.Collection, task: ws.Task) -> None:
    finder = ws.tickets.IMP(pattern=pattern, rate=0.3)
    found = finder.find(dense[:2], task)
    assert torch.equal(pattern.mask(found.weights.abs() + found.masks, found.layout), found.masks)
    assert found.records[0]["method"]["pattern"] == spelled_text(pattern)
    with pytest.raises(AssertionError):  # a ticket without the pattern would not pass
        plain = ws.tickets.IMP(density=0.5, rate=0.3).find(dense[:2], task)
        assert torch.equal(pattern.mask(plain.weights.abs() + plain.masks, plain.layout), plain.masks)


def test_the_steps_to_a_pattern() -> None:
    assert steps_to(ws.NM(2, 4), 0.2) == [ws.NM(3, 4), ws.NM(2, 4)]
    assert steps_to(ws.NM(2, 16), 0.5) == [ws.NM(8, 16), ws.NM(4, 16), ws.NM(2, 16)]
    assert steps_to(ws.NM(4, 4), 0.2) == [ws.NM(4, 4)]
    assert steps_to(ws.Unstructured(0.3, "layer"), 0.5) == [
        ws.Unstructured(0.5, "layer"),
        ws.Unstructured(0.3, "layer"),
    ]
    assert steps_to(ws.Channels(0.7), 0.2) == [ws.Channels(0.8), ws.Channels(0.7)]

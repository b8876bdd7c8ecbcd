"""Controls of tickets, validation curves, and training with the live weights alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.tickets import TicketControls
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import Execution


def counts(collection: ws.Collection) -> list[list[int]]:
    layout = collection.layout
    weights = [e.name for e in layout.weights]
    return [[int(mask[layout.slices[name]].sum()) for name in weights] for mask in collection.masks]


@pytest.fixture(scope="module")
def found(dense: ws.Collection, task: ws.Task) -> ws.Collection:
    return ws.tickets.IMP(0.2, 0.8).find(dense[:3], task)


def test_controls_keep_the_counts_and_move_the_rest(found: ws.Collection, dense: ws.Collection, task: ws.Task) -> None:
    controls = TicketControls(seed=1)
    start = initial(task.architecture, found.records).weights
    assert torch.equal(controls.rewound(found).weights, start * found.masks)
    new = controls.reinitialised(found)
    assert torch.equal(new.masks, found.masks)
    assert ((new.weights != start) | (start == 0) | ~found.masks).all()
    shuffled, scattered = controls.shuffled(found), controls.globally_shuffled(found)
    assert counts(shuffled) == counts(found)
    assert counts(scattered) != counts(found)
    assert [sum(row) for row in counts(scattered)] == [sum(row) for row in counts(found)]
    for moved in (shuffled, scattered):
        assert (moved.masks != found.masks).any(1).all()
        assert torch.equal(moved.weights, start * moved.masks)
    assert torch.equal(TicketControls(seed=1).shuffled(found).masks, shuffled.masks)
    assert not torch.equal(TicketControls(seed=2).shuffled(found).masks, shuffled.masks)


def test_an_inverted_mask_keeps_the_lowest_scores_of_each_layer(found: ws.Collection, dense: ws.Collection) -> None:
    inverted = TicketControls().inverted(found, dense[:3].weights.abs())
    assert counts(inverted) == counts(found)
    for i in range(3):
        for entry in found.layout.weights:
            at = found.layout.slices[entry.name]
            size, mask = dense.weights[i, at].abs(), inverted.masks[i, at]
            assert size[mask].max() <= size[~mask].min()
    with pytest.raises(ws.InputError, match="scores must be a tensor of shape"):
        TicketControls().inverted(found, dense.weights)


def test_controls_need_the_weights_to_start_from(found: ws.Collection) -> None:
    bare, controls = found.replace(extras={}), TicketControls()
    for control in (
        controls.rewound,
        controls.reinitialised,
        controls.shuffled,
        controls.globally_shuffled,
        partial(controls.inverted, scores=found.weights),
    ):
        with pytest.raises(ws.InputError, match="rewind"):
            control(bare)


@pytest.fixture(scope="module")
def watched(task: ws.Task) -> ws.Task:
    return replace(task, recipe=replace(task.recipe, watch=ws.Step(iterations=7)))


def test_a_curve_is_what_training_to_each_point_gives(task: ws.Task, watched: ws.Task) -> None:
    networks = ws.collect(watched, 2)
    plain = ws.collect(task, 2)
    assert torch.equal(networks.weights, plain.weights)
    curve = networks.records[1]["curve"]
    total = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))
    assert curve["steps"] == [*range(7, total + 1, 7)]
    assert len(curve["validation_loss"]) == total // 7
    for look in (1, 5):
        short = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=7 * look), schedule="constant"))
        full = replace(watched, recipe=replace(watched.recipe, schedule="constant"))
        seen = ws.collect(full, 2).records[1]["curve"]
        metrics = ws.collect(short, 2).records[1]["metrics"]
        assert seen["validation_loss"][look - 1] == pytest.approx(metrics["validation_loss"], abs=2e-6)
        assert seen["validation_accuracy"][look - 1] == pytest.approx(metrics["validation_accuracy"], abs=2e-6)
    best = curve["validation_loss"].index(min(curve["validation_loss"]))
    assert curve["best_step"] == 7 * (best + 1)
    assert "curve" not in plain.records[0]


def test_looks_know_their_step(watched: ws.Task) -> None:
    """From a shared start, past updates that a finder makes itself, and from the rewind point on."""
    shared = ws.collect(watched, 1, plan=ws.SharedStart(ws.Step(iterations=30))).records[0]["curve"]
    assert shared["steps"][0] == 35
    assert shared["best_step"] in shared["steps"]
    moving = ws.tickets.DynamicSparseTraining(0.3, every=10).find(ws.collect(watched, 1), watched).records[0]["curve"]
    assert all(step % 7 == 0 for step in moving["steps"])
    rewound = ws.tickets.IMP(0.3, 0.7, rewind=ws.Step(iterations=15)).find(ws.collect(watched, 1), watched)
    assert rewound.records[0]["curve"]["steps"][0] == 21


def test_a_resumed_curve_is_whole(watched: ws.Task, tmp_path: Path) -> None:
    start = initial(watched.architecture, [{"seed": 3}, {"seed": 4}])
    whole = trainer_for(start, watched)
    whole.run(40)
    first = trainer_for(start, watched)
    first.run(23)
    first.save(tmp_path / "checkpoint")
    second = trainer_for(start, watched)
    second.resume(tmp_path / "checkpoint")
    second.run(40)
    assert whole.curve.shape == (2, 5, 2)
    assert torch.equal(second.curve, whole.curve)
    assert torch.equal(second.weights, whole.weights)


def test_watching_needs_an_interval() -> None:
    with pytest.raises(ws.InputError, match="at least every iteration"):
        ws.Recipe(watch=ws.Step())
    recipe = ws.Recipe(watch=ws.Step(iterations=5))
    assert ws.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "optimizer", [ws.Adam(lr=1e-2, weight_decay=1e-3), ws.SGD(lr=0.05, nesterov=True)], ids=["adam", "sgd"]
)
def test_live_weights_train_like_the_dense_matrix(optimizer: ws.Adam | ws.SGD) -> None:
    """Trained as compressed rows or as masked matrices: the same network but for rounding."""
    base = ws.tasks.digits(hidden=(96, 64))
    task = replace(base, recipe=ws.Recipe(ws.Step(epochs=2), optimizer=optimizer))
    start = initial(task.architecture, [{"seed": 0}, {"seed": 1}])
    masks = ws.Unstructured(0.1, "layer").mask(start.weights.abs(), start.layout)
    sparse = start.replace(weights=start.weights * masks, masks=masks)
    one, other = (trainer_for(sparse, task, execution=Execution(group, 1, 0.0)) for group in (1, 2))
    assert one._live_network(slice(0, 1)) is not None
    assert other._live_network(slice(0, 2)) is None
    for trainer in (one, other):
        trainer.run(30)
    assert (one.weights - sparse.weights).abs().max() > 0.01
    assert torch.allclose(one.weights, other.weights, atol=2e-5)
    assert not one.weights[~masks].any()
    for name in one.state:
        assert torch.allclose(one.state[name], other.state[name], atol=2e-5)
        assert not one.state[name][~masks].any()
    fewer = masks & (torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)) < 0.5) | ~start.layout.prunable
    for trainer in (one, other):  # another mask, another structure
        trainer.prune(fewer)
        trainer.run(35)
    assert torch.allclose(one.weights, other.weights, atol=2e-5)
    assert not one.weights[~fewer].any()

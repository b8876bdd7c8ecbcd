from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import seeds
from weightspace.training import Trainer
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.individual import Individual

STEPS = 25
STEPPED = ws.Schedule("step", warmup=Step(iterations=4), milestones=(Step(iterations=10), Step(epochs=1)))


def looped(task: ws.Task, start: ws.Collection, masks: torch.Tensor | None) -> torch.Tensor:
    """The plain way: one module after another, torch.optim, a hand-written loop. The oracle."""
    recipe = task.recipe
    per_epoch = recipe.per_epoch(len(task.train))
    total = recipe.length.total(per_epoch)
    result = []
    for i, network in enumerate(start):
        module = task.architecture.build()
        module.load_state_dict(network.state_dict())
        mask = None if masks is None else start.layout.unpack(masks[i])
        config = recipe.optimizer
        if isinstance(config, ws.SGD):
            optimizer = torch.optim.SGD(
                module.parameters(),
                config.lr,
                config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
            )
        else:
            kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
            optimizer = kind(module.parameters(), config.lr, config.betas, config.eps, config.weight_decay)
        for step in range(STEPS):
            epoch, position = divmod(step, per_epoch)
            random = seeds.generator(network.record["seed"], "data order", epoch)
            batch = torch.randperm(len(task.train), generator=random)[position * recipe.batch_size :][
                : recipe.batch_size
            ]
            optimizer.zero_grad()
            F.cross_entropy(module(task.train.x[batch]), task.train.y[batch]).backward()
            for name, parameter in module.named_parameters():
                if mask is not None:
                    assert parameter.grad is not None
                    parameter.grad.mul_(mask[name])
            for group in optimizer.param_groups:
                group["lr"] = config.lr * recipe.lr_factor(step, total, per_epoch)
            optimizer.step()
        result.append(start.layout.pack(module.state_dict()))
    return torch.stack(result).detach()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "triangular", STEPPED])
@pytest.mark.parametrize(
    "optimizer",
    [
        ws.SGD(0.05, momentum=0.0),
        ws.SGD(0.05, weight_decay=0.01),
        ws.SGD(0.05, nesterov=True),
        ws.Adam(1e-2),
        ws.Adam(1e-2, weight_decay=0.01),
        ws.Adam(1e-2, weight_decay=0.01, decoupled=True),
    ],
)
def test_side_by_side_equals_one_after_another(task: ws.Task, optimizer, schedule, sparse: bool) -> None:
    def double(split: ws.Split) -> ws.Split:
        return ws.Split(split.x.double(), split.y)

    architecture = ws.Architecture.of(lambda: ws.models.MLP((64, 6, 10)).double())
    recipe = Recipe(Step(epochs=2), 100, optimizer, schedule)
    exact = replace(task, architecture=architecture, recipe=recipe, train=double(task.train))
    start = initial(architecture, [{"seed": s} for s in (11, 12, 13)])
    masks = None
    if sparse:
        masks = ws.Unstructured(0.3).mask(start.weights.abs(), start.layout)
        start = start.replace(weights=start.weights * masks, masks=masks)
    trainer = trainer_for(start, exact)
    trainer.run(STEPS)
    torch.testing.assert_close(trainer.weights, looped(exact, start, masks), rtol=1e-9, atol=1e-11)


def test_pruned_weights_and_their_state_are_zero_at_every_step_and_kept_ones_move(task: ws.Task) -> None:
    start = initial(task.architecture, [{"seed": 1}, {"seed": 2}])
    masks = ws.Unstructured(0.3).mask(start.weights.abs(), start.layout)
    for optimizer in (ws.SGD(0.1, weight_decay=0.01), ws.Adam(1e-2, weight_decay=0.1)):
        sparse = start.replace(weights=start.weights * masks, masks=masks)
        trainer = trainer_for(sparse, replace(task, recipe=replace(task.recipe, optimizer=optimizer)))
        for step in range(1, 6):
            trainer.run(step)
            assert (trainer.weights[~masks] == 0).all()
            assert all((tensor[~masks] == 0).all() for tensor in trainer.state.values())
        # Pixels that are blank in every image never pass a gradient; weight decay moves those too.
        assert (trainer.weights[masks] != sparse.weights[masks]).float().mean() > 0.999


def test_a_network_does_not_depend_on_its_neighbours(task: ws.Task) -> None:
    many = ws.collect(task, 5, seed=9)
    few = ws.collect(task, 2, seed=9)
    torch.testing.assert_close(many[:2].weights, few.weights, rtol=1e-4, atol=1e-5)
    assert [r["seed"] for r in many.records[:2]] == [r["seed"] for r in few.records]
    assert len({r["seed"] for r in many.records}) == 5
    assert not torch.allclose(many[0].weights, many[1].weights, atol=0.1)


def test_same_seed_same_bytes_other_seed_other_networks(task: ws.Task) -> None:
    a, b, c = (ws.collect(task, 3, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(a.weights, b.weights)
    assert not torch.allclose(a.weights, c.weights, atol=0.1)


def test_training_in_pieces_or_forked_equals_training_at_once(task: ws.Task) -> None:
    start = initial(task.architecture, [{"seed": 1}, {"seed": 2}])
    whole, pieces = trainer_for(start, task), trainer_for(start, task)
    whole.run(30)
    pieces.run(7)
    fork = pieces.fork(torch.ones_like(pieces.weights, dtype=torch.bool))
    before = pieces.weights.clone()
    fork.run(30)
    assert torch.equal(fork.weights, whole.weights)
    assert torch.equal(pieces.weights, before)  # the fork left its parent alone


def test_networks_learn(task: ws.Task, dense: ws.Collection) -> None:
    accuracy = [record["metrics"]["validation_accuracy"] for record in dense.records]
    assert min(accuracy) > 0.4
    module = dense.module(0).eval()
    by_hand = (module(task.validation.x).argmax(-1) == task.validation.y).double().mean().item()
    assert accuracy[0] == pytest.approx(by_hand)


def test_the_trainer_sees_only_the_training_split(task: ws.Task) -> None:
    poison = ws.Split(torch.full_like(task.test.x, 1e30), task.test.y)
    poisoned = replace(task, test=poison)
    assert torch.equal(ws.collect(poisoned, 2, seed=1).weights, ws.collect(task, 2, seed=1).weights)
    changed = replace(task, train=ws.Split(task.train.x.flip(0), task.train.y))  # the control: training data do count
    assert not torch.equal(ws.collect(changed, 2, seed=1).weights, ws.collect(task, 2, seed=1).weights)


def test_batchnorm_statistics_are_each_networks_own(task: ws.Task) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10))

    with_norm = replace(task, architecture=ws.Architecture.of(build))
    both, alone = ws.collect(with_norm, 3, seed=0), ws.collect(with_norm, 1, seed=0)
    torch.testing.assert_close(
        both[:1].buffers["2.running_mean"], alone.buffers["2.running_mean"], rtol=1e-3, atol=1e-4
    )
    assert not torch.allclose(both[0].buffers["2.running_mean"], both[1].buffers["2.running_mean"], atol=1e-2)
    steps = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))
    assert both.buffers["2.num_batches_tracked"].tolist() == [steps] * 3


def test_a_run_folder_returns_at_once_and_refuses_another_configuration(task: ws.Task, tmp_path: Path) -> None:
    first = ws.collect(task, 2, seed=1, folder=tmp_path / "zoo")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").glob("[!.]*")}
    again = ws.collect(task, 2, seed=1, folder=tmp_path / "zoo")
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.weights, ws.collect(task, 2, seed=1).weights)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").glob("[!.]*")} == stamps
    with pytest.raises(StorageError, match=r"config\.seed: 1 there, 2 asked"):
        ws.collect(task, 2, seed=2, folder=tmp_path / "zoo")
    more_data = replace(task, validation=task.test)
    with pytest.raises(StorageError, match="sha256"):
        ws.collect(more_data, 2, seed=1, folder=tmp_path / "zoo")


@pytest.mark.parametrize(("text", "total"), [("3ep", 30), ("7it", 7), ("2ep5it", 25), ("0it", 0)])
def test_steps_count_epochs_and_iterations(text: str, total: int) -> None:
    assert Step.of(text).total(10) == total
    assert str(Step.of(text)) == text


def test_recipes_survive_json() -> None:
    augmented = Recipe(schedule=STEPPED, augmentation=ws.Augmentation(2, True))
    for recipe in (
        augmented,
        Recipe(),
        Recipe(Step(1, 2), 7, ws.SGD(0.3, nesterov=True), "cosine"),
        Recipe(schedule=STEPPED, augmentation=ws.Augmentation(2, True)),
    ):
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_bad_requests_are_refused(task: ws.Task, dense: ws.Collection) -> None:
    with pytest.raises(InputError, match="n must be"):
        ws.collect(task, 0)
    with pytest.raises(InputError, match="seed must be"):
        ws.collect(task, 1, seed=-1)
    with pytest.raises(InputError, match="'30ep'"):
        Step.of("30 epochs")
    with pytest.raises(InputError, match="lr must be"):
        ws.Adam(0.0)
    with pytest.raises(InputError, match="batch_size"):
        Recipe(batch_size=0)
    with pytest.raises(InputError, match="no seed in its record"):
        trainer_for(dense.replace(records=[{}] * 10), task)
    for wrong in (
        lambda: ws.SGD(momentum=-1.0),
        lambda: ws.SGD(weight_decay=-1.0),
        lambda: ws.Adam(betas=(2.0, 3.0)),
        lambda: ws.SGD(momentum=0.0, nesterov=True),
        lambda: ws.Adam(float("inf")),
        lambda: Step(-1),
        lambda: ws.Augmentation(crop=-1),
    ):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="device 'abacus' is not available"):
        ws.collect(task, 1, device="abacus")
    with pytest.raises(InputError, match="2 seeds for 1 networks"):
        Trainer(
            task.architecture,
            task.train,
            task.loss,
            task.recipe,
            weights=dense.weights[:1],
            masks=None,
            buffers={},
            individual=Individual([1, 2]),
        )
    other = replace(task, architecture=ws.Architecture("MLP", {"sizes": [64, 3, 10]}))
    with pytest.raises(LayoutMismatch, match="another layout"):
        ws.tickets.GradualPruning().find(dense, other)


def test_a_diverged_training_is_refused_and_named(task: ws.Task) -> None:
    wild = replace(task, recipe=replace(task.recipe, optimizer=ws.SGD(1e18)))
    with pytest.raises(InputError, match=r"training diverged.*lower learning rate"):
        ws.collect(wild, 2)


def test_architectures_are_built_by_name_or_by_factory() -> None:
    assert ws.Architecture("MLP", {"sizes": [2, 2]}).layout().size == 6
    with pytest.raises(InputError, match="no built-in network is called 'Mlp'"):
        ws.Architecture("Mlp").build()
    with pytest.raises(InputError, match="cannot be built"):
        ws.Architecture("MLP", {"widths": [2]}).build()
    with pytest.raises(InputError, match="not an nn.Module"):
        ws.Architecture.of(lambda: 3).build()  # type: ignore[arg-type,return-value]
    before = torch.random.get_rng_state()
    a, b = (ws.Architecture("MLP", {"sizes": [9, 9]}).build_seeded(s)[1].weight for s in (1, 2))
    assert not torch.equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global random state is put back

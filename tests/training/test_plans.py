"""Kinds of collection, per-network settings, random layers, and training on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.runtime import seeds
from weightspace.tasks.task import cross_entropy
from weightspace.training.augment import augment
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import Execution, choose_execution
from weightspace.training.individual import Individual
from weightspace.training.trainer import Trainer


def records(n: int) -> list[dict]:
    return [{"seed": i + 1} for i in range(n)]


def test_groups_and_loops_give_the_same_networks(task: ws.Task) -> None:
    start = initial(task.architecture, records(5))
    results = []
    for group in (1, 2, 5):
        trainer = trainer_for(start, task, execution=Execution(group, 1, 0.0))
        trainer.run(25)
        results.append(trainer.weights)
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[0], results[2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(results[0], start.weights, atol=1e-2)


class Channels(nn.Sequential):
    """A small convolutional network with one kind of normalisation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, bias=False),
            norm,
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 8),
            nn.LayerNorm(8),
            nn.ReLU(),
            nn.Linear(8, 10),
        )


@pytest.mark.parametrize(
    "norm", [lambda: nn.BatchNorm2d(4), lambda: nn.GroupNorm(2, 4), lambda: nn.InstanceNorm2d(4, affine=True)]
)
@pytest.mark.parametrize(
    "optimizer", [ws.SGD(0.05, nesterov=True, weight_decay=0.01), ws.Adam(0.01, weight_decay=0.1, decoupled=True)]
)
def test_every_normalisation_trains_the_same_side_by_side(task: ws.Task, norm, optimizer) -> None:
    exact = replace(
        task,
        architecture=ws.Architecture.of(lambda: Channels(norm()).double()),
        train=ws.Split(task.train.x.double(), task.train.y),
        recipe=replace(task.recipe, optimizer=optimizer, augmentation=ws.Augmentation(crop=1, flip=True)),
    )
    start = initial(exact.architecture, records(3))
    masks = ws.Unstructured(0.4).mask(start.weights.abs(), start.layout)
    start = start.replace(weights=start.weights * masks, masks=masks)
    together, alone = (trainer_for(start, exact, execution=Execution(group, 1, 0.0)) for group in (3, 1))
    together.run(12)
    alone.run(12)
    torch.testing.assert_close(together.weights, alone.weights, rtol=1e-8, atol=1e-10)
    for name in start.buffers:
        torch.testing.assert_close(together.buffers[name], alone.buffers[name], rtol=1e-8, atol=1e-10)
    assert (together.weights[~masks] == 0).all()


def test_a_shared_start_is_shared_and_then_left(task: ws.Task) -> None:
    plan = ws.SharedStart(at=ws.Step(epochs=1))
    networks = ws.collect(task, 3, seed=5, plan=plan)
    ancestor = initial(task.architecture, [{"seed": seeds.derive(5, "ancestor")}])
    first = trainer_for(ancestor, task)
    first.run(first.per_epoch)
    records = ws.Independent().runs(3, 5)
    for i, network in enumerate(networks):  # each is the ancestor, trained on in its own order
        alone = Trainer(
            task.architecture,
            task.train,
            task.loss,
            task.recipe,
            weights=first.weights,
            masks=None,
            buffers={},
            individual=Individual([records[i]["seed"]]),
        )
        alone.replace_state(step=first.step, optimizer={k: v.clone() for k, v in first.state.items()})
        alone.run(alone.length)
        torch.testing.assert_close(network.weights, alone.weights[0], rtol=1e-3, atol=1e-4)
        assert network.record["parent"] == {"seed": seeds.derive(5, "ancestor"), "at": "1ep"}
    gap = (networks.weights[0] - networks.weights[1]).norm()
    apart = ws.collect(task, 2, seed=5).weights
    assert 0 < gap < 0.7 * (apart[0] - apart[1]).norm()


def test_a_trajectory_keeps_every_checkpoint_run_by_run(task: ws.Task, tmp_path: Path) -> None:
    networks = ws.collect(task, 2, seed=3, plan=ws.Trajectory(every=ws.Step(iterations=25)), folder=tmp_path / "t")
    assert [(r["index"], r["step"]) for r in networks.records] == [(0, 25), (0, 50), (0, 60), (1, 25), (1, 50), (1, 60)]
    final = ws.collect(task, 2, seed=3)
    torch.testing.assert_close(networks.weights[[2, 5]], final.weights, rtol=1e-4, atol=1e-5)
    for network, record in zip(networks, networks.records, strict=True):  # each is the network that was measured
        outputs = network.module()(task.validation.x)
        assert task.loss(outputs, task.validation.y).item() == pytest.approx(
            record.metrics["validation_loss"], rel=1e-4
        )
    assert len({record.metrics["validation_loss"] for record in networks.records}) == 6


def test_a_grid_trains_each_network_with_its_own_settings(task: ws.Task) -> None:
    grid = ws.Grid(lr=(0.05, 0.2), weight_decay=(0.0, 0.01), label_noise=(0.0, 0.4))
    networks = ws.collect(task, 1, seed=2, plan=grid)
    assert len(networks) == 8
    assert networks.records[7]["individual"] == {"lr": 0.2, "weight_decay": 0.01, "label_noise": 0.4}
    for i in (1, 6):
        own = networks.records[i]["individual"]
        recipe = replace(task.recipe, optimizer=ws.SGD(own["lr"], weight_decay=own["weight_decay"]))
        noise = {"label_noise": own["label_noise"]} if own["label_noise"] else {}
        alone = trainer_for(
            initial(task.architecture, [{"seed": networks.records[i]["seed"], "individual": noise}]),
            replace(task, recipe=recipe),
        )
        alone.run(alone.length)
        torch.testing.assert_close(networks.weights[i], alone.weights[0], rtol=1e-3, atol=1e-4)


def test_label_noise_changes_the_stated_fraction_and_only_in_training(task: ws.Task) -> None:
    individual = Individual([1, 2], label_noise=[0.0, 0.5])
    trainer = Trainer(
        task.architecture,
        task.train,
        task.loss,
        task.recipe,
        weights=torch.zeros(2, 974),
        masks=None,
        buffers={},
        individual=individual,
    )
    labels = trainer.batches.labels
    assert labels is not None
    assert torch.equal(labels[0], task.train.y)
    changed = (labels[1] != task.train.y).double().mean().item()
    assert changed == pytest.approx(0.5 * 0.9, abs=0.03)  # one in ten draws the label it had


def test_augmentation_shifts_and_flips_by_each_networks_own_numbers() -> None:
    images = torch.arange(2 * 3 * 1 * 4 * 4.0).reshape(2, 3, 1, 4, 4) + 1
    how = ws.Augmentation(crop=1, flip=True)
    moved = augment(images, how, [7, 8], step=3)
    assert torch.equal(moved[1:], augment(images[1:], how, [8], step=3))  # neighbours do not matter
    assert not torch.equal(moved, augment(images, how, [7, 8], step=4))
    for net in range(2):
        for image in range(3):
            padded = F.pad(images[net, image], [1] * 4)
            views = [padded[:, r : r + 4, c : c + 4] for r in range(3) for c in range(3)]
            views += [view.flip(-1) for view in views]
            assert any(torch.equal(moved[net, image], view) for view in views)
    flips = augment(torch.arange(2.0).expand(1, 4000, 1, 1, 2), ws.Augmentation(flip=True), [1], 0)
    assert (flips[0, :, 0, 0, 0] == 1).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(augment(images, ws.Augmentation(crop=0), [1, 2], 0), images)


class FunctionalDropout(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(input, 0.3, self.training))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 10)),
        lambda: FunctionalDropout(nn.Flatten(), nn.Linear(64, 10)),
    ],
)
def test_networks_with_dropout_depend_on_their_own_seed_alone(task: ws.Task, build) -> None:
    dropping = replace(task, architecture=ws.Architecture.of(build))
    with pytest.warns(UserWarning, match="draws random numbers"):
        many, again, one = (ws.collect(dropping, n, seed=1) for n in (3, 3, 1))
    assert torch.equal(many.weights, again.weights)
    torch.testing.assert_close(many.weights[:1], one.weights)


def test_networks_that_do_not_vectorise_train_in_a_loop_and_say_so(task: ws.Task) -> None:
    class Branching(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            out = super().forward(input)
            return out * 2 if out.sum() > 0 else out + out  # control flow on data: vmap cannot

    odd = replace(task, architecture=ws.Architecture.of(lambda: Branching(nn.Flatten(), nn.Linear(64, 10))))
    with pytest.warns(UserWarning, match="does not vectorise"):
        found = ws.collect(odd, 3, seed=1)

    class Plain(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    even = replace(task, architecture=ws.Architecture.of(lambda: Plain(nn.Flatten(), nn.Linear(64, 10))))
    torch.testing.assert_close(found.weights, ws.collect(even, 3, seed=1).weights, rtol=1e-4, atol=1e-5)


def test_tied_weights_train_as_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward = nn.Linear(64, 64, bias=False)
            self.back = nn.Linear(64, 64, bias=False)
            self.back.weight = self.inward.weight
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.back(F.relu(self.inward(x.flatten(1))))))

    task = ws.tasks.digits()
    tied = replace(task, architecture=ws.Architecture.of(Tied), recipe=ws.Recipe(ws.Step(epochs=1)))
    networks = ws.collect(tied, 2, seed=0)
    module = networks.module(1)
    assert module.get_parameter("inward.weight") is module.get_parameter("back.weight")
    expected = torch.stack([n.module()(task.test.x[:5]) for n in networks])
    torch.testing.assert_close(networks.ensemble().logits(task.test.x[:5]), expected.detach())


def test_regression_trains_too() -> None:
    base = ws.tasks.digits(hidden=(8,))

    def brightness(split: ws.Split) -> ws.Split:
        return ws.Split(split.x, 20 * (split.x.mean((1, 2, 3))[:, None] - 0.3))

    task = replace(
        base,
        name="brightness",
        architecture=ws.Architecture("MLP", {"sizes": [64, 8, 1]}),
        loss=F.mse_loss,
        train=brightness(base.train),
        validation=brightness(base.validation),
        test=brightness(base.test),
        recipe=ws.Recipe(ws.Step(epochs=20), optimizer=ws.Adam(1e-2)),
    )
    metrics = [r["metrics"] for r in ws.collect(task, 2).records]
    assert all("validation_accuracy" not in m for m in metrics)
    assert max(m["validation_loss"] for m in metrics) < 0.2 * task.validation.y.var().item()


def test_training_on_keeps_masks_and_moves_the_rest(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    longer = ws.train(tickets, task, "2ep", folder=tmp_path / "on")
    assert torch.equal(longer.masks, tickets.masks)
    assert ((longer.weights != 0) <= longer.masks).all()
    assert (longer.weights[tickets.masks] != tickets.weights[tickets.masks]).float().mean() > 0.9
    losses = [sum(r["metrics"]["validation_loss"] for r in c.records) for c in (tickets, longer)]
    assert losses[1] < losses[0]
    assert longer.records[4]["kind"] == "continued"


def test_the_best_networks_on_validation_data_are_one_call(dense: ws.Collection) -> None:
    best = dense.best(3)
    scores = [r["metrics"]["validation_accuracy"] for r in dense.records]
    assert [r["metrics"]["validation_accuracy"] for r in best.records] == sorted(scores, reverse=True)[:3]
    lowest = dense.best(1, metric="validation_loss", lowest=True)
    assert lowest.records[0]["metrics"]["validation_loss"] == min(
        r["metrics"]["validation_loss"] for r in dense.records
    )
    with pytest.raises(InputError, match="and no 'test_accuracy'"):
        dense.best(1, metric="test_accuracy")
    with pytest.raises(InputError, match="k must be a whole number from 1 to 10, got 11"):
        dense.best(11)


def test_resuming_with_another_memory_budget_goes_on_where_the_files_end(
    task: ws.Task, tmp_path: Path, monkeypatch
) -> None:

    monkeypatch.setattr("weightspace.training.engine._BLOCK", 3)
    run = Trainer.run
    calls = 0

    def stop_in_the_second_block(self: Trainer, until: int, tick=lambda _: None) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        run(self, until, tick)

    choose_execution(task, 3)
    monkeypatch.setattr(Trainer, "run", stop_in_the_second_block)
    with pytest.raises(KeyboardInterrupt):
        ws.collect(task, 8, seed=1, folder=tmp_path / "zoo")
    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr("weightspace.training.engine._BLOCK", 64)
    networks = ws.collect(task, 8, seed=1, folder=tmp_path / "zoo")
    assert [r["index"] for r in networks.records] == list(range(8))


def test_a_checkpoint_inside_a_block_gives_the_same_bytes(task: ws.Task, tmp_path: Path, monkeypatch) -> None:
    from weightspace.training import trainer

    monkeypatch.setattr(trainer, "_CHECKPOINT_SECONDS", 0.0)  # after every epoch
    whole = ws.collect(task, 4, seed=6, folder=tmp_path / "whole")
    save = Trainer.save

    def save_then_stop(self: Trainer, path: Path) -> None:
        save(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        ws.collect(task, 4, seed=6, folder=tmp_path / "broken")
    assert list((tmp_path / "broken").glob("*.checkpoint.safetensors"))
    monkeypatch.setattr(Trainer, "save", save)
    started: list[int] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, u, t=lambda _: None: started.append(self.step) or run(self, u, t))
    resumed = ws.collect(task, 4, seed=6, folder=tmp_path / "broken")
    assert started[-1] == 20  # not from the beginning
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.records == whole.records
    assert not list((tmp_path / "broken").glob("*.checkpoint.safetensors"))


def test_shards_of_a_collection_merge_into_the_whole(task: ws.Task, tmp_path: Path) -> None:
    folders = [tmp_path / f"part{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        ws.collect(task, 7, seed=4, shard=(i, 3), folder=folder)
    merged = ws.merge(folders, tmp_path / "all")
    whole = ws.collect(task, 7, seed=4)
    assert [r["index"] for r in merged.records] == list(range(7))
    torch.testing.assert_close(merged.weights, whole.weights, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="shard 3 of 3"):
        ws.collect(task, 7, shard=(3, 3))
    with pytest.raises(StorageError, match="not empty"):
        ws.merge(folders, tmp_path / "all")


def test_runs_that_differ_in_loss_network_or_seeds_are_told_apart(task: ws.Task, tmp_path: Path) -> None:
    ws.collect(task, 2, folder=tmp_path / "a")
    with pytest.raises(StorageError, match="untrained_loss"):
        ws.collect(replace(task, loss=lambda o, y: 2 * F.cross_entropy(o, y)), 2, folder=tmp_path / "a")

    def with_activation(f: type[nn.Module]) -> ws.Task:
        def build() -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), f(), nn.Linear(6, 10))

        return replace(task, architecture=ws.Architecture.of(build))

    relu, tanh = with_activation(nn.ReLU), with_activation(nn.Tanh)
    ws.collect(relu, 2, folder=tmp_path / "b")
    with pytest.raises(StorageError, match="untrained_loss"):
        ws.collect(tanh, 2, folder=tmp_path / "b")
    networks = ws.collect(task, 2)
    other = networks.replace(records=[r | {"seed": 9} for r in networks.records])
    assert networks.fingerprint() != other.fingerprint()


def test_networks_that_do_not_fit_their_data_are_refused_before_work(task: ws.Task, tmp_path: Path) -> None:
    wrong = replace(task, architecture=ws.Architecture("MLP", {"sizes": [63, 10]}))
    with pytest.raises(InputError, match="MLP does not fit the data of task 'digits'"):
        ws.collect(wrong, 2, folder=tmp_path / "zoo")
    few = replace(task, architecture=ws.Architecture("MLP", {"sizes": [64, 3]}))
    with pytest.raises(InputError, match="does not fit the data"):
        ws.collect(few, 2, folder=tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_the_measured_choice_is_kept(task: ws.Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = choose_execution(task, 6)
    assert choose_execution(task, 6) == first
    (file,) = (tmp_path / "weightspace").glob("*.json")
    file.write_text("damaged")
    assert choose_execution(task, 6).group_size in (1, 4, 6)
    small = choose_execution(task, 6, memory_gb=1e-9)
    assert small.group_size == 1  # the budget holds one network
    run = tmp_path / "run"
    run.mkdir()
    (run / "engine.json").write_text('{"group": 5, "threads": 1, "seconds": 0.0}')
    assert choose_execution(task, 6, folder=run).group_size == 5


def test_our_cross_entropy_is_torchs() -> None:
    logits = (torch.randn(50, 7, dtype=torch.float64) * 30).requires_grad_()
    y = torch.randint(0, 7, (50,))
    ours, theirs = cross_entropy(logits, y), F.cross_entropy(logits, y)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0])


def test_bad_kinds_are_refused(task: ws.Task) -> None:
    with pytest.raises(InputError, match="needs values"):
        ws.Grid()
    with pytest.raises(InputError, match="above 0"):
        ws.Grid(lr=(0.0,))
    with pytest.raises(InputError, match="label_noise"):
        ws.Grid(label_noise=(1.5,))
    with pytest.raises(InputError, match="before the end of training"):
        ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step(epochs=9)))
    with pytest.raises(InputError, match="at least one iteration"):
        ws.collect(task, 2, plan=ws.Trajectory(every=ws.Step()))
    with pytest.raises(InputError, match="milestones"):
        ws.Schedule("step")
    with pytest.raises(InputError, match="at least one iteration"):
        ws.Recipe(length=ws.Step())


def test_a_diverged_network_is_named_and_the_folder_stays_free(task: ws.Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training diverged.*number 1 of its block.*1e\+30"):
        ws.collect(task, 1, plan=ws.Grid(lr=(0.1, 1e30)), folder=tmp_path / "zoo")
    assert len(ws.collect(task, 1, plan=ws.Grid(lr=(0.1, 0.2)), folder=tmp_path / "zoo")) == 2


class Odd(nn.Module):
    """A frozen layer, and a layer that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 8).requires_grad_(False)
        self.used = nn.Linear(8, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(F.relu(self.frozen(x.flatten(1))))


@pytest.mark.parametrize("group", [1, 3])
def test_frozen_and_unused_parameters_stay(task: ws.Task, group: int) -> None:
    odd = replace(task, architecture=ws.Architecture.of(Odd), recipe=replace(task.recipe, optimizer=ws.SGD(0.1)))
    start = initial(odd.architecture, records(3))
    trainer = trainer_for(start, odd, execution=Execution(group, 1, 0.0))
    trainer.run(20)
    before, after = start.layout.unpack(start.weights), start.layout.unpack(trainer.weights)
    for name in before:
        assert torch.equal(before[name], after[name]) != name.startswith("used")


def test_training_on_keeps_the_wrong_labels(task: ws.Task) -> None:
    noisy = ws.collect(task, 2, plan=ws.Grid(label_noise=(0.5,)))
    seen: list[torch.Tensor] = []
    for networks in (noisy, ws.train(noisy, task, "1ep")):
        labels = trainer_for(networks, task).batches.labels
        assert labels is not None
        seen.append(labels)
    assert torch.equal(seen[0], seen[1])


def test_a_single_sample_left_over_joins_the_last_batch() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    recipe = ws.Recipe(ws.Step(epochs=2), batch_size=8)
    assert [recipe.per_epoch(n) for n in (1, 8, 9, 10, 16, 17)] == [1, 1, 1, 2, 2, 2]
    task = ws.tasks.from_tensors("t", torch.randn(47, 3), torch.arange(47) % 2, build, recipe=recipe)
    assert len(task.train) == 33
    networks = ws.collect(task, 2)
    assert networks.buffers["1.num_batches_tracked"].tolist() == [8, 8]


def test_a_damaged_checkpoint_is_named(task: ws.Task, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"cut")
    with pytest.raises(StorageError, match=r"checkpoint .*c\.safetensors is damaged.*delete it"):
        trainer_for(initial(task.architecture, records(1)), task).resume(tmp_path / "c.safetensors")


def test_merging_the_same_part_twice_is_refused(task: ws.Task, tmp_path: Path) -> None:
    ws.collect(task, 4, shard=(0, 2), folder=tmp_path / "a")
    with pytest.raises(InputError, match="given twice"):
        ws.merge([tmp_path / "a", tmp_path / "a"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_settings_that_act_in_training_alone_tell_runs_apart(task: ws.Task, tmp_path: Path) -> None:
    def with_dropout(p: float) -> ws.Task:
        def build() -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(64, 10))

        return replace(task, architecture=ws.Architecture.of(build))

    with pytest.warns(UserWarning, match="draws random numbers"):
        ws.collect(with_dropout(0.1), 2, folder=tmp_path / "zoo")
    with pytest.raises(StorageError, match=r"task\.network"):
        ws.collect(with_dropout(0.9), 2, folder=tmp_path / "zoo")
    ws.collect(with_dropout(0.1), 1)  # a single network is no slower for it, and nothing is said


def test_data_that_cannot_be_learned_from_are_refused() -> None:
    network = ws.Architecture("MLP", {"sizes": [3, 2]})
    y = torch.arange(100) % 2
    with pytest.raises(InputError, match="as many inputs as targets"):
        ws.tasks.from_tensors("t", torch.randn(90, 3), y, network)
    with pytest.raises(InputError, match="targets hold NaN"):
        ws.tasks.from_tensors("t", torch.randn(100, 3), torch.full((100, 1), torch.nan), network)
    y[60] = 7
    with pytest.raises(InputError, match=r"2 outputs.*classes run from 0 to 7"):
        ws.collect(ws.tasks.from_tensors("t", torch.randn(100, 3), y, network), 1)
    flat = ws.tasks.from_tensors(
        "t",
        torch.randn(100, 3),
        torch.arange(100) % 2,
        network,
        recipe=ws.Recipe(augmentation=ws.Augmentation(flip=True)),
    )
    with pytest.raises(InputError, match="augmentation needs images"):
        ws.collect(flat, 1)

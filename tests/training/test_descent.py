"""Clipped gradients and parameters without decay: as PyTorch does it with one network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.descent import clip_, decaying
from weightspace.training.engine import Execution
from weightspace.training.plans import Independent
from weightspace.training.trainer import Trainer

STEPS = 4
NO_DECAY = ("biases", "norms", "*embed*")


class Net(nn.Module):
    """A layer of each role."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.relu(self.embed(x))))


def task(**settings: object) -> ws.Task:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    recipe = replace(ws.Recipe(f"{STEPS}it", batch_size=8, optimizer=ws.SGD(lr=0.5, momentum=0.9)), **settings)
    return ws.tasks.from_tensors("net", x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), Net, recipe=recipe)


def trainer(of: ws.Task, group_size: int = 3) -> Trainer:
    execution = Execution(group_size, 1, 0.0)
    return trainer_for(initial(of.architecture, Independent().runs(3, 0)), of, execution=execution)


def by_pytorch(of: ws.Task, row: int, keep: torch.Tensor | None = None) -> torch.Tensor:
    """The same training of one network with torch.optim and clip_grad_norm_."""
    start = trainer(of)
    module = of.architecture.build_seeded(0)
    module.load_state_dict(start.layout.unpack(start.weights[row]))
    plain = [p for n, p in module.named_parameters() if "bias" in n or "norm" in n or "embed" in n]
    rest = [p for p in module.parameters() if not any(p is other for other in plain)]
    settings = of.recipe.optimizer
    if isinstance(settings, ws.Adam):
        kind = torch.optim.AdamW if settings.decoupled else torch.optim.Adam
        groups = [{"params": rest, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = kind(groups, lr=settings.lr)
    else:
        optimizer = torch.optim.SGD(module.parameters(), lr=settings.lr, momentum=settings.momentum)
    for step in range(STEPS):
        x, y = start.batches.batch(slice(row, row + 1), step)
        optimizer.zero_grad()
        of.loss(module(x[0]), y[0]).backward()
        if of.recipe.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), of.recipe.max_gradient_norm)
        optimizer.step()
    return start.layout.pack(module.state_dict())


@pytest.mark.parametrize("group_size", [1, 3])
def test_clipping_is_that_of_each_network_alone(group_size: int) -> None:
    clipped, free = task(max_gradient_norm=0.1), task()
    found = trainer(clipped, group_size=group_size)
    found.run(STEPS)
    for row in range(3):
        torch.testing.assert_close(found.weights[row], by_pytorch(clipped, row), rtol=1e-4, atol=1e-6)
    other = trainer(free)
    other.run(STEPS)
    assert (other.weights - found.weights).abs().max() > 0.01
    torch.testing.assert_close(other.weights[0], by_pytorch(free, 0), rtol=1e-4, atol=1e-6)


def test_only_trained_entries_count() -> None:
    gradient, trained = torch.tensor([[3.0, 4.0, 100.0]]), torch.tensor([[True, True, False]])
    clip_(gradient, 1.0, trained)
    torch.testing.assert_close(gradient[:, :2], torch.tensor([[0.6, 0.8]]))
    small = torch.tensor([[0.3, 0.4], [30.0, 40.0]])
    clip_(small, 1.0)
    torch.testing.assert_close(small, torch.tensor([[0.3, 0.4], [0.6, 0.8]]))


def test_held_entries_do_not_count_when_gradients_are_clipped() -> None:
    of = task(max_gradient_norm=0.05, length=ws.Step.of("1it"), optimizer=ws.SGD(lr=1.0, momentum=0.0))
    held = trainer(of)
    places = torch.zeros_like(held.weights, dtype=torch.bool)
    places[:, held.layout.slices["head.weight"]] = True
    held.hold(places)
    before = held.weights.clone()
    held.run(1)
    moved = (held.weights - before).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((3,), 0.05), rtol=1e-3, atol=0)
    free = trainer(of)
    free.run(1)
    assert ((free.weights - before)[~places].norm() < (held.weights - before).norm()).item()


@pytest.mark.parametrize("decoupled", [True, False])
def test_two_groups_of_parameters_are_those_of_pytorch(decoupled: bool) -> None:
    adam = ws.Adam(lr=0.01, weight_decay=0.5, decoupled=decoupled)
    grouped, plain = task(optimizer=adam, no_decay=NO_DECAY), task(optimizer=adam)
    found, all_decay = trainer(grouped), trainer(plain)
    found.run(STEPS)
    all_decay.run(STEPS)
    for row in range(3):
        torch.testing.assert_close(found.weights[row], by_pytorch(grouped, row), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(all_decay.weights, found.weights, atol=1e-4)
    by_hand = trainer(grouped)
    while by_hand.step < STEPS:
        by_hand.update(by_hand.gradients())
    torch.testing.assert_close(by_hand.weights, found.weights)


def test_what_does_not_decay_is_named() -> None:
    layout = ws.Layout.of(Net())
    decays = decaying(layout, NO_DECAY)
    assert decays is not None
    assert decays.sum() == layout.slices["head.weight"].stop - layout.slices["head.weight"].start
    assert decaying(layout, ()) is None
    with pytest.raises(
        InputError, match=r"no tensor is called 'embedding\.\*': give a name or a glob of these, say: embed"
    ):
        trainer(task(no_decay=("embedding.*",)))

"""Batches by length: every sample once, less padding, the same networks side by side and alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightspace as ws
from weightspace.errors import InputError
from weightspace.tasks import Classes
from weightspace.training.batches import order_by_length
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.plans import Independent

POSITIONS = 12


class Bag(nn.Module):
    """Classes of sentences: the mean over tokens that are no padding, or over all."""

    def __init__(self, masked: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(9, 5), nn.Dropout(dropout), nn.Linear(5, 2)
        self.masked = masked

    def forward(self, ids: Tensor) -> Tensor:
        kept = (ids != 0).float()[..., None] if self.masked else torch.ones_like(ids)[..., None].float()
        return self.head((self.drop(self.embed(ids)) * kept).sum(-2) / kept.sum(-2))


class Tagger(nn.Module):
    """A class for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

    def forward(self, attention_mask: Tensor, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def ids(samples: int = 41) -> Tensor:
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, POSITIONS + 1, (samples, 1), generator=random)
    tokens = torch.randint(1, 9, (samples, POSITIONS), generator=random)
    return tokens.masked_fill(torch.arange(POSITIONS) >= lengths, 0)


RECIPE = ws.Recipe("2ep", batch_size=4, optimizer=ws.SGD(lr=0.5), batches=ws.ByLength(pool=3))


def task(x: Tensor, network=Bag, recipe: ws.Recipe = RECIPE) -> ws.Task:
    return ws.tasks.from_tensors("bag", x, x[:, 0] % 2, network, recipe=recipe)


def start(of: ws.Task, n: int = 3) -> ws.Collection:
    return initial(of.architecture, Independent().runs(n, 0))


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 24, 25, 26, 41])
def test_every_sample_is_in_an_epoch_once_and_batches_have_similar_lengths(samples: int) -> None:
    lengths = torch.randint(1, 100, (samples,), generator=torch.Generator().manual_seed(0))
    recipe = ws.Recipe(batch_size=4)
    batches = recipe.per_epoch(samples)
    order, other = (order_by_length(lengths, 4, batches, 6, torch.Generator().manual_seed(seed)) for seed in range(2))
    assert torch.equal(order.sort().values, torch.arange(samples))
    if samples > 20:
        assert not torch.equal(order, other)
        padded = lengths[order[: 4 * (batches - 1)]].view(-1, 4).amax(1).sum()
        mixed = lengths[: 4 * (batches - 1)].view(-1, 4).amax(1).sum()
        assert padded < 0.8 * mixed


def test_padding_is_cut_and_the_networks_are_those_of_whole_samples() -> None:
    of = task(ids())
    trainer = trainer_for(start(of), of)
    x, y = trainer.batches.batch(slice(0, 1), 0)
    assert x.shape[:2] == (1, 4)
    assert y.shape == (1, 4)
    assert int((x[0] != 0).sum(1).max()) == x.shape[2]
    widths = {trainer.batches.batch(slice(0, 1), step)[0].shape[2] for step in range(trainer.per_epoch)}
    assert min(widths) < POSITIONS
    trainer.run(trainer.length)
    for row in range(3):  # alone, batches are cut to their own longest
        alone = trainer_for(start(of)[row : row + 1], of)
        alone.run(alone.length)
        torch.testing.assert_close(alone.weights[0], trainer.weights[row], rtol=1e-4, atol=1e-6)
    module = of.architecture.build_seeded(0)
    module.load_state_dict(trainer.layout.unpack(start(of).weights[0]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    for step in range(trainer.length):
        rows = trainer.batches.batch(slice(0, 1), step)[0][0]
        optimizer.zero_grad()
        F.cross_entropy(module(F.pad(rows, (0, POSITIONS - rows.shape[1]))), rows[:, 0] % 2).backward()
        optimizer.step()
    torch.testing.assert_close(trainer.layout.pack(module.state_dict()), trainer.weights[0], rtol=1e-4, atol=1e-6)


def test_dropout_is_the_same_side_by_side_and_alone() -> None:
    of = task(ids(), lambda: Bag(dropout=0.5))
    together = trainer_for(start(of), of)
    together.run(6)
    alone = trainer_for(start(of)[1:2], of)
    alone.run(6)
    assert torch.equal(alone.weights[0], together.weights[1])


def test_targets_of_positions_are_cut_with_them() -> None:
    x = ids()
    tags = (x % 3).masked_fill(x == 0, -100)
    inputs = {"attention_mask": (x != 0).long(), "ids": x}

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=-100)

    of = ws.tasks.from_tensors("tags", inputs, tags, Tagger, recipe=RECIPE, loss=loss, outputs=Classes())
    batches = trainer_for(start(of), of).batches
    got, y = min((batches.batch(slice(0, 1), step) for step in range(5)), key=lambda batch: batch[1].numel())
    assert got["ids"].shape == got["attention_mask"].shape == y.shape
    assert y.shape[2] < POSITIONS
    assert torch.equal(y == -100, got["ids"] == 0)
    plain = replace(of, loss=lambda logits, y: F.cross_entropy(logits.flatten(0, -2), y.flatten().clamp(min=0)))
    with pytest.raises(InputError, match=r"padding.*takes into account"):
        trainer_for(start(plain), plain)


def test_what_cannot_be_cut_is_refused() -> None:
    seen = task(ids(), lambda: Bag(masked=False))
    with pytest.raises(InputError, match=r"takes into account.*Mask the padding"):
        trainer_for(start(seen), seen)
    full = task(ids().clamp(min=1))
    with pytest.raises(InputError, match="no sample ends with token 0"):
        trainer_for(start(full), full)
    x = torch.randn(20, 4)
    values = ws.tasks.from_tensors("values", x, (x[:, 0] > 0).long(), lambda: nn.Linear(4, 2), recipe=RECIPE)
    with pytest.raises(InputError, match="batches by length need token ids"):
        trainer_for(start(values), values)
    own = ws.tasks.from_own_data(
        "own", ids(10), torch.rand(3, 10, 2), Bag, recipe=RECIPE, loss=F.mse_loss, outputs=ws.tasks.Regression()
    )
    with pytest.raises(InputError, match="each has its own"):
        trainer_for(start(own), own)

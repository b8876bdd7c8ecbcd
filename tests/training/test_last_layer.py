from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.outputs import LossOnly

LAST = ("5.weight", "5.bias")


def loss_of(networks: ws.Collection, data: ws.Split) -> Tensor:
    p = networks.ensemble().member_proba(data.x)
    return -p[:, torch.arange(len(data)), data.y].log().mean(1)


def parts(networks: ws.Collection) -> tuple[Tensor, Tensor]:
    """The last layer of each network, and the rest."""
    last = torch.cat([torch.arange(networks.layout.size)[networks.layout.slices[name]] for name in LAST])
    rest = torch.ones(networks.layout.size, dtype=torch.bool).index_fill(0, last, False)
    return networks.weights[:, last], networks.weights[:, rest]


def test_the_last_layer_alone_changes_and_under_its_mask(tickets: ws.Collection, task: ws.Task) -> None:
    assert set(LAST) <= set(tickets.layout.slices)
    refitted = ws.LastLayer(samples=300).refit(tickets, task)
    assert torch.equal(refitted.masks, tickets.masks)
    assert torch.equal(refitted.weights != 0, tickets.weights != 0)  # exact counts
    assert torch.equal(parts(refitted)[1], parts(tickets)[1])
    assert not torch.equal(parts(refitted)[0], parts(tickets)[0])
    assert (loss_of(refitted, task.train) < loss_of(tickets, task.train)).all()
    again = ws.LastLayer(samples=300).refit(tickets, task)
    assert torch.equal(again.weights, refitted.weights)
    other = ws.LastLayer(samples=200).refit(tickets, task)  # other samples, another layer
    assert not torch.equal(other.weights, refitted.weights)


def test_records_say_what_was_done(tickets: ws.Collection, task: ws.Task) -> None:
    record = ws.LastLayer(samples=300, ridge=0.1).refit(tickets[:2], task).records[1]
    assert record.kind == "refitted"
    assert record["last_layer"] == {"samples": 300, "ridge": 0.1}
    assert record.parent == tickets.records[1].index
    network = ws.LastLayer(samples=300, ridge=0.1).refit(tickets[1:2], task)  # alone, the same
    accuracy = (network.ensemble().predict(task.validation.x) == task.validation.y).double().mean()
    assert record.metrics["validation_accuracy"] == pytest.approx(accuracy.item())


def test_it_reads_training_data_alone(tickets: ws.Collection, task: ws.Task) -> None:
    def poisoned(split: ws.Split) -> ws.Split:
        return ws.Split(torch.full_like(split.x, 3.0), split.y.roll(1))

    few = tickets[:2]
    weights = ws.LastLayer(samples=200).refit(few, task).weights
    blind = replace(task, test=poisoned(task.test), validation=poisoned(task.validation))
    assert torch.equal(ws.LastLayer(samples=200).refit(few, blind).weights, weights)
    other = replace(task, train=ws.Split(task.train.x, task.train.y.roll(1)))  # the control
    assert not torch.equal(ws.LastLayer(samples=200).refit(few, other).weights, weights)


def regression(build: Callable[[], nn.Module], outputs: int) -> ws.Task:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=random)
    y = torch.sin(x @ torch.randn(4, outputs, generator=random))
    return ws.tasks.from_tensors(
        "waves",
        x,
        y,
        build,
        recipe=ws.Recipe("2it", batch_size=8),
        validation=0.1,
        test=0.2,
        loss=nn.functional.mse_loss,
    )


def test_values_are_fitted_by_ridge_regression() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

    task = regression(build, 2)
    networks = ws.collect(task, 2)
    refitted = ws.LastLayer(ridge=0.05).refit(networks, task)
    for before, after in zip(networks, refitted, strict=True):
        module = before.module()
        with torch.no_grad():
            hidden = torch.cat([module[1](module[0](task.train.x)), torch.ones(len(task.train), 1)], 1).double().numpy()
            left = task.train.y.numpy() - module(task.train.x).numpy()  # the pull is towards the layer as it was
        change = Ridge(alpha=0.05 * (hidden**2).mean() * len(hidden), fit_intercept=False).fit(hidden, left).coef_
        moved = (after.module()[2].weight - module[2].weight).detach().numpy()
        np.testing.assert_allclose(moved, change[:, :-1], atol=1e-5)


class Positions(nn.Module):
    """Classes at each position, on the axis after the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x))).movedim(-1, 1)


class YesOrNo(nn.Module):
    """One logit without a bias, after BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x)))).squeeze(-1)


class Read(torch.utils.data.Dataset):
    """Samples that are read one by one."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i], self.y[i]


@pytest.mark.parametrize("kind", ["positions", "yes or no", "dataset"])
def test_any_outputs_of_a_linear_layer_are_refitted(kind: str) -> None:
    random = torch.Generator().manual_seed(0)
    recipe, bce = ws.Recipe("1it", batch_size=8), nn.functional.binary_cross_entropy_with_logits
    x = torch.randn(60, 3, generator=random)
    y = (x.sum(1) > 0).float()
    if kind == "positions":
        words = torch.randint(0, 7, (30, 5), generator=random)
        loss = nn.functional.cross_entropy
        task = ws.tasks.from_tensors("next", words, (words + 1) % 7, Positions, loss=loss, recipe=recipe)
    elif kind == "yes or no":
        task = ws.tasks.from_tensors("signs", x, y, YesOrNo, loss=bce, recipe=recipe)
    else:
        task = ws.tasks.from_dataset("read", Read(x, y), YesOrNo, loss=bce, recipe=recipe)
    networks = ws.collect(task, 1)
    refitted = ws.LastLayer().refit(networks, task)
    changed = {
        name for name, at in networks.layout.slices.items() if (networks.weights != refitted.weights)[0, at].any()
    }
    assert changed == ({"last.weight", "last.bias"} if kind == "positions" else {"last.weight"})
    data = task.train.head(len(task.train))
    with torch.no_grad():
        before, after = (task.loss(one[0].module().eval()(data.x), data.y) for one in (networks, refitted))
    assert after < before


def test_what_has_no_last_layer_is_refused(tickets: ws.Collection, task: ws.Task) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x)))

    for build, words in (
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "not the outputs of its last linear layer"),
        (Tied, "used elsewhere"),
    ):
        other = regression(build, 4)
        with pytest.raises(InputError, match=words):
            ws.LastLayer().refit(ws.collect(other, 1), other)
    unknown = replace(task, outputs=LossOnly())
    with pytest.raises(InputError, match="only their loss"):
        ws.LastLayer().refit(tickets, unknown)
    for wrong in ({"samples": 0}, {"ridge": 0.0}):
        with pytest.raises(InputError):
            ws.LastLayer(**wrong)
    with pytest.raises(InputError, match="no seed"):
        ws.LastLayer().refit(tickets.replace(records=[{}] * len(tickets)), task)

"""Which weights a search prunes: what it says, what it refuses, and what collections of earlier versions go by."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import weightspace as ws
from weightspace.errors import InputError
from weightspace.tickets import GradualPruning

# PyTorch says so of its weight_norm, which it computes for one network after another.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3]).argmax(1)
RECIPE = ws.Recipe(ws.Step.of("8it"), batch_size=16, optimizer=ws.Adam(lr=1e-2))
FINDER = GradualPruning(density=0.1, length=ws.Step.of("8it"), every=2)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 16) * 0.3)
        self.shift = nn.Parameter(torch.zeros(2, 8))
        self.out = parametrizations.weight_norm(nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x @ self.matrix + self.shift.flatten()).relu())


def of(network: object) -> ws.Task:
    return ws.tasks.from_tensors("own", X, Y, network, recipe=RECIPE)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def task() -> ws.Task:
    return of(Own)


@pytest.fixture(scope="module")
def zoo(task: ws.Task) -> ws.Collection:
    return ws.collect(task, 2, seed=0)


def test_a_task_knows_weights_by_their_use_and_a_search_says_what_stays(zoo: ws.Collection, task: ws.Task) -> None:
    assert [e.name for e in zoo.layout.weights] == ["matrix", "out.parametrizations.weight.original1"]
    with pytest.warns(UserWarning, match=r"shift \(9\.6%\)"):
        found = FINDER.find(zoo, task)
    assert found.masks[:, found.layout.prunable].sum(1).tolist() == [round(0.1 * 144)] * 2
    assert found.layout == zoo.layout
    rows = found.layout.tensors(found.masks)["out.parametrizations.weight.original1"]
    assert not rows.any(-1).all()  # rows without a weight, which PyTorch's weight_norm makes NaN of
    assert found.ensemble().predict(X).isfinite().all()


def test_a_collection_keeps_what_was_prunable_when_it_was_written(
    zoo: ws.Collection, task: ws.Task, tmp_path: Path
) -> None:
    old = zoo.layout.with_prunable(["matrix"])  # as version 0.1 knew no weight_norm
    folder = zoo.replace(layout=old).save(tmp_path / "old")
    loaded = ws.Collection.load(folder, factory=Own)
    assert loaded.layout == old == ws.Layout.of(loaded[0].module())
    differs = pytest.warns(UserWarning, match=r"tensors may be pruned \(out\.parametrizations\.weight\.original1\)")
    stays = pytest.warns(UserWarning, match=r"not pruned.*out\.parametrizations\.weight\.original1 \(28\.9%\)")
    with differs, stays:
        found = FINDER.find(loaded, task, folder=tmp_path / "tickets")
    assert found.layout == old == ws.Collection.load(tmp_path / "tickets", factory=Own).layout
    assert found.masks[:, old.prunable].sum(1).tolist() == [round(0.1 * 96)] * 2
    with pytest.warns(UserWarning, match="may be"), pytest.warns(UserWarning, match="not pruned"):
        again = FINDER.find(loaded, task, folder=tmp_path / "tickets")
    assert torch.equal(again.weights, found.weights)
    with pytest.warns(UserWarning, match="may be pruned"):
        trained = ws.train(found, task, ws.Step.of("2it"))
    assert trained.layout == old
    assert torch.equal(trained.masks, found.masks)
    # And a user who wants today's weights says so.
    new = loaded.replace(layout=task.architecture.layout())
    assert new.layout == zoo.layout
    with pytest.raises(InputError, match="masks remove"):
        found.replace(layout=old.with_prunable(["shift"]))


def test_a_network_without_prunable_weights_is_refused_before_training() -> None:
    task = of(ws.Architecture.of(Own, prunable=[]))
    with pytest.warns(UserWarning, match="no finder takes them"):
        zoo = ws.collect(task, 1, seed=0)
    assert zoo.densities.tolist() == [1.0] == [zoo[0].density]
    with pytest.raises(InputError, match=r"none of the network's parameters can be pruned.*matrix"):
        FINDER.find(zoo, task)

"""Splits in memory, from datasets and of each network's own data give the same samples."""

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import weightspace as ws
from weightspace.runtime import trees
from weightspace.tasks.data import Data, DatasetSplit, OwnData

X = {"ids": torch.arange(40).reshape(20, 2), "scale": torch.randn(20)}
Y = (torch.randint(3, (20,)), torch.randn(20, 2))


class Pairs(Dataset):
    """Items as a user's dataset has them."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> tuple[object, object]:
        return {"ids": X["ids"][i].numpy(), "scale": X["scale"][i].item()}, (int(Y[0][i]), Y[1][i])


def same(one: object, other: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(trees.tensors(one), trees.tensors(other), strict=True))


@pytest.fixture(params=["memory", "dataset"])
def data(request: pytest.FixtureRequest) -> Data:
    return ws.Split(X, Y) if request.param == "memory" else DatasetSplit(Pairs())


def test_every_reading_gives_the_same_samples(data: Data) -> None:
    assert isinstance(data, Data)
    assert len(data) == 20
    assert same(data.x, X)
    assert same(data.y, Y)
    assert same(data.head(3).x, trees.take(X, slice(0, 3)))
    rows = torch.tensor([5, 0, 19])
    assert same(data.batch(rows).y, trees.take(Y, rows))
    assert not same(data.batch(rows).y, data.head(3).y)
    index = torch.tensor([[3, 3, 1], [19, 0, 3]])
    x, y = data.batches(index.int(), [None, None])
    assert same(x, trees.take(X, index))
    assert same(y, trees.take(Y, index))
    assert same(data.of(4).head(2).x, data.head(2).x)
    assert same(data.to("cpu").head(2).x, data.head(2).x)
    assert same(pickle.loads(pickle.dumps(data)).y, Y)


def test_checksums_agree_and_see_a_changed_value() -> None:
    def digest(data: Data) -> str:
        made = hashlib.sha256()
        data.update(made)
        return made.hexdigest()

    changed = {**X, "scale": X["scale"].clone()}
    changed["scale"][7] += 1
    assert digest(ws.Split(X, Y)) == digest(DatasetSplit(Pairs()))
    assert digest(ws.Split(X, Y)) != digest(ws.Split(changed, Y))
    half = torch.ones(3, 2).bfloat16()
    assert digest(ws.Split(half, half)) != digest(ws.Split(half + 1, half))


def test_memory_mapped_arrays_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.randn(50, 4).numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = torch.randint(2, (50,))
    recipe = ws.Recipe(ws.Step(iterations=2), batch_size=8)
    task = ws.tasks.from_tensors("mapped", mapped, y, lambda: torch.nn.Linear(4, 2), recipe=recipe)
    assert isinstance(task.train, DatasetSplit)
    loaded = ws.tasks.from_tensors("mapped", torch.tensor(mapped), y, lambda: torch.nn.Linear(4, 2), recipe=recipe)
    assert isinstance(loaded.train, ws.Split)
    one, other = (ws.collect(each, 2, seed=3) for each in (task, loaded))
    assert torch.equal(one.weights, other.weights)
    assert one.records[1].metrics == pytest.approx(dict(other.records[1].metrics))


def test_own_data_give_each_network_its_set() -> None:
    x, y = torch.randn(6, 2), torch.randn(3, 6, 1)
    shared, own = OwnData(x, y), OwnData(torch.stack([x, x + 1, x + 2]), y, shared_inputs=False)
    index = torch.tensor([[0, 1], [5, 5]])
    for data, inputs in ((shared, [x, x]), (own, [x + 2, x])):
        assert (data.sets, len(data)) == (3, 6)
        got, targets = data.batches(index, [2, 0])
        assert torch.equal(targets, torch.stack([y[2][index[0]], y[0][index[1]]]))
        assert torch.equal(got, torch.stack([inputs[0][index[0]], inputs[1][index[1]]]))
        assert torch.equal(data.of(2).y, y[2])
        assert torch.equal(data.of(2).x, inputs[0])
        with pytest.raises(ws.InputError, match="0 to 2, and none for network 3"):
            data.of(3)
        with pytest.raises(ws.InputError, match="none for network None"):
            data.batches(index, [0, None])
        with pytest.raises(ws.InputError, match="data of its own"):
            data.batch(slice(0, 2))


def test_bad_data_are_refused() -> None:
    nan = torch.ones(4, 2)
    nan[3, 1] = torch.nan
    with pytest.raises(ws.InputError, match="inputs 'b' hold NaN"):
        ws.Split({"a": torch.ones(4), "b": nan}, torch.ones(4))
    with pytest.raises(ws.InputError, match="as many inputs as targets, got 4 and 3"):
        ws.Split(torch.ones(4), torch.ones(3))
    with pytest.raises(ws.InputError, match="one row for each sample"):
        ws.Split((torch.ones(4), torch.ones(3)), torch.ones(4))
    with pytest.raises(ws.InputError, match="hold tensors|holds tensors"):
        ws.Split([1.0, 2.0], torch.ones(2))
    for x, y in ((torch.ones(5, 2), torch.ones(3, 6, 1)), (torch.ones(6, 2), torch.ones(6))):
        with pytest.raises(ws.InputError, match="own data need inputs"):
            OwnData(x, y)


def test_bad_datasets_are_refused() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
            return (self.tensors[0][i] + torch.randn(2), self.tensors[1][i])

    class Growing(Pairs):
        def __getitem__(self, i: int) -> tuple[object, object]:
            return torch.ones(1 + i), i

    class Endless(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    x, y = torch.ones(5, 2), torch.ones(5)
    assert len(DatasetSplit(TensorDataset(x, y))) == 5
    with pytest.raises(ws.InputError, match="gives two results"):
        DatasetSplit(Noisy(x, y))
    with pytest.raises(ws.InputError, match="pair"):
        DatasetSplit(TensorDataset(x, y, y))
    with pytest.raises(ws.InputError, match="length"):
        DatasetSplit(Endless())
    with pytest.raises(ws.InputError, match="no samples"):
        DatasetSplit(TensorDataset(x[:0], y[:0]))
    with pytest.raises(ws.InputError, match="cannot be stacked"):
        DatasetSplit(Growing()).head(3)


def test_a_split_prints_its_shapes_and_no_values() -> None:
    assert repr(ws.Split(X, Y)) == "Split(20 samples: x ids (20, 2), scale (20,), y 0 (20,), 1 (20, 2))"

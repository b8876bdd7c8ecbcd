import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.tasks.task import split


def test_splits_are_fixed_disjoint_and_complete() -> None:
    a, b = ws.tasks.digits(), ws.tasks.digits(hidden=(4,))
    assert [len(s) for s in (a.train, a.validation, a.test)] == [1257, 180, 360]
    assert all(torch.equal(p.x, q.x) for p, q in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)))
    assert a.train.x.shape == (1257, 1, 8, 8)
    assert (a.train.x.min(), a.train.x.max()) == (0, 1)
    x = torch.arange(100.0)[:, None]
    parts = split(x, torch.zeros(100), validation=20, test=30)
    assert sorted(torch.cat([p.x for p in parts]).flatten().tolist()) == list(range(100))


def test_bad_splits_are_refused() -> None:
    with pytest.raises(InputError, match="leave some to train on"):
        split(torch.zeros(10, 1), torch.zeros(10), validation=5, test=5)
    with pytest.raises(InputError, match="as many inputs as targets"):
        ws.Split(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(InputError, match="NaN"):
        ws.Split(torch.full((3, 1), torch.nan), torch.zeros(3))


def write_idx(path: Path, data: torch.Tensor) -> None:
    header = bytes([0, 0, 8, data.ndim]) + b"".join(n.to_bytes(4, "big") for n in data.shape)
    path.write_bytes(header + data.numpy().tobytes())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_image_tasks_read_torchvisions_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    raw.mkdir(parents=True)
    random = torch.Generator().manual_seed(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(raw / f"{part}-images-idx3-ubyte", torch.randint(0, 256, (count, 28, 28), generator=random).byte())
        write_idx(raw / f"{part}-labels-idx1-ubyte", torch.randint(0, 10, (count,), generator=random).byte())
    task = getattr(ws.tasks, name)(data_root=tmp_path)
    assert [len(s) for s in (task.train, task.validation, task.test)] == [55_000, 5_000, 10_000]
    assert task.architecture.layout().size == 266_610  # LeNet-300-100
    assert task.train.x.mean().abs() < 3  # standardised by the set's own moments
    monkeypatch.setenv("WEIGHTSPACE_DATA", str(tmp_path))
    assert torch.equal(getattr(ws.tasks, name)().test.y, task.test.y)


def test_missing_data_say_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    with pytest.raises(StorageError, match=r"(?s)MNIST could neither be read from .*--data-root"):
        ws.tasks.mnist(data_root=tmp_path)


@pytest.mark.parametrize("size", [0, 5_000])
def test_images_that_end_too_early_are_refused(tmp_path: Path, size: int) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(raw / f"{part}-images-idx3-ubyte", torch.zeros(count, 28, 28, dtype=torch.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", torch.zeros(count, dtype=torch.uint8))
    os.truncate(raw / "train-images-idx3-ubyte", size)
    with pytest.raises(StorageError, match=r"(?s)MNIST could neither be read from .*four whole files"):
        ws.tasks.mnist(data_root=tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "sizes"),
    [
        ("iris", (4,), 3, (90, 30, 30)),
        ("wine", (13,), 3, (108, 35, 35)),
        ("breast_cancer", (30,), 2, (343, 113, 113)),
    ],
)
def test_tables_are_standardised_by_their_training_split_alone(name: str, shape, classes: int, sizes) -> None:
    task = getattr(ws.tasks, name)()
    assert tuple(len(s) for s in (task.train, task.validation, task.test)) == sizes
    assert task.train.x.shape[1:] == shape
    assert int(task.train.y.max()) + 1 == classes
    torch.testing.assert_close(task.train.x.mean(0), torch.zeros(shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(task.train.x.std(0), torch.ones(shape), atol=1e-5, rtol=0)
    assert task.test.x.mean(0).abs().max() > 1e-3
    short = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=60 if len(task.train) < 200 else 8)))
    accuracy = [r["metrics"]["validation_accuracy"] for r in ws.collect(short, 3).records]
    assert min(accuracy) > 0.85


def test_held_out_digits_are_seen_by_no_split() -> None:
    whole, part = ws.tasks.digits(), ws.tasks.digits(held_out=(8, 9))
    assert part.ood is not None
    assert whole.ood is None
    assert len(part.ood()) == int((whole.test.y >= 8).sum())
    assert [len(s) for s in (part.train, part.validation, part.test)] == [
        int((s.y < 8).sum()) for s in (whole.train, whole.validation, whole.test)
    ]
    assert part.architecture.arguments["sizes"][-1] == 8
    assert int(ws.tasks.digits(held_out=(0,)).train.y.min()) == 0
    with pytest.raises(InputError, match="held_out"):
        ws.tasks.digits(held_out=(10,))


def test_mnist_and_fashion_mnist_are_each_others_strangers(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    for folder in ("MNIST", "FashionMNIST"):
        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 60_000), ("t10k", 10_000)):
            write_idx(
                raw / f"{part}-images-idx3-ubyte", torch.randint(0, 256, (count, 28, 28), generator=random).byte()
            )
            write_idx(raw / f"{part}-labels-idx1-ubyte", torch.randint(0, 10, (count,), generator=random).byte())
    mnist, fashion = ws.tasks.mnist(data_root=tmp_path), ws.tasks.fashion_mnist(data_root=tmp_path)
    assert mnist.ood is not None
    pixels = fashion.test.x * 0.3530 + 0.2860
    torch.testing.assert_close(mnist.ood(), (pixels - 0.1307) / 0.3081, rtol=1e-4, atol=1e-4)


def test_cifar10_reads_binary_batches(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    for name, count in [(f"data_batch_{i}.bin", 1200) for i in range(1, 6)] + [("test_batch.bin", 40)]:
        record = torch.randint(0, 256, (count, 3073), generator=random).byte()
        record[:, 0] %= 10
        (folder / name).write_bytes(record.numpy().tobytes())
    task = ws.tasks.cifar10(data_root=tmp_path)
    assert [len(s) for s in (task.train, task.validation, task.test)] == [1000, 5000, 40]
    first = record[0, 1:].reshape(3, 32, 32).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]))
    expected = (first - mean) / std
    torch.testing.assert_close(task.test.x[0], expected)
    assert int(task.test.y[0]) == int(record[0, 0])
    (folder / "data_batch_3.bin").write_bytes(b"cut")
    with pytest.raises(StorageError, match=r"data_batch_3\.bin is missing or damaged"):
        ws.tasks.cifar10(data_root=tmp_path)


def test_own_tensors_and_datasets_become_tasks() -> None:
    from torch.utils.data import TensorDataset

    x, y = torch.randn(100, 5), torch.randint(0, 3, (100,))
    network = ws.Architecture("MLP", {"sizes": [5, 3]})
    a = ws.tasks.from_tensors("mine", x, y, network)
    b = ws.tasks.from_dataset("mine", TensorDataset(x, y), network)
    assert [len(s) for s in (a.train, a.validation, a.test)] == [70, 10, 20]
    assert a.to_json() == b.to_json()
    rows = torch.cat([a.train.x, a.validation.x, a.test.x])
    assert len(rows.unique(dim=0)) == 100
    with pytest.raises(InputError, match="pair"):
        ws.tasks.from_dataset("mine", TensorDataset(x), network)


def test_tasks_can_be_sent_to_other_processes() -> None:
    import pickle

    for task in (ws.tasks.digits(held_out=(9,)), ws.tasks.iris()):
        again = pickle.loads(pickle.dumps(task))
        assert again.to_json() == task.to_json()
        assert (again.ood is None) == (task.ood is None)

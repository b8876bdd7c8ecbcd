from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.task import split


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
    monkeypatch.setenv("WEIGHTSPACE_DATA", str(tmp_path))
    assert torch.equal(getattr(ws.tasks, name)().test.y, task.test.y)


def test_missing_data_say_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    with pytest.raises(StorageError, match=r"(?s)MNIST was not found under .*--data-root"):
        ws.tasks.mnist(data_root=tmp_path)

"""CIFAR-10: 60,000 colour images of 32 x 32 pixels in 10 classes."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.networks.architecture import Architecture
from weightspace.recipes.optimizers import SGD
from weightspace.recipes.recipe import Augmentation, Recipe
from weightspace.recipes.schedule import Schedule
from weightspace.recipes.step import Step
from weightspace.runtime import seeds
from weightspace.tasks.task import Split, Task

RECIPE = Recipe(
    length=Step(epochs=160),
    batch_size=128,
    optimizer=SGD(lr=0.1, weight_decay=1e-4),
    schedule=Schedule("step", milestones=(Step(epochs=80), Step(epochs=120))),
    augmentation=Augmentation(crop=4, flip=True),
)
_RECORD = 3073  # a label and 3 x 32 x 32 bytes
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10(*, data_root: str | Path | None = None, recipe: Recipe = RECIPE) -> Task:
    """Natural images with a ResNet-20; 45,000 / 5,000 / 10,000 samples.

    Reads the binary batches (`cifar-10-batches-bin`) under the data root, else torchvision's checked
    copy, which it downloads where the network allows.

    Args:
        data_root: Folder of the data; by default the environment variable WEIGHTSPACE_DATA, else ./data.
        recipe: Recipe of one network's training.

    Raises:
        StorageError: The data are neither there nor to be downloaded, or a file is damaged.
    """
    root = Path(data_root or os.environ.get("WEIGHTSPACE_DATA") or "data")
    folder = root / "cifar-10-batches-bin"
    if folder.is_dir():
        x, y = _read(folder, [f"data_batch_{i}.bin" for i in range(1, 6)])
        x_test, y_test = _read(folder, ["test_batch.bin"])
    else:
        x, y, x_test, y_test = _through_torchvision(root)
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    x, x_test = ((part.float() / 255 - mean) / std for part in (x, x_test))
    order = torch.randperm(len(x), generator=seeds.generator(0, "splits"))
    train, validation = order[:-5000], order[-5000:]
    return Task(
        "cifar10",
        Architecture("ResNet20"),
        Split(x[train], y[train]),
        Split(x[validation], y[validation]),
        Split(x_test, y_test),
        recipe,
    )


def _read(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    parts: list[np.ndarray] = []
    for name in names:
        path = folder / name
        if not path.exists() or path.stat().st_size == 0 or path.stat().st_size % _RECORD:
            raise StorageError(f"{path} is missing or damaged: a CIFAR-10 batch holds records of {_RECORD} bytes")
        parts.append(np.fromfile(path, np.uint8).reshape(-1, _RECORD))
    raw = torch.from_numpy(np.concatenate(parts))
    return raw[:, 1:].reshape(-1, 3, 32, 32), raw[:, 0].long()


def _through_torchvision(root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from torchvision import datasets  # here, as it takes seconds

    try:
        train, test = (datasets.CIFAR10(str(root), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"CIFAR-10 was not found under {root} and could not be downloaded ({error}): put its binary batches into "
            f"{root / 'cifar-10-batches-bin'}, or give another --data-root"
        ) from error
    pixels = [torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in (train, test)]
    return pixels[0], torch.tensor(train.targets), pixels[1], torch.tensor(test.targets)

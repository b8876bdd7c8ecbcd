"""Pictures as networks: each network of a collection draws a picture of its own."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.schedule import Schedule
from weightspace.runtime import checks
from weightspace.tasks.data import Data, OwnData
from weightspace.tasks.from_data import from_own_data
from weightspace.tasks.task import Task


def grid(height: int, width: int) -> Float[Tensor, "pixels 2"]:
    """Coordinates of the pixels of a picture, row by row, from -1 to 1.

    Args:
        height: Number of rows.
        width: Number of columns.
    """
    if height < 1 or width < 1:
        raise InputError(f"a picture has rows and columns, got {height} x {width}")
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.cartesian_prod(rows, columns)


def pictures(
    name: str,
    images: Tensor,
    network: Architecture | None = None,
    recipe: Recipe = Recipe("80it", batch_size=1024, optimizer=Adam(lr=1e-3), schedule=Schedule()),
    unseen: Tensor | None = None,
) -> Task:
    """A task in which network i of a collection learns to draw picture i: coordinates in, brightness out.

    Collect with `SharedStart(at="0it")`: from one start the networks stay comparable, weight by weight.

    Args:
        name: Name in records and reports.
        images: Pictures (N, height, width) or (N, channels, height, width).
        network: Network from two coordinates to the channels; None is `Siren` with two layers of 32 units and slow
            sines (omega 10), so that nearby pictures have nearby weights.
        recipe: Recipe of one network's training; a batch of at least all pixels is the whole picture.
        unseen: Pictures of the same kind that no network is fitted to, for `evaluate_pictures` alone.

    Raises:
        InputError: The images are no pictures, or a value is NaN or infinite.
    """
    targets = _targets(images, "images")
    channels, (height, width) = targets.shape[2], images.shape[-2:]
    if network is None:
        network = Architecture("Siren", {"sizes": (2, 32, 32, channels), "omega": 10.0})
    at = grid(height, width)
    task = from_own_data(name, at, targets, network, recipe=recipe, loss=functional.mse_loss, metrics=("rmse",))
    if unseen is None:
        return task
    others = _targets(unseen, "unseen")
    if unseen.shape[-2:] != images.shape[-2:] or others.shape[1:] != targets.shape[1:]:
        raise InputError(
            f"unseen pictures must be of the size of the images, got {tuple(unseen.shape[1:])} beside "
            f"{tuple(images.shape[1:])}"
        )
    return replace(task, test=OwnData(at, others))


def _targets(images: Tensor, name: str) -> Float[Tensor, "n pixels channels"]:
    """Pictures as targets of coordinates, row by row."""
    if not isinstance(images, Tensor):
        raise checks.refuse(name, "a tensor of pictures", images)
    if images.ndim not in (3, 4) or not images.numel():
        raise InputError(
            f"{name}: expected pictures (N, height, width) or (N, channels, height, width), got {tuple(images.shape)}"
        )
    whole = images if images.ndim == 4 else images[:, None]
    return whole.flatten(2).transpose(1, 2).contiguous()


def is_pictures(task: Task) -> bool:
    """Whether the networks of a task draw pictures, each its own.

    Args:
        task: Any task.
    """
    return _size(task) is not None


def picture_size(task: Task) -> tuple[int, int]:
    """Height and width of the pictures of a task.

    Args:
        task: A task that `pictures` made, or another whose networks have pictures of their own on the same grid.

    Raises:
        InputError: The task's data are no pictures.
    """
    size = _size(task)
    if size is None:
        raise InputError(f"{task.name} is no task of pictures: make one with tasks.pictures(...)")
    return size


def _size(task: Task) -> tuple[int, int] | None:
    data = task.train
    if isinstance(data, OwnData) and data.shared_inputs and isinstance(data.x, Tensor) and isinstance(data.y, Tensor):
        at, targets = data.x, data.y
        if at.ndim == 2 and at.shape[1] == 2 and targets.ndim == 3:
            height, width = len(at[:, 0].unique()), len(at[:, 1].unique())
            if len(at) == height * width and at.equal(grid(height, width)):
                return height, width
    return None


def pictures_of(data: Data, size: tuple[int, int]) -> Float[Tensor, "n channels height width"]:
    """The pictures (N, channels, height, width) of a split of such a task.

    Args:
        data: The split.
        size: Height and width.
    """
    assert isinstance(data, OwnData)
    targets = data.y
    assert isinstance(targets, Tensor)
    return targets.transpose(1, 2).unflatten(2, size)


def draw(networks: Collection, height: int, width: int) -> Float[Tensor, "n channels height width"]:
    """The pictures (N, channels, height, width) that networks draw, of any size.

    Args:
        networks: Networks from two coordinates to the channels of a picture.
        height: Number of rows.
        width: Number of columns.

    Raises:
        InputError: The networks do not take two coordinates.
    """
    drawn = networks.ensemble().raw(grid(height, width))
    if not isinstance(drawn, Tensor) or drawn.ndim != 3:
        raise InputError("these networks do not draw: their outputs are not (pixels, channels)")
    return drawn.transpose(1, 2).unflatten(2, (height, width))

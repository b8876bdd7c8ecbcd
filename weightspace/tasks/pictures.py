"""Pictures as networks: each network of a collection draws a picture of its own."""

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
) -> Task:
    """A task in which network i of a collection learns to draw picture i: coordinates in, brightness out.

    Collect with `SharedStart(at="0it")`: from one start the networks stay comparable, weight by weight.

    Args:
        name: Name in records and reports.
        images: Pictures (N, height, width) or (N, channels, height, width).
        network: Network from two coordinates to the channels; None is `Siren` with two layers of 32 units.
        recipe: Recipe of one network's training; a batch of at least all pixels is the whole picture.

    Raises:
        InputError: The images are no pictures, or a value is NaN or infinite.
    """
    if images.ndim not in (3, 4) or not images.numel():
        raise InputError(f"expected pictures (N, height, width) or (N, channels, height, width), got {images.shape}")
    whole = images if images.ndim == 4 else images[:, None]
    _, channels, height, width = whole.shape
    if network is None:
        network = Architecture("Siren", {"sizes": (2, 32, 32, channels)})
    targets = whole.flatten(2).transpose(1, 2).contiguous()
    return from_own_data(
        name, grid(height, width), targets, network, recipe=recipe, loss=functional.mse_loss, metrics=("rmse",)
    )


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

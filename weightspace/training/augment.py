"""Random crops and flips, each network with its own random numbers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.recipes.recipe import Augmentation
from weightspace.runtime import seeds, trees
from weightspace.tasks.data import Split


def augment(
    x: Float[Tensor, "n batch channels height width"],
    augmentation: Augmentation,
    network_seeds: Sequence[int],
    step: int,
) -> Float[Tensor, "n batch channels height width"]:
    """Shift images by up to `augmentation.crop` pixels (zeros come in) and mirror half of them if `augmentation.flip`.

    What network i sees in a step depends on its seed and the step alone.
    """
    n, batch, _, height, width = x.shape
    draws = torch.stack(
        [torch.rand(3, batch, generator=seeds.generator(s, "augmentation", step)) for s in network_seeds]
    )
    draws = draws.to(x.device)  # (n, 3, batch)
    if augmentation.crop:
        padded = F.pad(x, [augmentation.crop] * 4)
        shift = (draws[:, :2] * (2 * augmentation.crop + 1)).long()  # 0 .. 2 crop
        rows = shift[:, 0, :, None] + torch.arange(height, device=x.device)  # (n, batch, height)
        columns = shift[:, 1, :, None] + torch.arange(width, device=x.device)
        net = torch.arange(n, device=x.device)[:, None, None, None]
        image = torch.arange(batch, device=x.device)[None, :, None, None]
        x = padded[net, image, :, rows[..., None], columns[:, :, None]].movedim(-1, 2)
    if augmentation.flip:
        x = torch.where((draws[:, 2] < 0.5)[..., None, None, None], x.flip(-1), x)
    return x


def as_in_training(data: Split, augmentation: Augmentation, seed: int) -> Split:
    """Samples as training sees them: shifted and mirrored if the recipe says so.

    Args:
        data: The samples.
        augmentation: What the recipe says.
        seed: Seed of the shifts.

    Raises:
        InputError: They are to be shifted or mirrored and are no images.
    """
    if augmentation == Augmentation():
        return data
    x = data.x
    if not (isinstance(x, Tensor) and x.ndim == 4):
        raise InputError(f"augmentation needs images (samples, channels, height, width), got {trees.shapes(x)}")
    return Split(augment(x[None], augmentation, [seed], 0)[0], data.y)

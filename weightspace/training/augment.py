"""Random crops and flips, each network with its own random numbers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.recipes.recipe import Augmentation
from weightspace.runtime import seeds


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

"""VGG-11 and VGG-16 with BatchNorm, in the form used on 32 x 32 images (Simonyan & Zisserman 2015)."""

import math

from torch import nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes, check_width
from weightspace.runtime import checks

_LAYERS = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
}


class VGG(nn.Sequential):
    """3 x 3 convolutions with BatchNorm, pooled five times, and one linear layer.

    9,231,114 parameters for VGG-11 and 14,728,266 for VGG-16 on CIFAR-10.

    Args:
        depth: 11 or 16.
        width: Factor of the channels.
        channels: Channels of the input.
        outputs: Number of classes.
    """

    def __init__(self, depth: int = 16, *, width: float = 1.0, channels: int = 3, outputs: int = 10) -> None:
        if checks.count(depth, "depth") not in _LAYERS:
            raise InputError(f"depth must be 11 or 16, got {depth}")
        check_sizes(channels=channels, outputs=outputs)
        check_width(width, 512)
        inputs = channels
        layers: list[nn.Module] = []
        for size in _LAYERS[depth]:
            if size == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            out = math.ceil(width * size)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels, outputs))
        self.input_shape = (inputs, 32, 32)

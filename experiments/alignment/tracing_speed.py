"""What does it cost to trace a network and to prove its symmetry?

    python -m experiments.alignment.tracing_speed          (about five minutes on one core)

CPU seconds of one thread: of tracing alone, of the proof and all else, and of both; and how many forward passes of the
network, as it is, take as long. The first row is the first trace of a process, in a process of its own.
"""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
import transformers
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.common import tables
from weightspace import symmetry
from weightspace.networks.layout import Layout
from weightspace.symmetry.tracing import extract, tracer

_FIRST = """
import time, torch
from torch import nn
from weightspace import symmetry
module, x = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(6, 5)
began = time.process_time()
symmetry.trace(module, x)
print(time.process_time() - began)
"""


class Crepe(nn.Module):
    """CREPE tiny: the pitch of 1024 samples of sound, by six convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        channels, lengths, strides = (1, 128, 16, 16, 16, 32, 64), (512, *[64] * 5), (4, *[1] * 5)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, (length, 1), (stride, 1))
            for a, b, length, stride in zip(channels, channels[1:], lengths, strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        """A value in (0, 1) for each of 360 pitches."""
        h = x[:, None, :, None]
        for k, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = F.pad(h, (0, 0, 254, 254) if k == 0 else (0, 0, 31, 32))
            h = F.max_pool2d(norm(F.relu(convolution(h))), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(h.permute(0, 2, 1, 3).flatten(1)))


def mini_lm() -> tuple[nn.Module, Tensor]:
    """The body of MiniLM: BERT of 6 layers, 384 wide."""
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return transformers.BertModel(config), torch.randint(5, 30000, (2, 16))


def vision(name: str, pixels: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    """A network of torchvision."""
    return lambda: (torchvision.models.get_model(name, weights=None), torch.randn(2, 3, pixels, pixels))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "MLP": lambda: (
        nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
        torch.randn(8, 784),
    ),
    "LSTM of two layers": lambda: (nn.LSTM(20, 64, 2, batch_first=True), torch.randn(4, 12, 20)),
    "CREPE tiny": lambda: (Crepe(), torch.randn(4, 1024)),
    "ResNet-18": vision("resnet18", 64),
    "MobileNetV3, small": vision("mobilenet_v3_small", 64),
    "AlexNet": vision("alexnet", 64),
    "MiniLM": mini_lm,
}


def main(only: tuple[str, ...] = (), results: Path = tables.RESULTS) -> None:
    """Write one row for each network to alignment/tracing_speed.csv.

    Args:
        only: Names of networks; none given does all.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    path = results / "alignment/tracing_speed.csv"
    if not only:
        seconds = subprocess.run([sys.executable, "-c", _FIRST], check=True, capture_output=True, text=True).stdout
        save(path, {"network": "MLP, first trace of a process", "parameters": 147, "total s": f"{float(seconds):.2f}"})
    symmetry.trace(nn.Linear(3, 2), torch.randn(4, 3))  # what a process does once
    for name, make in NETWORKS.items():
        if not only or name in only:
            torch.manual_seed(0)
            save(path, {"network": name} | measure(*make()))


def save(path: Path, row: dict[str, object]) -> None:
    """Print a row, and write it down."""
    columns = ("network", "parameters", "groups", "trace s", "proof s", "total s", "forward passes")
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    tables.add(path, [{key: row.get(key, "") for key in columns}], ("network",))


def measure(module: nn.Module, x: Tensor) -> dict[str, object]:
    """Seconds of a trace, and of its parts."""
    module.eval()
    with torch.no_grad():
        forward = min(seconds(lambda: module(x)) for _ in range(5))
    tracing = seconds(lambda: _derive(module, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        found = symmetry.trace(module, x)
        total = time.process_time() - began
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "groups": len(found.groups),
        "trace s": f"{tracing:.2f}",
        "proof s": f"{total - tracing:.2f}",
        "total s": f"{total:.2f}",
        "forward passes": f"{total / forward:.0f}",
    }


def _derive(module: nn.Module, x: Tensor) -> None:
    traces = tracer.run(module, x, fix_unknown=False)
    extract.table(module, Layout.of(module), traces.units, traces.axes)


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of an action."""
    began = time.process_time()
    action()
    return time.process_time() - began


if __name__ == "__main__":
    tyro.cli(main)

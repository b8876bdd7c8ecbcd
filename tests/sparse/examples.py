"""Networks, matrices and measurements that tests of sparse execution share."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import weightspace as ws


def two_of_four(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    weights = torch.randn(rows, -(-columns // 4) * 4, generator=torch.Generator().manual_seed(seed))
    groups = weights.unflatten(1, (-1, 4))
    groups *= torch.zeros_like(groups).scatter_(2, groups.abs().topk(2, dim=2).indices, 1.0)
    return weights[:, :columns].contiguous()


def ticket(density: float = 0.02) -> nn.Module:
    module = ws.Architecture("LeNet300").build_seeded(0)
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())
    mask = ws.Unstructured(density, "layer").mask(weights.abs(), layout)
    module.load_state_dict(layout.unpack(weights * mask))
    return module.eval()


def sparse_linear(inputs: int, outputs: int, density: float = 0.01) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    layer.weight.data *= torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(0)) < density
    return layer


def measure_as_fastest(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layer becomes must not depend on how busy this machine is."""

    def measured(work: dict[str, Callable[[], object]], *, cuda: bool = False) -> dict[str, list[float]]:
        assert not cuda
        return {name: [1.0, 9.0, 1.0] if name in (form, "fast") else [2.0, 2.0, 0.1] for name in work}

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["weightspace.sparse.accelerate"], "call_seconds", measured)


def matrix(rows: int, columns: int, seed: int, *, normal: bool = False) -> torch.Tensor:
    draw = torch.randn if normal else torch.rand
    return draw(rows, columns, generator=torch.Generator().manual_seed(seed))


def kept(collection: ws.Collection, pattern: ws.NM) -> torch.Tensor:
    mask = pattern.mask(collection.weights.abs(), collection.layout)
    return (collection.weights.abs() * mask).double().sum(1)


def collected(factory: Callable[[], nn.Module], n: int) -> ws.Collection:
    architecture = ws.Architecture.of(factory)
    layout = architecture.layout()
    weights = torch.stack([layout.pack(architecture.build_seeded(i).state_dict()) for i in range(n)])
    return ws.Collection(layout, weights, architecture=architecture)

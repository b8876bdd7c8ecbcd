"""Adapters that share one base predict together without a copy of it each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import weightspace as ws
from weightspace import adapt

WIDTH, COUNT = 40, 8
ONE = WIDTH * WIDTH  # numbers of one layer of the base


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))


class _Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return made


@pytest.fixture(scope="module")
def base() -> ws.Collection:
    torch.manual_seed(0)
    return ws.from_state_dict(network().state_dict(), network)


@pytest.fixture(scope="module")
def adapters(base: ws.Collection) -> ws.Collection:
    """Adapters of rank two on all layers but the last, which is each adapter's own."""
    architecture = adapt.LoRA(rank=2, on=["0.weight", "2.weight"], whole="4.*").architecture(base)
    layout = architecture.layout()
    weights = 0.3 * torch.randn(COUNT, layout.size, generator=torch.Generator().manual_seed(1))
    return ws.Collection(layout, weights, architecture=architecture)


def test_the_base_is_there_once(base: ws.Collection, adapters: ws.Collection) -> None:
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    ensemble = adapters.ensemble()
    assert ensemble.weights.numel() < COUNT * ONE / 2
    with _Largest() as seen:
        together = ensemble.raw(x)
    assert seen.size <= max(ensemble.weights.numel(), ONE)
    alone = torch.stack([adapters.module(i).eval()(x) for i in range(COUNT)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(ensemble.predict_proba(x), alone.softmax(-1).mean(0))

    copies = base[[0] * COUNT].ensemble()  # the control: networks of their own
    with _Largest() as seen:
        copies.raw(x)
    assert seen.size >= COUNT * ONE

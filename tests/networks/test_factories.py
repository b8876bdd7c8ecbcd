"""Modules from a user's factory: what cannot be used is said with its place, before work starts."""

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError


def needs(width: int) -> nn.Module:
    return nn.Linear(width, width)


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


def called_once() -> nn.Module:
    module = nn.LazyLinear(3)
    module(torch.ones(1, 2))
    return module


def without_values() -> nn.Module:
    return nn.Linear(2, 3, device="meta")


def fails() -> nn.Module:
    raise FileNotFoundError("pretrained.pt")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (needs, r"needs needs an argument \(width\): wrap it"),
        (lazy, "call the lazy module once with an example"),
        (without_values, "meta device"),
        (fails, r"raised FileNotFoundError: pretrained.pt \(.*test_factories.py:\d+ in fails\)"),
        (lambda: 3, "returned a int, not an nn.Module"),
    ],
)
def test_a_factory_that_cannot_be_used_is_refused(factory, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ws.Architecture.of(factory).layout()
    assert factory is not fails or isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("factory", [called_once, lambda width=2: nn.Linear(width, 3)])
def test_other_factories_are_taken(factory) -> None:
    assert ws.Architecture.of(factory).layout().num_prunable == 6

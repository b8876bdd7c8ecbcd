"""Weight-normed layers that lose rows."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as hook

from weightspace.networks.weight_norm import allow_zero_rows


def hooked() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return hook(nn.Linear(3, 4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
        lambda: parametrizations.weight_norm(nn.Conv1d(3, 4, 1), dim=1),
        lambda: parametrizations.weight_norm(nn.Linear(3, 4), dim=None),
        hooked,
    ],
)
def test_only_empty_rows_change(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(build())
    module = nn.Sequential(build())
    module.load_state_dict(plain.state_dict())
    allow_zero_rows(allow_zero_rows(module))
    assert repr(module) == repr(plain)
    assert list(module.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, *(5,) * (len(next(p for p in plain.parameters() if p.ndim > 1).shape) - 2))
    for one in (plain, module):
        one(x).square().sum().backward()
    grads = [[p.grad for p in one.parameters()] for one in (plain, module)]
    assert torch.equal(plain(x), module(x))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    v = next(p for n, p in module.named_parameters() if n.endswith(("_v", "original1")))
    dim = 1 if v.ndim > 2 else 0
    with torch.no_grad():
        v.transpose(0, dim)[1] = 0
    again = copy.deepcopy(module) if not hasattr(module[0], "weight_v") else module
    again(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in again.parameters())
    with torch.no_grad():
        v.zero_()
        assert module(x).isfinite().all()
        plain.load_state_dict(module.state_dict())
        assert plain(x).isnan().any()

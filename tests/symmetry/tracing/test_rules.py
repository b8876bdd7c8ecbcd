"""Rules of operators: parametrizations of weights."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import utils

from tests.symmetry.examples import outputs_of_a_copy
from weightspace.symmetry import trace


def hooked(layer: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old form, which many networks still have
        return utils.weight_norm(layer)


NORMS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight_norm, as a hook": hooked,
    "weight_norm": utils.parametrizations.weight_norm,
    "weight_norm of the whole": lambda layer: utils.parametrizations.weight_norm(layer, dim=None),
    "spectral_norm, as a hook": utils.spectral_norm,
    "spectral_norm": utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("name", NORMS)
def test_normed_weights_move_as_plain_ones_do(name: str) -> None:
    torch.manual_seed(0)
    norm = NORMS[name]
    module = nn.Sequential(norm(nn.Linear(5, 7)), nn.ReLU(), norm(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(6, 5)
    symmetry = trace(module, x)
    assert [g.size for g in symmetry.groups] == [7, 6]
    own = {name for name, _ in module.named_parameters() if name.startswith(("0.", "2."))}
    assert own - {a.tensor for g in symmetry.groups for a in g.axes} <= {n for n in own if n.endswith("original0")}
    before, after = outputs_of_a_copy(symmetry, module, x)
    torch.testing.assert_close(after, before)


def test_a_spectral_norm_of_a_convolution_moves_its_channels() -> None:
    torch.manual_seed(0)
    norm = utils.parametrizations.spectral_norm
    module = nn.Sequential(norm(nn.Conv2d(2, 5, 3)), nn.ReLU(), norm(nn.Conv2d(5, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert [g.size for g in trace(module, torch.randn(2, 2, 6, 6)).groups] == [5, 4]

"""What norms leave free is found in any module, holds exactly, and nothing else is called free."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import weightspace as ws
from weightspace.symmetry import trace
from weightspace.symmetry.find_gains import find_gains
from weightspace.symmetry.gains import Gains


class Residual(nn.Module):
    """A stream of which only norms read: its writers are scaled together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.branch = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 5, bias=False)
        self.end, self.head = nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.end(x + self.branch(self.norm(x).relu())).relu())


class Open(Residual):
    """The stream is read without a norm as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.end(x + self.branch(self.norm(x).relu())).relu() + x)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], list[str], list[str]]] = {
    # module, input, rows with their signs, biases, rows to which the same can be added
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
        *((4, 2, 4, 4), ["0.weight ~ 1.weight"], ["0.bias"], []),
    ),
    "batch norm without scale": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.ReLU(), nn.Linear(3, 2)),
        *((8, 4), ["0.weight ~"], ["0.bias"], []),
    ),
    "batch norm of outputs": (
        lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)),
        *((8, 4), ["0.weight ~ 1.weight"], [], []),
    ),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
        ),
        *((4, 2, 4, 4), ["0.weight ~ 1.weight"], ["0.bias"], []),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
        *((4, 2, 4, 4), ["0.weight 0.bias ~ 1.weight"], [], ["0.bias"]),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)),
        *((8, 4), ["0.weight 0.bias ~ 1.weight"], [], ["0.weight", "0.bias"]),
    ),
    "weight norm": (
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2)),
        *((8, 4), ["0.parametrizations.weight.original1 ~ 0.parametrizations.weight.original0"], [], []),
    ),
    "keys": (
        lambda: nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, norm_first=True),
        *((4, 3, 8), [], ["self_attn.in_proj_bias"], []),
    ),
    "residual": (
        Residual,
        *((8, 4), ["stem.weight branch.weight ~ norm.weight end.weight"], ["stem.bias"], []),
    ),
    "open residual": (Open, (8, 4), [], [], []),
    "no norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (8, 4), [], [], []),
}


def found(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor, Gains]:
    torch.manual_seed(0)
    module, x = build(), torch.randn(shape)
    symmetry = trace(module, x)
    return module, x, find_gains(symmetry, module, x)


@pytest.mark.parametrize("case", CASES)
def test_gains_are_found_and_leave_the_function_alone(case: str) -> None:
    build, shape, rows, shifts, centred = CASES[case]
    module, x, gains = found(build, shape)
    named = [
        " ".join([*(c.tensor for c in one.cells), "~", *(c.tensor for c in one.signs)]).strip() for one in gains.rows
    ]
    assert named == rows
    assert [shift.tensor for shift in gains.shifts] == shifts
    assert [cell.tensor for cell in gains.centred] == centred
    if not gains:
        return
    module = module.double().eval()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            child.running_mean.uniform_(-1, 1), child.running_var.uniform_(0.5, 2)
        elif hasattr(child, "eps"):
            child.eps = 1e-14  # without statistics, factors are exact but for eps
    x = x.double()
    expected = module(x)
    layout = ws.Layout.of(module)
    vector = layout.pack(module.state_dict())[None]
    buffers = {name: b[None].clone() for name, b in module.named_buffers()}
    random = torch.Generator().manual_seed(0)
    other, other_buffers = gains.randomised(vector, buffers, random)
    assert (other - vector).abs().max() > 0.1
    forms = [gains.canonical(vector, buffers), gains.canonical(other, other_buffers)]
    torch.testing.assert_close(forms[0][0], forms[1][0])
    for name in buffers:
        torch.testing.assert_close(forms[0][1][name], forms[1][1][name])
    for values, statistics in ((other, other_buffers), *forms):
        module.load_state_dict(layout.unpack(values[0]) | {name: b[0] for name, b in statistics.items()})
        torch.testing.assert_close(module(x), expected)


def test_the_variance_follows_with_eps_and_rows_of_zeros_stay() -> None:
    module, x, gains = found(CASES["batch norm"][0], (4, 2, 4, 4))
    (rows,) = gains.rows
    assert rows.statistics[0].eps == 1e-5
    module = module.double().eval()
    x, state = x.double(), {n: t[None].clone() for n, t in module.state_dict().items()}
    expected = module(x)
    factor = torch.tensor([[2.0, -0.5, 3.0]], dtype=torch.float64)
    rows.scale(scaled := dict(state), factor)
    module.load_state_dict({n: t[0] for n, t in scaled.items()})
    without_shift = (module(x) - expected).abs().max()
    assert without_shift > 1e-3  # the bias is not scaled: it has to be taken off first
    for shift in gains.shifts:
        shift.put(state, 0.0)
    rows.scale(scaled := dict(state), factor)
    module.load_state_dict({n: t[0] for n, t in scaled.items()})
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-12)
    plain = scaled | {"1.running_var": state["1.running_var"] * factor.square()}  # as if there were no eps
    module.load_state_dict({n: t[0] for n, t in plain.items()})
    assert (module(x) - expected).abs().max() > 1e-7

    dead = {"0.weight": state["0.weight"] * torch.tensor([0.0, 1.0, 1.0])[:, None, None, None]}
    weights = torch.cat([(state | dead)[e.name].flatten(1) for e in gains.layout.parameters], 1)
    buffers = {b.name: state[b.name] for b in gains.layout.buffers}
    canonical = gains.layout.tensors(gains.canonical(weights, buffers)[0])["0.weight"][0]
    assert not canonical[0].any()
    torch.testing.assert_close(canonical[1:].flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_nothing_is_added_to_rows_that_lost_weights() -> None:
    _, _, gains = found(CASES["layer norm"][0], (8, 4))
    weights = torch.randn(1, gains.layout.size, dtype=torch.float64)
    weights[:, ::3] = 0
    random = torch.Generator().manual_seed(0)
    assert (gains.randomised(weights, {}, random)[0][:, ::3] != 0).any()
    assert not gains.randomised(weights, {}, random, dense=False)[0][:, ::3].any()


def test_flips_of_scales_become_flips_of_rows() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(8, 4)
    symmetry = trace(module, x)
    gains = find_gains(symmetry, module, x)
    (group,) = gains.within(symmetry).groups
    assert {a.tensor for a in group.incoming} == {"0.weight", "0.bias", "1.bias", "1.running_mean"}
    ws.symmetry.prove(gains.within(symmetry), module, x)
    assert replace(gains, rows=()).within(symmetry) == symmetry

"""Which tensors are prunable, told from layers and names."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch


class Conv1D(nn.Module):
    """As GPT-2 of transformers has it: y = x W + b."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 6, 4))
        self.weight = nn.Parameter(torch.randn(1, 4, 1))  # one factor a channel
        self.position = nn.Parameter(torch.randn(1, 5, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 4))


class ChannelNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.matrix = nn.Linear(4, 4)


def hooked(make: Callable[..., nn.Module], *layer: int, name: str = "weight") -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old hooks are deprecated, and in use
            return make(nn.LSTM(*layer) if name != "weight" else nn.Linear(*layer), name)

    return build


def orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("build", "prunable"),
    [
        (lambda: nn.LSTMCell(3, 4), ["weight_ih", "weight_hh"]),
        (lambda: nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
        (lambda: nn.RNNCell(3, 4), ["weight_ih", "weight_hh"]),
        (lambda: nn.EmbeddingBag(5, 3), ["weight"]),
        (lambda: nn.Bilinear(2, 3, 4), ["weight"]),
        (lambda: Conv1D(3, 4), ["weight"]),
        (Experts, ["gate_up_proj"]),
        (ChannelNorm, ["matrix.weight"]),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), ["parametrizations.weight.original1"]),
        (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), ["parametrizations.weight.original"]),
        (hooked(old_weight_norm, 3, 4), ["weight_v"]),
        (hooked(old_spectral_norm, 3, 4), ["weight_orig"]),
        (hooked(old_weight_norm, 3, 4, name="weight_hh_l0"), ["weight_ih_l0", "weight_hh_l0_v"]),
        (lambda: prune.identity(nn.Linear(3, 4), "weight"), ["weight_orig"]),
        (orthogonal, ["1.weight"]),  # a zero of what it is made from is no zero of the matrix
    ],
)
def test_prunable_by_default(build: Callable[[], nn.Module], prunable: list[str]) -> None:
    layout = ws.Layout.of(build())
    assert sorted(entry.name for entry in layout.weights) == sorted(prunable)


def test_matrices_that_stay_are_known() -> None:
    assert [entry.name for entry in ws.Layout.of(Experts()).left_out] == ["position"]
    assert [entry.name for entry in ws.Layout.of(orthogonal()).left_out] == ["0.parametrizations.weight.original"]
    assert not ws.Layout.of(parametrizations.weight_norm(nn.Linear(3, 4))).left_out  # lengths are no matrix


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_zero_of_the_original_is_a_zero_of_the_weight(norm: Callable[[nn.Module], nn.Linear]) -> None:
    layer = norm(nn.Linear(3, 4)).eval()
    layout = ws.Layout.of(layer)
    original = layer.get_parameter(layout.weights[0].name)
    with torch.no_grad():
        original[1, 2] = 0
        assert (layer.weight == 0).nonzero().tolist() == [[1, 2]]
    parametrize.remove_parametrizations(layer, "weight")
    assert [entry.name for entry in ws.Layout.of(layer).weights] == ["weight"]


def test_a_user_names_what_is_prunable() -> None:
    network = ws.Architecture.of(Experts, prunable=["pos*", "gate_up_proj"])
    assert [e.name for e in network.layout().weights] == ["gate_up_proj", "position"]
    assert ws.Layout.of(network.build()) == network.layout() == ws.Layout.of(Experts(), prunable=network.prunable)
    assert ws.Architecture.from_json(network.to_json()).prunable == network.prunable
    assert "prunable" not in ws.Architecture.of(Experts).to_json()
    everything = ws.Layout.of(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((2, 2))), prunable=["*"])
    assert [e.name for e in everything.weights] == ["0.weight"]  # biases and norms never


def test_names_that_select_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"called 'gates': give a name or a glob of these, say: gate_up_proj"):
        ws.Layout.of(Experts(), prunable=["gates"])
    with pytest.raises(InputError, match=r"'\*bias' matches bias, of which none is a tensor that could be pruned"):
        ws.Layout.of(Conv1D(2, 3), prunable=["*bias"])
    with pytest.raises(InputError, match="sequence"):
        ws.Architecture.of(Experts, prunable="gate*")


def test_layouts_that_prune_other_tensors_go_together_and_say_so() -> None:
    new = ws.Layout.of(Experts())
    old = new.with_prunable(["position"])
    with pytest.warns(UserWarning, match=r"other network differs in .*gate_up_proj, position"):
        new.require(old, "the other network")
    with pytest.raises(LayoutMismatch, match="roles or dtypes"):
        ws.Layout.of(nn.LayerNorm(4)).require(ws.Layout.of(_Scale()), "another")


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

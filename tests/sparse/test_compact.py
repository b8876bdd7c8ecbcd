"""compact: fewer units, the same function."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.models import MLP, Conv
from weightspace.models.resnet import ResNet


class Normed(nn.Module):
    """LayerNorm reads all units at once, so that none of them can go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Reshaped(nn.Module):
    """Knows its size by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu().reshape(len(x), 8))


class Reads(nn.Module):
    """Units that something without parameters reads too, or nothing else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return {
            "sum": lambda: h.relu().sum(1),
            "tied": lambda: nn.functional.linear(h.relu(), self.first.weight.t()),
            "normalised": lambda: self.last(nn.functional.normalize(h)),
            "softmax": lambda: self.last(h.softmax(1)),
            "layer norm": lambda: self.last(nn.functional.layer_norm(h, (8,))),
            "product": lambda: (h * self.first(x.flip(1))).sum(1),
        }[self.how]()


@pytest.mark.parametrize("how", ["sum", "tied", "normalised", "softmax", "layer norm", "product"])
def test_what_is_read_without_weights_stays(how: str) -> None:
    module = Reads(how).eval()
    with torch.no_grad():
        module.last.weight[:, 2] = 0
        module.first.weight[4] = 0
    x = torch.randn(6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these cannot be traced to the end
        small = ws.compact(module, torch.randn(3, 5))
    assert torch.allclose(small(x), module(x), atol=1e-6)


def test_zero_channels_go_where_a_constant_one_stays() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    with torch.no_grad():
        module[0].weight[:3] = 0
        module[0].bias[:3] = torch.tensor([1.0, -1.0, -2.0])
    x = torch.randn(2, 1, 5, 5)
    small = ws.compact(module, x)
    assert tuple(small[0].weight.shape) == (2, 1, 1, 1)
    assert torch.allclose(small(x), module(x), atol=1e-6)


def test_frozen_parameters_stay_frozen() -> None:
    module = MLP([4, 3, 2])
    module[1].weight.requires_grad_(False)
    small = ws.compact(module, torch.randn(3, 4))
    assert not small[1].weight.requires_grad
    assert small[3].weight.requires_grad


def pruned(module: nn.Module, density: float, seed: int = 0) -> nn.Module:
    """Random weights, statistics and a random mask."""
    random = torch.Generator().manual_seed(seed)
    layout, state = ws.Layout.of(module), module.state_dict()
    for entry in layout.entries:
        if entry.dtype == "float32":
            state[entry.name].copy_(torch.rand(entry.shape, generator=random) - 0.3)
            if entry.name.endswith("running_var"):
                state[entry.name].abs_().add_(0.5)
    mask = ws.Unstructured(density).mask(torch.rand(layout.size, generator=random), layout)
    module.load_state_dict(layout.unpack(layout.pack(state) * mask) | {b.name: state[b.name] for b in layout.buffers})
    return module.eval()


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", ["mlp", "conv", "resnet", "padded resnet"])
def test_compact_is_smaller_and_the_same_function(kind: str) -> None:
    module, shape = {
        "mlp": (MLP([20, 30, 20, 5]), (20,)),
        "conv": (Conv(2, width=0.1, image=(2, 8, 8)), (2, 8, 8)),
        "resnet": (ResNet((1, 1), (6, 8), inputs=1), (1, 8, 8)),
        "padded resnet": (ResNet((1, 1), (4, 8), inputs=1, shortcut="pad"), (1, 8, 8)),
    }[kind]
    module = pruned(module, 0.03 if kind == "padded resnet" else 0.08).double()
    x = torch.randn(16, *shape, dtype=torch.float64)
    small = ws.compact(module, torch.randn(4, *shape))
    assert size(small) < size(module)
    assert torch.allclose(small(x), module(x), rtol=1e-9, atol=1e-12)
    again = ws.compact(small, x)
    assert size(again) == size(small)


def test_constant_units_go_into_the_next_bias() -> None:
    module = pruned(MLP([4, 3, 2]), 1.0)
    with torch.no_grad():
        module[1].weight[1] = 0  # reads nothing,
        module[1].bias[1] = 2.0  # and says 2
        module[1].weight[2] = 0
        module[1].bias[2] = -1.0  # and says 0 after the ReLU
    small = ws.compact(module, torch.randn(3, 4))
    assert tuple(small[1].weight.shape) == (1, 4)
    assert torch.allclose(small[3].bias, module[3].bias + 2 * module[3].weight[:, 1])
    assert torch.equal(small[3].weight, module[3].weight[:, :1])


def test_a_constant_channel_before_padding_stays() -> None:
    """A padded convolution sees zeros at the border, not the constant: its bias cannot take it over."""
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    with torch.no_grad():
        module[0].weight[1] = 0
        module[0].bias[1] = 1.0
    x = torch.randn(2, 1, 5, 5)
    assert tuple(ws.compact(module, x)[0].weight.shape) == (3, 1, 1, 1)
    module[2].padding = (0, 0)
    small = ws.compact(module, x)
    assert tuple(small[0].weight.shape) == (2, 1, 1, 1)
    assert torch.allclose(small(x), module(x), atol=1e-6)


def test_an_empty_layer_keeps_a_unit() -> None:
    module = pruned(MLP([4, 3, 3, 2]), 1.0)
    with torch.no_grad():
        module[3].weight.zero_()
    small = ws.compact(module, torch.randn(3, 4))
    assert [layer.out_features for layer in small if isinstance(layer, nn.Linear)] == [1, 1, 2]
    x = torch.randn(5, 4)
    assert torch.allclose(small(x), module(x), atol=1e-6)


@pytest.mark.parametrize("kind", [Normed, Reshaped])
def test_units_that_cannot_go_stay(kind: type[nn.Module]) -> None:
    module = kind()
    with torch.no_grad():
        module.get_parameter("last.weight")[:, 2] = 0
    small = ws.compact(module, torch.randn(3, 5))
    x = torch.randn(5, 5)
    assert size(small) == size(module)
    assert torch.allclose(small(x), module(x), atol=1e-6)


def test_masks_are_cut_with_their_weights(tickets: ws.Collection, task: ws.Task) -> None:
    masks = ws.Unstructured(0.05).mask(tickets.weights.abs(), tickets.layout)
    module = tickets.replace(weights=tickets.weights * masks, masks=masks, extras={}).module(0)
    small = ws.compact(module, task.train.x[:4])
    for layer in small:
        if isinstance(layer, nn.Linear):
            mask = layer.get_buffer("weight_mask")
            assert mask.shape == layer.weight.shape
            assert not layer.weight[~mask].any()
    small.train()(task.train.x[:4]).sum().backward()
    with torch.no_grad():
        for p in small.parameters():
            p -= 0.1 * (p.grad if p.grad is not None else 0)
    assert all(
        not layer.weight[~layer.get_buffer("weight_mask")].any() for layer in small if isinstance(layer, nn.Linear)
    )


def test_one_input_is_refused() -> None:
    with pytest.raises(ws.InputError, match="at least two inputs"):
        ws.compact(MLP([4, 3, 2]), torch.randn(1, 4))


def test_networks_of_tokens() -> None:
    module = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        module[3].weight[:, 2:5] = 0
    tokens = torch.randint(9, (4, 5))
    small = ws.compact(module, tokens)
    assert small[1].out_features == 5
    assert torch.allclose(small(tokens), module(tokens), atol=1e-6)


def test_modules_that_keep_a_computed_weight_are_copied() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: this form is old
        normed = nn.utils.weight_norm(nn.Linear(5, 6))
    module = nn.Sequential(normed, nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(4, 5)
    with torch.no_grad():
        module[2].weight[:4] = 0
    expected = module(x)  # from here on it holds a weight with a gradient
    small = ws.compact(module, x)
    assert small[2].out_features == 4
    torch.testing.assert_close(small(x), expected)

"""Networks of their live weights."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import weightspace as ws
from weightspace.kernels.live_network import LiveNetwork


def test_a_network_of_its_live_weights_computes_what_the_dense_one_does() -> None:
    module = nn.Sequential(
        nn.Linear(80, 90), nn.BatchNorm1d(90), nn.ReLU(), nn.Linear(90, 70), nn.ReLU(), nn.Linear(70, 3)
    )
    layout = ws.Layout.of(module)
    vector = layout.pack(module.state_dict())
    mask = ws.Unstructured(0.1).mask(torch.rand(layout.size, generator=torch.Generator().manual_seed(0)), layout)
    network = LiveNetwork(module, mask)
    assert network.sparse == ["0", "3"], "the last layer is too small to gain"
    x = torch.randn(7, 80)
    buffers = [{n: b.clone() for n, b in module.named_buffers()} for _ in range(2)]
    values = vector[mask].requires_grad_()
    whole = (vector * mask).requires_grad_()
    found = network(values, buffers[0], x)
    expected = functional_call(module, (layout.tensors(whole), buffers[1]), (x,))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(buffers[0]["1.running_mean"], buffers[1]["1.running_mean"])
    assert buffers[0]["1.running_mean"].any(), "training mode updates the statistics"
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(values.grad, whole.grad[mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_dense_layers_stay_dense(density: float) -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 40))
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    mask = ws.Unstructured(density).mask(torch.rand(layout.size, generator=random), layout)
    network = LiveNetwork(module, mask)
    assert network.sparse == []
    vector = torch.randn(layout.size, generator=random) * mask
    x = torch.randn(4, 1, 8, 8, generator=random)
    torch.testing.assert_close(network(vector[mask], {}, x), functional_call(module, layout.tensors(vector), (x,)))


class Reads(nn.Module):
    """A module that uses its layer's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(80, 80)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.layer.weight) + self.layer.weight.mean()


def test_a_module_that_reads_its_weights_is_called_dense() -> None:
    module = Reads()
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    mask = ws.Unstructured(0.1).mask(torch.rand(layout.size, generator=random), layout)
    network = LiveNetwork(module, mask)
    assert network.sparse == ["layer"]
    vector, x = torch.randn(layout.size, generator=random) * mask, torch.randn(4, 80, generator=random)
    for _ in range(2):
        torch.testing.assert_close(network(vector[mask], {}, x), functional_call(module, layout.tensors(vector), (x,)))
    assert network.sparse == []


class Two(nn.Module):
    """Two inputs by name, two outputs; it may take a size from its weight."""

    def __init__(self, sized: bool) -> None:
        super().__init__()
        self.sized, self.first, self.last = sized, nn.Linear(80, 90), nn.Linear(90, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.first(x).relu() * scale[:, None]
        return {"logits": self.last(h), "hidden": h / self.first.weight.shape[1] if self.sized else h}


@pytest.mark.parametrize("sized", [False, True])
def test_several_inputs_and_outputs(sized: bool) -> None:
    module, random = Two(sized), torch.Generator().manual_seed(0)
    layout = ws.Layout.of(module)
    mask = ws.Unstructured(0.1).mask(torch.rand(layout.size, generator=random), layout)
    vector = torch.randn(layout.size, generator=random) * mask
    x = {"scale": torch.rand(4, generator=random), "x": torch.randn(4, 80, generator=random)}
    network = LiveNetwork(module, mask)
    found = network(vector[mask], {}, x)
    assert network.sparse == ([] if sized else ["first"])
    torch.testing.assert_close(found, functional_call(module, layout.tensors(vector), kwargs=x), rtol=1e-4, atol=1e-4)

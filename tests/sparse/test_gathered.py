"""Layers that read their inputs in another order."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.sparse.examples import collected
from weightspace import sparse
from weightspace.sparse import MatrixConv
from weightspace.sparse.forms import CSRLinear


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), 2)], ids=["plain", "strided", "odd"]
)
def test_convolutions_through_a_matrix(stride: int, padding: int, dilation: int) -> None:
    conv = nn.Conv2d(8, 6, (3, 2), stride, padding, dilation).eval()
    x = torch.randn(3, 8, 9, 10)
    dense: Callable[[torch.Tensor, torch.Tensor | None], nn.Module] = lambda w, b: CSRLinear(w, b)  # noqa: E731
    assert torch.allclose(MatrixConv(conv, dense)(x), conv(x), atol=1e-5)
    layout = ws.Layout.of(conv)
    mask = ws.NM(2, 4).mask(layout.pack(conv.state_dict()).abs(), layout)[: conv.weight.numel()]
    conv.weight.data *= mask.reshape(conv.weight.shape)
    product = MatrixConv(conv, dense).product
    assert isinstance(product, CSRLinear)
    whole = torch.zeros(product.structure.shape)
    whole[conv.weight.detach().permute(0, 2, 3, 1).flatten(1) != 0] = product.values
    assert sparse.is_two_four(whole)  # N:M along channels is N:M along the rows of the matrix


def test_a_first_layer_gathers_its_inputs(dense: ws.Collection, task: ws.Task) -> None:
    module = dense.module(0).eval()
    x = task.test.x[:30]
    before, plain = module(x), sparse.kept_magnitude(module[1].weight.detach(), ws.NM(2, 4))
    order = sparse.gather_inputs(module, "1")
    assert torch.allclose(module(x), before, atol=1e-5)
    assert sparse.kept_magnitude(module[1].linear.weight.detach(), ws.NM(2, 4)) == pytest.approx(order.kept)
    assert order.kept > plain == pytest.approx(order.before)
    module[1].order = torch.arange(64)  # the columns moved: without the gather it is another function
    assert not torch.allclose(module(x), before, atol=1e-2)
    with pytest.raises(ws.InputError, match="not a linear layer"):
        sparse.gather_inputs(module, "0")


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_gathers_its_patches(bias: bool) -> None:
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias)
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(54, 2))
    x = torch.randn(5, 3, 6, 6)
    before = module(x)
    order = sparse.gather_inputs(module, "0")
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-5)
    assert isinstance(module[0], sparse.MatrixConv)
    product = module[0].product.weight
    assert sparse.kept_magnitude(product.detach(), ws.NM(2, 4)) == pytest.approx(order.kept)
    assert order.kept > order.before
    with torch.no_grad():  # 2:4 of the gathered matrix is a mask of the convolution, in another place
        product[:, 0] += 1.0
    assert not torch.allclose(module(x), before)
    with pytest.raises(ws.InputError, match="groups"):
        sparse.gather_inputs(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0")


def test_a_convolution_under_a_mask_stays_sparse_when_gathered() -> None:
    networks = collected(lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 2)), 1)
    mask = ws.Unstructured(0.3).mask(networks.weights.abs(), networks.layout)
    module = networks.replace(weights=networks.weights * mask, masks=mask).module(0)
    x, kept = torch.randn(5, 4, 4, 4), int((module[0].weight != 0).sum())
    before = module(x)
    sparse.gather_inputs(module, "0")
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).square().mean().backward()
    optimizer.step()
    assert int((module[0].product.weight != 0).sum()) == kept
    assert not torch.allclose(module(x), before)

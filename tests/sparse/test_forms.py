"""Compressed sparse rows equal dense layers."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.kernels.test_compiled import needs_compiler
from tests.sparse.examples import sparse_linear, ticket
from weightspace.kernels import compiled
from weightspace.sparse import MatrixConv
from weightspace.sparse.forms import CompiledCSRLinear, CSRLinear


@given(st.integers(1, 20), st.integers(1, 30), st.floats(0, 1), st.integers(1, 9), st.booleans())
def test_rows_equal_dense(outputs: int, inputs: int, density: float, batch: int, bias: bool) -> None:
    random = torch.Generator().manual_seed(outputs * 31 + inputs)
    weights = torch.randn(outputs, inputs, generator=random) * (torch.rand(outputs, inputs, generator=random) < density)
    shift = torch.randn(outputs, generator=random) if bias else None
    layer = CSRLinear(weights, shift)
    for x in (torch.randn(batch, inputs, generator=random), torch.randn(2, batch, inputs, generator=random)):
        assert torch.allclose(layer(x), nn.functional.linear(x, weights, shift), atol=1e-4)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 28)])
def test_inputs_held_by_columns_are_read_without_a_copy(shape: tuple[int, ...]) -> None:
    module = ticket()
    layer = CSRLinear(module[1].weight, module[1].bias)
    held = torch.randn(*shape, 32).movedim(-1, 0)  # (32, *shape), images last in memory
    flat = held.flatten(1)
    assert flat.data_ptr() == held.data_ptr()
    assert flat.t().is_contiguous()  # what the product reads
    torch.testing.assert_close(layer(flat), module[1](flat), rtol=1e-4, atol=1e-5)
    assert not torch.randn(32, *shape).flatten(1).t().is_contiguous()


def test_outputs_in_more_dimensions_can_be_viewed() -> None:
    x = torch.randn(16, 8, 512)
    assert CSRLinear(sparse_linear(512, 300).weight.detach(), None)(x).view(16, -1).shape == (16, 2400)
    conv = nn.Conv2d(8, 6, 3).eval()
    assert MatrixConv(conv, lambda w, b: CSRLinear(w, b))(torch.randn(2, 8, 5, 5)).view(2, -1).shape == (2, 54)


def test_a_compiled_layer_can_be_copied_saved_traced_and_run_without_its_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_compiler()
    dense, x, file = sparse_linear(90, 70, 0.1).requires_grad_(False), torch.randn(20, 90), io.BytesIO()
    layer = CompiledCSRLinear(dense.weight.detach(), dense.bias.detach())
    assert layer.nbytes == CSRLinear(dense.weight.detach(), dense.bias.detach()).nbytes - 4 * len(layer.values)
    torch.save(layer, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    called = []
    monkeypatch.setattr(CSRLinear, "forward", lambda self, x: called.append(1) or dense(x))
    for one in (layer, copy.deepcopy(layer), loaded):
        torch.testing.assert_close(one(x), dense(x), rtol=1e-4, atol=1e-5)
    assert not called
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.jit, "is_tracing", lambda: True)
        layer(x)
    assert called == [1]
    called.clear()
    monkeypatch.setattr(compiled, "_loaded", lambda: "no compiler")
    torch.testing.assert_close(layer(x), dense(x))
    assert called == [1]
    with pytest.raises(compiled.NoKernel, match="no compiler"):
        CompiledCSRLinear(dense.weight.detach(), None)

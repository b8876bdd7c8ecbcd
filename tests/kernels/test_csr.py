"""Sparse products against dense ones."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from weightspace.kernels.csr import CSRStructure


@settings(max_examples=30, deadline=None)
@given(
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 12),
    batch=st.integers(1, 5),
    density=st.floats(0, 1),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sparse_rows_multiply_and_differentiate_as_a_dense_matrix(
    outputs: int, inputs: int, batch: int, density: float, double: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    kind = torch.float64 if double else torch.float32
    mask = torch.rand(outputs, inputs, generator=random) < density
    dense = torch.randn(outputs, inputs, generator=random, dtype=kind).mul_(mask).requires_grad_()
    x = torch.randn(2, batch, inputs, generator=random, dtype=kind, requires_grad=True)
    bias = torch.randn(outputs, generator=random, dtype=kind, requires_grad=True)
    rows = CSRStructure.of(mask)
    values = dense.detach()[mask].requires_grad_()
    assert rows.nnz == mask.sum()
    found, expected = rows.linear(x, values, bias), F.linear(x, dense, bias)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=random, dtype=kind)
    own = torch.autograd.grad(found, (x, values, bias), upstream)
    other = torch.autograd.grad(expected, (x, dense, bias), upstream)
    torch.testing.assert_close(own, (other[0], other[1][mask], other[2]))

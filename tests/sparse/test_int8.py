"""Products in eight-bit integers: exact for the rounded numbers, near for the others; the same on a card."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from tests.sparse.examples import two_of_four
from weightspace import sparse
from weightspace.sparse.int8 import rounded


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_products_in_eight_bits_are_those_of_the_rounded_numbers(
    outputs: int, inputs: int, batch: int, bias: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(outputs, inputs, generator=random), torch.randn(2, batch, inputs, generator=random)
    weight[:, ::3] = 0
    x[0, 0] = 0
    added = torch.randn(outputs, generator=random) if bias else None
    integers, steps = rounded(weight)
    assert torch.equal(integers == 0, (weight / steps).round() == 0)
    assert not integers[:, ::3].any()
    assert ((integers * steps - weight).abs() <= 0.5001 * steps).all()
    assert integers.abs().amax(1).eq(127).logical_or((weight == 0).all(1)).all()
    layer = sparse.Int8Linear(weight, added, "dense")
    x_integers, x_steps = rounded(x.flatten(0, 1))
    exact = (x_integers.double() * x_steps) @ (integers.double() * steps).T + (0 if added is None else added)
    torch.testing.assert_close(layer(x).flatten(0, 1).double(), exact, rtol=1e-5, atol=1e-5)
    bound = 0.51 * (
        x.abs().sum(2, keepdim=True) * steps.T
        + (weight.abs().sum(1) + inputs * steps[:, 0]) * x_steps.view(2, batch, 1)
    )
    assert ((layer(x) - nn.functional.linear(x, weight, added)).abs() <= bound + 1e-5).all()
    assert layer(x.bfloat16()).dtype is torch.bfloat16


def test_eight_bit_layers_take_what_linear_layers_take() -> None:
    layer = sparse.Int8Linear(torch.randn(5, 12), torch.randn(5), "dense")
    assert layer(torch.randn(12)).shape == (5,)
    assert layer(torch.randn(0, 12)).shape == (0, 5)
    assert layer(torch.randn(2, 3, 12)).is_contiguous()
    x = torch.randn(3, 12)
    x[1, 2] = torch.nan
    assert layer(x).isnan().any(1).tolist() == [False, True, False]
    weight = torch.randn(5, 12)
    weight[2, 0] = torch.nan
    assert (
        sparse.Int8Linear(weight, None, "dense")(torch.randn(3, 12)).isnan().all(0).tolist()
        == [False] * 2 + [True] + [False] * 2
    )
    with pytest.raises(ws.InputError, match="inputs of length 12, got shape"):
        layer(torch.randn(3, 11))


def test_eight_bits_are_refused_where_they_do_not_run(task: ws.Task, tickets: ws.Collection) -> None:
    with pytest.raises(ws.InputError, match="not 2:4"):
        sparse.Int8Linear(torch.ones(8, 8), None, "cutlass")
    with pytest.raises(ws.InputError, match="on CUDA, the weight is on cpu"):
        sparse.Int8Linear(two_of_four(8, 8), None, "cusparselt")
    with pytest.raises(ws.InputError, match="eight-bit integers need CUDA"):
        sparse.accelerate(tickets.module(0), task.test.x[:4], device="cpu", int8=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["dense", "cutlass", "cusparselt"])
def test_eight_bits_on_a_card_are_those_of_the_cpu(backend: str) -> None:
    if backend == "cutlass" and torch.cuda.get_device_capability()[0] != 8:
        pytest.skip("torch's CUTLASS products are for compute capability 8")
    for rows, columns, batch in ((512, 1024, (60,)), (300, 784, (1,)), (10, 100, (3, 17)), (64, 64, (0,))):
        weights, bias = two_of_four(rows, columns), torch.randn(rows)
        x = torch.randn(*batch, columns)
        here = sparse.Int8Linear(weights, bias, "dense")(x)
        card = sparse.Int8Linear(weights.cuda(), bias.cuda(), backend)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(card(x.cuda()).cpu(), here, rtol=1e-4, atol=1e-4)

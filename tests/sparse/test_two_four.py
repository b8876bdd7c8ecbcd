"""2:4 matrices: checks, padding and packing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from tests.sparse.examples import two_of_four
from weightspace import sparse
from weightspace.sparse.two_four import padded, require_two_four


@given(
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from([torch.float16, torch.bfloat16, torch.int8]),
    st.integers(0, 9),
)
def test_packing_is_exact_at_every_shape(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    weights = (10 * two_of_four(rows, columns, seed)).to(dtype)
    packed = sparse.PackedTwoFour.of(weights)
    assert torch.equal(packed.dense(), weights)
    whole = padded(weights, "cutlass")
    assert packed.nbytes == whole.nbytes * (0.625 if dtype is torch.int8 else 0.5625)


def test_padding_adds_zeros_alone() -> None:
    weights = two_of_four(300, 784).bfloat16()
    for backend, shape in (("cutlass", (320, 832)), ("cusparselt", (304, 784))):
        whole = padded(weights, backend)  # pyright: ignore[reportArgumentType]
        assert tuple(whole.shape) == shape
        assert torch.equal(whole[:300, :784], weights)
        assert not whole[300:].any()
        assert not whole[:, 784:].any()
    assert tuple(padded(two_of_four(10, 100).half(), "cusparselt").shape) == (16, 112)


def test_what_torch_would_corrupt_is_refused() -> None:
    weights = two_of_four(8, 16)
    require_two_four(weights, torch.bfloat16)
    with pytest.raises(ws.InputError, match=r"float32.*1:2.*drop weights"):
        sparse.PackedTwoFour.of(weights)
    full = weights.clone()
    full[3, 8:12] = 1.0
    with pytest.raises(ws.InputError, match=r"layer: fc is not 2:4: row 3 has 4 weights in columns 8 to 11"):
        sparse.PackedTwoFour.of(full.half(), "layer: fc")
    assert sparse.is_two_four(weights)
    assert not sparse.is_two_four(full)
    assert sparse.is_two_four(torch.tensor([[1.0, 0, 0, 1, 1, 1]]))  # a shorter last group
    assert not sparse.is_two_four(torch.tensor([[1.0, 1, 0, 1]]))
    with pytest.raises(ws.InputError, match="on CUDA"):
        sparse.TwoFourLinear(weights.half(), None, "cutlass")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["cutlass", "cusparselt"])
def test_2_4_on_a_card_equals_dense(backend: str) -> None:
    if backend == "cutlass" and torch.cuda.get_device_capability()[0] != 8:
        pytest.skip("torch's CUTLASS products are for compute capability 8")
    for rows, columns in ((512, 1024), (300, 784), (10, 100)):
        weights = two_of_four(rows, columns).bfloat16().cuda()
        bias = torch.randn(rows, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(60, columns, device="cuda", dtype=torch.bfloat16)
        layer = sparse.TwoFourLinear(weights, bias, backend)  # pyright: ignore[reportArgumentType]
        expected = nn.functional.linear(x.double(), weights.double(), bias.double())
        assert ((layer(x) - expected).abs().max() / expected.abs().max()).item() < 2e-2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA as Oracle

import weightspace as ws
from weightspace.errors import InputError


def data(n: int, d: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=random, dtype=torch.float64) * torch.arange(1, d + 1) + 3


@given(st.integers(3, 12), st.integers(4, 40), st.integers(0, 50))
def test_agrees_with_scikit_learn(n: int, d: int, seed: int) -> None:
    x = data(n, d, seed)
    k = min(n - 1, d) - 1 or 1
    fitted, oracle = ws.PCA(k).fit(x), Oracle(k, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(fitted.explained_variance_ratio, oracle.explained_variance_ratio_, rtol=1e-8)
    np.testing.assert_allclose(fitted.transform(x).abs(), np.abs(oracle.transform(x.numpy())), rtol=1e-6, atol=1e-8)
    restored = oracle.inverse_transform(oracle.transform(x.numpy()))
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x)), restored, rtol=1e-7, atol=1e-8)


def test_all_components_restore_the_networks_and_fewer_do_not() -> None:
    x = data(6, 30)
    full, part = ws.PCA(5).fit(x), ws.PCA(2).fit(x)
    torch.testing.assert_close(full.inverse_transform(full.transform(x)), x)
    assert not torch.allclose(part.inverse_transform(part.transform(x)), x, atol=0.1)
    assert full.explained_variance_ratio.sum().item() == pytest.approx(1)
    assert 0.3 < part.explained_variance_ratio.sum().item() < 0.95  # of the trace, not of the kept part


def test_codes_keep_distances_inside_the_span() -> None:
    x = data(6, 30)
    codes = ws.PCA(5).fit(x).transform(x)
    torch.testing.assert_close(torch.cdist(codes, codes), torch.cdist(x, x))


def test_components_are_orthonormal_and_signs_fixed() -> None:
    fitted = ws.PCA(4).fit(data(6, 30))
    torch.testing.assert_close(fitted.components @ fitted.components.T, torch.eye(4, dtype=torch.float64))
    assert (fitted.components.gather(1, fitted.components.abs().argmax(1, keepdim=True)) > 0).all()


def test_more_components_than_networks_allow_are_refused() -> None:
    with pytest.raises(
        InputError, match="6 networks of 30 parameters have at most 5 principal components, 6 were asked"
    ):
        ws.PCA(6).fit(data(6, 30))
    with pytest.raises(InputError, match=r"differ in 2 directions only.*copies"):
        ws.PCA(4).fit(data(3, 30)[[0, 0, 1, 1, 2, 2]])
    with pytest.raises(InputError, match="at least 1"):
        ws.PCA(0)

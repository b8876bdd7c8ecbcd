import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA as Oracle
from sklearn.decomposition import IncrementalPCA

import weightspace as ws
from weightspace.errors import InputError
from weightspace.runtime import allocator


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
        InputError, match="6 networks of 30 parameters have at most 5 principal components, fewer than components = 6"
    ):
        ws.PCA(6).fit(data(6, 30))
    with pytest.raises(InputError, match=r"differ in 2 directions only.*copies"):
        ws.PCA(4).fit(data(3, 30)[[0, 0, 1, 1, 2, 2]])
    with pytest.raises(InputError, match="components must be"):
        ws.PCA(0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tickets: ws.Collection, tmp_path) -> None:
    whole = ws.PCA(5).fit(tickets.weights)
    lazy = ws.Collection.load(tickets.save(tmp_path / "c"))
    monkeypatch.setattr("weightspace.compress.columns._BYTES", 8 * 10 * 37)  # 37 columns at a time
    monkeypatch.setattr(ws.Collection, "weights", property(lambda _: pytest.fail("all weights were read")))
    blocked = ws.PCA(5).fit(lazy)
    torch.testing.assert_close(blocked.components, whole.components, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(blocked.variances, whole.variances)
    assert blocked.total_variance == pytest.approx(whole.total_variance)
    codes = blocked.transform(lazy)
    monkeypatch.undo()
    torch.testing.assert_close(codes, whole.transform(tickets.weights), rtol=1e-4, atol=1e-4)


def test_a_share_of_the_variance_is_explained_by_as_few_components_as_can() -> None:
    x = data(12, 30)
    for share in (0.3, 0.8, 0.99):
        ratio = ws.PCA(share).fit(x).explained_variance_ratio
        assert ratio.sum() >= share
        assert ratio[:-1].sum() < share
        assert len(ratio) == Oracle(share, svd_solver="full").fit(x.numpy()).n_components_
    assert len(ws.PCA(2.0).fit(x).components) == 2
    with pytest.raises(InputError, match="share of the variance"):
        ws.PCA(2.5)
    with pytest.raises(InputError, match="write 1, or a share below 1"):
        ws.PCA(1.0)


@pytest.mark.parametrize("share", [3, 0.9])
def test_many_small_networks_have_the_same_components(share: float) -> None:
    x = data(1100, 9).float()
    many, oracle = ws.PCA(share).fit(x), Oracle(share, svd_solver="full").fit(x.double().numpy())
    assert many.components.dtype == torch.float32
    np.testing.assert_allclose(many.variances, oracle.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(many.components.abs(), np.abs(oracle.components_), atol=1e-5)
    np.testing.assert_allclose(many.mean, oracle.mean_, rtol=1e-5)
    assert many.total_variance == pytest.approx(np.trace(np.cov(x.double().numpy().T)))
    few = ws.PCA(share).fit(x[:1000])  # through the other matrix
    assert few.components.shape == many.components.shape
    assert (few.components * many.components).sum(1).min() > 0.95  # signs are the same
    architecture = ws.Architecture.of(lambda: torch.nn.Linear(8, 1))
    networks = ws.Collection(architecture.layout(), x, architecture=architecture, records=[{} for _ in x])
    np.testing.assert_allclose(ws.PCA(share).fit(networks).components, many.components)


@given(st.integers(0, 30))
def test_new_networks_are_taken_in(seed: int) -> None:
    x = data(14, 40, seed)
    old, new = x[:9], x[9:]
    exact = ws.PCA(13).fit(x)
    updated = ws.PCA(8).fit(old).updated(new, components=13)  # 8 components explain 9 networks
    np.testing.assert_allclose(updated.variances, exact.variances, rtol=1e-7)
    np.testing.assert_allclose(updated.mean, exact.mean)
    np.testing.assert_allclose(updated.components.abs(), exact.components.abs(), atol=1e-5)
    assert updated.total_variance == pytest.approx(exact.total_variance)
    assert updated.networks == 14
    part = ws.PCA(3).fit(old).updated(new)
    oracle = IncrementalPCA(3).partial_fit(old.numpy()).partial_fit(new.numpy())
    np.testing.assert_allclose(part.variances, oracle.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(part.components.abs(), np.abs(oracle.components_), atol=1e-6)
    assert part.total_variance == pytest.approx(exact.total_variance)  # what was forgotten still counts
    with pytest.raises(InputError, match="40 parameters"):
        part.updated(new[:, :5])


def test_components_that_memory_has_no_room_for_are_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "main_memory", lambda: 4 * 1000 * 10)
    with pytest.raises(InputError, match="ask for at most 4"):
        ws.PCA(5).check(20, 1000)
    ws.PCA(4).check(20, 1000)
    vectors = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="ask for at most 4"):  # a share of the variance: known when it is computed
        ws.PCA(0.9).fit(vectors)
    assert len(ws.PCA(4).fit(vectors).components) == 4

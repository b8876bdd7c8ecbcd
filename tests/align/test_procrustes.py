"""Identities of balanced factors, principal axes and polar factors."""

import pytest
import torch

from weightspace.align.procrustes import balancing, polar, principal, settled_axes, triangle


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def form(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = balancing(a, b)
    a, b = found.mixing.primal @ a, found.mixing.dual @ b
    axes = settled_axes(torch.cat([a, b], -1), found.sizes)
    return axes @ a, axes @ b, found.lost


# Networks, heads, units and values; narrow factors, and products of low rank, too.
SHAPES = [((3, 2, 4, 7), (3, 2, 4, 9)), ((5, 2), (5, 8)), ((4, 4), (4, 4)), ((1, 1), (1, 3))]


@pytest.mark.parametrize(("p", "q"), SHAPES)
def test_balanced_factors(p: tuple[int, ...], q: tuple[int, ...]) -> None:
    a, b = draw(*p), draw(*q, seed=1)
    left, right, lost = form(a, b)
    size = (b.mT @ a).norm()
    assert (right.mT @ left - b.mT @ a).norm() < 1e-12 * size
    gram = left @ left.mT
    assert (gram - right @ right.mT).norm() < 1e-12 * size
    assert (gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))).norm() < 1e-12 * size
    assert (gram.diagonal(dim1=-2, dim2=-1).diff(dim=-1) <= 1e-12 * size).all()
    assert gram.diagonal(dim1=-2, dim2=-1).sum() <= (a.square().sum() + b.square().sum()) / 2 + 1e-12
    assert bool(lost.any()) == (p[-1] < p[-2])  # narrow: the other factor has more directions
    # Invariant, and idempotent.
    g = draw(*p[:-1], p[-2], seed=2)
    again, _, _ = form(g @ a, torch.linalg.inv(g).mT @ b)
    torch.testing.assert_close(again, left, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(form(left, right)[0], left, rtol=1e-9, atol=1e-10)
    # A negative control: mixing one side alone is another product.
    assert (form(g @ a, b)[0] - left).abs().max() > 1e-3


def test_a_product_of_zero_is_two_zeros_and_a_lost_rank() -> None:
    a = draw(2, 4, 7)
    left, right, lost = form(a, torch.zeros(2, 4, 5, dtype=torch.float64))
    assert not left.any()
    assert not right.any()
    assert lost.all()
    assert not form(torch.zeros_like(a), torch.zeros_like(a))[2].any()  # nothing was there that could be lost


def test_equal_singular_values_have_fixed_axes() -> None:
    a = torch.linalg.qr(draw(7, 4)).Q.mT
    a[2:] *= 2  # two pairs
    left, right, _ = form(a, a)
    for seed in range(3):
        g = draw(4, 4, seed=seed)
        again, other, _ = form(g @ a, torch.linalg.inv(g).mT @ a)
        torch.testing.assert_close(again, left, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(other, right, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(other.mT @ again, a.mT @ a)


def test_principal_axes() -> None:
    a = draw(2, 3, 5)
    mixing, sizes = principal(a)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(mixing.primal @ mixing.primal.mT, eye.expand(2, -1, -1))
    gram = (mixing.primal @ a) @ (mixing.primal @ a).mT
    torch.testing.assert_close(gram, torch.diag_embed(sizes.square()))
    torch.testing.assert_close(triangle(a).mT @ triangle(a), a @ a.mT)


@pytest.mark.parametrize("rank", [0, 1, 3, 4])
def test_the_polar_factor_is_the_best_rotation(rank: int) -> None:
    gain = draw(2, 4, rank) @ draw(2, rank, 4, seed=1)
    rotation, value = polar(gain)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(4, dtype=torch.float64).expand(2, -1, -1))
    torch.testing.assert_close((rotation * gain).sum((-2, -1)), value)
    for seed in range(20):
        other = torch.linalg.qr(draw(2, 4, 4, seed=seed)).Q
        assert ((other * gain).sum((-2, -1)) <= value + 1e-12).all()
        # Of the best rotations it is the nearest to the identity: no other that is as good has a larger trace.
        if rank < 4:
            u, _, vt = torch.linalg.svd(gain)
            free = torch.linalg.qr(draw(2, 4 - rank, 4 - rank, seed=seed)).Q
            best = u[..., :rank] @ vt[:, :rank] + u[..., rank:] @ free @ vt[:, rank:]
            traces = [m.diagonal(dim1=-2, dim2=-1).sum(-1) for m in (best, rotation)]
            assert (traces[0] <= traces[1] + 1e-9).all()

"""The order of columns under N:M: identities, bounds, brute force, the exhaustive oracle; networks reordered as a whole."""

import itertools
import math
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from experiments.common.exhaustive_order import exhaustive_order
from tests.conftest import outputs
from weightspace import sparse
from weightspace.models.resnet import ResNet


def matrix(rows: int, columns: int, seed: int, *, normal: bool = False) -> torch.Tensor:
    draw = torch.randn if normal else torch.rand
    return draw(rows, columns, generator=torch.Generator().manual_seed(seed))


def by_hand(weights: torch.Tensor, n: int, m: int) -> float:
    """The sum that N:M keeps, in plain Python."""
    total = 0.0
    for row in weights.abs().double().tolist():
        for start in range(0, len(row), m):
            total += sum(sorted(row[start : start + m], reverse=True)[:n])
    return total


@given(st.integers(1, 5), st.integers(1, 19), st.integers(1, 4), st.integers(1, 5), st.integers(0, 50))
def test_an_order_is_a_permutation_that_keeps_what_it_says(rows: int, columns: int, n: int, m: int, seed: int) -> None:
    pattern = ws.NM(min(n, m), m)
    weights = matrix(rows, columns, seed, normal=True)
    order = sparse.find_order(weights, pattern, restarts=2)
    assert sorted(order.columns.tolist()) == list(range(columns))
    assert order.before == pytest.approx(by_hand(weights, pattern.n, m))
    assert order.kept == pytest.approx(by_hand(weights[:, order.columns], pattern.n, m))
    assert order.before <= order.kept <= order.bound * (1 + 1e-12)
    mask = pattern.mask(
        torch.cat([weights[:, order.columns].abs().flatten(), torch.zeros(rows)]),
        ws.Layout.of(nn.Linear(columns, rows)),
    )
    kept = (weights[:, order.columns].abs().flatten() * mask[: rows * columns]).sum()
    assert kept.item() == pytest.approx(order.kept, rel=1e-5)  # what the pattern of the library keeps


@pytest.mark.parametrize("seed", range(5))
def test_two_groups_get_the_best_of_all_splits(seed: int) -> None:
    weights = matrix(6, 8, seed)
    splits = [[0, *rest] for rest in itertools.combinations(range(1, 8), 3)]
    best = max(by_hand(weights[:, [*s, *(k for k in range(8) if k not in s)]], 2, 4) for s in splits)
    assert len(splits) == 35
    found = sparse.find_order(weights)
    assert found.kept == pytest.approx(best)
    assert found.finished
    # Shuffling inside groups changes nothing.
    shuffled = found.columns.reshape(2, 4)[
        :, torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    ].flatten()
    assert sparse.kept_magnitude(weights[:, shuffled], ws.NM(2, 4)) == pytest.approx(found.kept)


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize(
    ("rows", "columns", "normal"), [(128, 64, False), (64, 64, True), (40, 96, False), (100, 48, False)]
)
def test_never_less_than_the_exhaustive_search_over_pairs(rows: int, columns: int, normal: bool, seed: int) -> None:
    weights = matrix(rows, columns, seed, normal=normal)
    oracle = sparse.kept_magnitude(weights[:, exhaustive_order(weights)], ws.NM(2, 4))
    found = sparse.find_order(weights)
    assert found.kept >= oracle * (1 - 1e-12)
    assert oracle > found.before


def test_nothing_is_left_to_win_at_the_end() -> None:
    """The last state of a search is a fixed point of the oracle too; the given order is not."""
    weights = matrix(32, 32, 3)
    found = sparse.find_order(weights, restarts=0)
    assert torch.equal(exhaustive_order(weights[:, found.columns]), torch.arange(32))
    assert not torch.equal(exhaustive_order(weights), torch.arange(32))


def test_more_time_and_more_restarts_never_keep_less() -> None:
    weights = matrix(48, 128, 0)
    kept = [sparse.find_order(weights, seconds=0.0).kept]
    kept += [sparse.find_order(weights, restarts=restarts).kept for restarts in (0, 3, 10)]
    assert kept == sorted(kept)
    assert sparse.find_order(weights, seconds=0.0).finished is False
    assert torch.equal(sparse.find_order(weights, restarts=3).columns, sparse.find_order(weights, restarts=3).columns)
    assert not torch.equal(
        sparse.find_order(weights, restarts=10, seed=1).columns, sparse.find_order(weights, restarts=10).columns
    )


@pytest.mark.parametrize("columns", [5, 6, 7])
def test_a_shorter_last_group_takes_part(columns: int) -> None:
    weights = matrix(6, columns, 1)
    best = max(by_hand(weights[:, list(order)], 2, 4) for order in itertools.permutations(range(columns)))
    found = sparse.find_order(weights)
    assert found.kept == pytest.approx(best)
    assert found.kept > found.before


def test_equal_columns_do_not_keep_the_search_going() -> None:
    kinds = matrix(4000, 2, 0)
    weights = kinds[:, torch.arange(32) % 2]
    found = sparse.find_order(weights, seconds=30.0, restarts=0)
    assert found.finished
    assert found.kept <= found.bound * (1 + 1e-9)


def test_bad_matrices_are_refused() -> None:
    for wrong in (torch.zeros(0, 4), torch.tensor([[1.0, float("nan")]])):
        with pytest.raises(ws.InputError, match="order"):
            sparse.find_order(wrong)
    equal = sparse.find_order(torch.ones(3, 12))
    assert torch.equal(equal.columns, torch.arange(12))
    assert equal.efficacy == 1.0  # there was nothing to win


def kept(collection: ws.Collection, pattern: ws.NM) -> torch.Tensor:
    mask = pattern.mask(collection.weights.abs(), collection.layout)
    return (collection.weights.abs() * mask).double().sum(1)


def test_reordered_networks_compute_the_same_and_lose_less(dense: ws.Collection, task: ws.Task) -> None:
    networks = dense[:3]
    found = sparse.reorder(networks)
    x = task.test.x[:50]
    assert torch.allclose(outputs(found.networks, x), outputs(networks, x), rtol=1e-9, atol=1e-10)
    gain = kept(found.networks, ws.NM(2, 4)) - kept(networks, ws.NM(2, 4))
    orders = [sum(o.kept - o.before for o in one.values()) for one in found.orders]
    assert torch.allclose(gain, torch.tensor(orders, dtype=torch.float64), atol=1e-4)
    assert (gain > 0).all()
    assert "efficacy" in str(found)
    halves = networks.replace(weights=found.networks.weights[[1, 0, 2]])  # another network's order is another network
    assert not torch.allclose(outputs(halves, x)[0], outputs(networks, x)[0])


def test_masks_extras_and_statistics_move_along(tickets: ws.Collection, task: ws.Task) -> None:
    found = sparse.reorder(tickets[:2]).networks
    x = task.test.x[:20]
    assert torch.allclose(outputs(found, x), outputs(tickets[:2], x), rtol=1e-9, atol=1e-10)
    assert torch.equal(found.masks.sum(1), tickets[:2].masks.sum(1))
    assert not torch.equal(found.masks, tickets[:2].masks)


def test_residual_networks_are_reordered_as_one() -> None:
    """Stem and blocks share channels, BatchNorm's statistics are not at their start."""
    module = ResNet((1, 1), (8, 12), inputs=1).double().eval()
    random = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand(tensor.shape, generator=random, dtype=torch.float64) + (0.5 if "var" in name else -0.5)
            )
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    before = module(x)
    layout = ws.Layout.of(module)
    mask = lambda: ws.NM(2, 4).mask(layout.pack(module.state_dict()).abs(), layout)  # noqa: E731
    first = (layout.pack(module.state_dict()).abs() * mask()).sum()
    orders = sparse.reorder_module(module, x)
    assert set(orders) >= {"stem", "blocks.0.conv1"}
    assert torch.allclose(module(x), before, rtol=1e-9, atol=1e-10)
    gain = (layout.pack(module.state_dict()).abs() * mask()).sum() - first
    assert gain.item() == pytest.approx(sum(o.kept - o.before for o in orders.values()), rel=1e-4)
    assert gain > 0


def test_flattened_channels_keep_their_place_where_groups_would_break() -> None:
    """A channel of 9 positions: which of its inputs share a group depends on its place, so that it stays."""
    module = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Flatten(), nn.Linear(72, 4)).eval()
    assert sparse.reorder_module(module, torch.randn(2, 1, 3, 3)) == {}
    wide = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 4)).eval()
    x = torch.randn(2, 1, 2, 2)
    before = wide(x)
    assert list(sparse.reorder_module(wide, x)) == ["0"]
    assert torch.allclose(wide(x), before, atol=1e-6)


class Twice(nn.Module):
    """A convolution's channels read by another one, and flattened with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 4, 1), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        return self.second(h).mean((2, 3))[:, :3] + self.head(h.permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("kind", ["transposed", "embedding", "channels last"])
def test_no_tensor_loses_what_another_one_wins(kind: str) -> None:
    if kind == "transposed":
        module, x = nn.Sequential(nn.ConvTranspose2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.randn(2, 3, 4, 4)
    elif kind == "embedding":
        module, x = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 4)), torch.randint(30, (4, 5))
    else:
        module, x = Twice(), torch.randn(2, 1, 2, 2)
    module = module.eval()
    layout = ws.Layout.of(module)
    total = lambda: float(  # noqa: E731
        (
            layout.pack(module.state_dict()).abs() * ws.NM(2, 4).mask(layout.pack(module.state_dict()).abs(), layout)
        ).sum()
    )
    before, function = total(), module(x)
    sparse.reorder_module(module, x)
    assert total() >= before * (1 - 1e-6)
    assert torch.allclose(module(x), function, atol=1e-5)


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


def collected(factory: Callable[[], nn.Module], n: int) -> ws.Collection:
    architecture = ws.Architecture.of(factory)
    layout = architecture.layout()
    weights = torch.stack([layout.pack(architecture.build_seeded(i).state_dict()) for i in range(n)])
    return ws.Collection(layout, weights, architecture=architecture)


def test_input_scores_are_what_pruning_costs_the_outputs() -> None:
    # Columns of a Hadamard matrix do not correlate: what a mask leaves out adds up to the error, row by row.
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    hadamard = torch.kron(torch.kron(signs, signs), signs)
    x = hadamard * torch.arange(1.0, 9.0)  # inputs of other sizes
    networks = collected(lambda: nn.Linear(8, 3), 2)
    scores = sparse.input_scores(networks, x)
    mask = ws.NM(2, 4).mask(scores, networks.layout)
    pruned = networks.replace(weights=networks.weights * mask, masks=mask)
    for i in range(2):
        with torch.no_grad():
            error = (networks.module(i)(x) - pruned.module(i)(x)).square().mean(0).sum()
        assert error.item() == pytest.approx(scores[i][~mask[i]].sum().item(), rel=1e-5)
        alike = x + 3  # correlated inputs: the sum is not the error
        with torch.no_grad():
            error = (networks.module(i)(alike) - pruned.module(i)(alike)).square().mean(0).sum()
        left = sparse.input_scores(networks[i : i + 1], alike)[0][~mask[i]].sum()
        assert error.item() != pytest.approx(left.item(), rel=0.01)


@pytest.mark.parametrize("groups", [1, 2])
def test_input_scores_of_convolutions_are_by_channel(groups: int) -> None:
    networks = collected(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        1,
    )
    weight = networks.layout.tensors(networks.weights)["0.weight"][0]
    x = matrix(600, 4 * 16, 0, normal=True).reshape(600, 4, 4, 4) * torch.arange(1.0, 5.0)[:, None, None]
    found = networks.layout.tensors(sparse.input_scores(networks, x))["0.weight"][0]
    for output in range(6):
        for channel in range(4 // groups):
            read = channel + (output // 3) * (4 // groups) if groups == 2 else channel
            own = weight[output, channel].square() * x[:, read].square().mean()
            torch.testing.assert_close(found[output, channel], own, rtol=1e-4, atol=1e-7)


def test_networks_reordered_by_scores_take_the_scores_along(dense: ws.Collection, task: ws.Task) -> None:
    x = task.train.x[:200]
    networks = dense[:2]
    scores = sparse.input_scores(networks, x)
    found = sparse.reorder(networks, scores=scores)
    torch.testing.assert_close(found.networks.module(1)(x), networks.module(1)(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.scores, sparse.input_scores(found.networks, x), rtol=1e-3, atol=1e-6)
    prunable, pattern = networks.layout.prunable, ws.NM(2, 4)
    own, before = pattern.mask(found.scores, networks.layout), pattern.mask(scores, networks.layout)
    by_size = sparse.reorder(networks)
    other = pattern.mask(by_size.scores, networks.layout)
    moved = sparse.input_scores(by_size.networks, x)
    for i in range(2):
        kept = found.scores[i][own[i] & prunable].sum()
        assert kept > scores[i][before[i] & prunable].sum()
        assert kept > moved[i][other[i] & prunable].sum()  # magnitudes choose another order, worth less


def test_scores_that_do_not_fit_are_refused(dense: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(ws.InputError, match="one value for each weight"):
        sparse.reorder(dense[:2], scores=torch.ones(2, 3))
    with pytest.raises(ws.InputError, match="not negative"):
        sparse.reorder(dense[:2], scores=dense[:2].weights)
    with pytest.raises(ws.InputError, match="not finite"):
        sparse.reorder(dense[:2], scores=torch.full_like(dense[:2].weights, math.nan))
    with pytest.raises(ws.InputError, match="below 0"):
        sparse.gather_inputs(dense.module(0), "1", scores=-dense.module(0)[1].weight.detach().abs())
    with pytest.raises(ws.InputError, match="does not run on inputs"):
        sparse.input_scores(dense[:1], torch.ones(3, 5))
    with pytest.raises(ws.InputError, match="no fewer than 0"):
        sparse.find_order(torch.rand(4, 8), restarts=-1)
    with pytest.raises(ws.InputError, match="all finite"):
        sparse.input_scores(dense[:1], torch.full_like(task.train.x[:2], math.nan))
    with pytest.raises(ws.InputError, match="at least one input"):
        sparse.input_scores(dense[:1], task.train.x[:0])
    attention = collected(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    with pytest.raises(ws.InputError, match=r"self_attn.in_proj_weight.* magnitudes"):
        sparse.input_scores(attention, torch.ones(2, 3, 8))
    with pytest.raises(ws.InputError, match="scores of layer 1 have one value"):
        sparse.gather_inputs(dense.module(0), "1", scores=torch.ones(2, 2))


def test_a_tickets_module_is_reordered_with_its_masks(tickets: ws.Collection, task: ws.Task) -> None:
    module, x = tickets.module(0), task.train.x[:16]
    before, kept = module(x), [int((p != 0).sum()) for p in module.parameters()]
    sparse.reorder_module(module, x, seconds=1.0, restarts=1)
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-4)
    sparse.gather_inputs(module, "1", seconds=1.0, restarts=1)
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()(x).square().mean().backward()
    optimizer.step()
    after = [int((p != 0).sum()) for p in module.parameters()]
    weights = [i for i, p in enumerate(module.parameters()) if p.ndim == 2]
    assert [after[i] for i in weights] == [kept[i] for i in weights]  # pruned weights stay zero
    assert not torch.equal(module(x), before)
    module.load_state_dict(module.state_dict())
    assert [int((p != 0).sum()) for i, p in enumerate(module.parameters()) if i in weights] == [
        kept[i] for i in weights
    ]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(10 * self.a(input=x)) + self.b(2 * x)


def test_a_weight_used_again_is_worth_the_sum_of_its_uses() -> None:
    networks, x = collected(Tied, 1), matrix(50, 4, 0, normal=True)
    module = networks.module(0)
    with torch.no_grad():
        reads = [x, 10 * module.a(x), 2 * x]
    expected = networks.weights.reshape(4, 4).square() * sum(read.square().mean(0) for read in reads)
    torch.testing.assert_close(sparse.input_scores(networks, x).reshape(4, 4), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pattern", [ws.NM(2, 1000), ws.NM(4, 4)])
def test_nothing_to_win_is_seen_at_once(pattern: ws.NM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["weightspace.sparse.order"], "ExchangeSearch", None)
    order = sparse.find_order(matrix(8, 64, 0), pattern)
    assert order.columns.tolist() == list(range(64))
    assert order.finished
    assert order.kept == order.bound
    with pytest.raises(TypeError):  # otherwise it is searched
        sparse.find_order(matrix(8, 64, 0))


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

"""Refitting kept weights: against ridge regression, exact cases, convolutions, shared weights, refusals."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import nn

import weightspace as ws
from weightspace import sparse
from weightspace.masks.patterns import Pattern
from weightspace.runtime.live_bytes import LiveBytes
from weightspace.sparse import gradients, ridge


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def collected(factory: Callable[[], nn.Module], n: int = 1) -> ws.Collection:
    architecture = ws.Architecture.of(factory)
    layout = architecture.layout()
    states = [architecture.build_seeded(i).state_dict() for i in range(n)]
    buffers = {b.name: torch.stack([state[b.name] for state in states]) for b in layout.buffers}
    weights = torch.stack([layout.pack(state) for state in states])
    return ws.Collection(layout, weights, architecture=architecture, buffers=buffers)


def pruned(networks: ws.Collection, pattern: Pattern) -> ws.Collection:
    masks = pattern.mask(networks.weights.abs(), networks.layout)
    return networks.replace(weights=networks.weights * masks, masks=masks)


def error(networks: ws.Collection, dense: ws.Collection, x: torch.Tensor) -> float:
    with torch.no_grad():
        pairs = [(networks.module(i).eval()(x), dense.module(i).eval()(x)) for i in range(len(dense))]
    return sum(float((a - b).square().mean()) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("bias", [True, False])
def test_each_row_is_a_ridge_regression(bias: bool) -> None:
    dense = collected(lambda: nn.Linear(12, 5, bias=bias))
    x = normal(80, 12) @ normal(12, 12, seed=1) + 2
    few, strength = pruned(dense, ws.Unstructured(0.4)), 0.05
    masks = few.masks.clone()
    dense.layout.tensors(masks)["weight"][0, 3] = True  # a row that keeps everything, beside others
    few = dense.replace(weights=(dense.weights + 0.1) * masks, masks=masks)
    found = sparse.refit(few, dense, x, ridge=strength)
    weight, before = found.module(0).get_parameter("weight"), few.module(0).get_parameter("weight")
    goal = dense.module(0)(x).detach()
    centred = x - x.mean(0) if bias else x
    pull = strength * centred.square().mean().item()
    counts = set()
    for row in range(5):
        kept = few.layout.tensors(few.masks)["weight"][0, row]
        counts.add(int(kept.sum()))
        start = before[row, kept].detach()
        oracle = Ridge(alpha=pull * len(x), fit_intercept=bias)
        oracle.fit(x[:, kept].numpy(), (goal[:, row] - x[:, kept] @ start).numpy())
        expected = start + torch.tensor(oracle.coef_, dtype=torch.float32)
        torch.testing.assert_close(weight[row, kept].detach(), expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(start, expected, atol=1e-2)
        if bias:
            intercept = float(oracle.intercept_)
            assert found.module(0).get_parameter("bias")[row].item() == pytest.approx(intercept, rel=1e-3, abs=1e-3)
    assert len(counts) > 1  # rows of several lengths were solved together


def test_what_the_kept_inputs_know_comes_back() -> None:
    dense = collected(lambda: nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)), 2)
    half = normal(400, 8)
    x = torch.stack([half, half], dim=2).flatten(1)  # every input twice, in one group of two
    few = pruned(dense, ws.NM(1, 2))
    layout = dense.layout
    masks = few.masks.clone()
    layout.tensors(masks)["2.weight"][:] = True
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    found = sparse.refit(few, dense, x, ridge=1e-9)
    assert error(few, dense, x) > 1e-3
    assert error(found, dense, x) < 1e-10
    first = layout.tensors(found.weights)["0.weight"].unflatten(2, (8, 2)).sum(3)
    torch.testing.assert_close(first, layout.tensors(dense.weights)["0.weight"].unflatten(2, (8, 2)).sum(3))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, (3, 2), dilation=(1, 2), bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 2 * 2, 4),
    )


@given(
    st.sampled_from([ws.NM(2, 4), ws.NM(1, 4), ws.Unstructured(0.3), ws.Unstructured(0.1, scope="layer")]),
    st.integers(0, 3),
)
def test_networks_come_nearer_to_the_dense_ones_and_masks_stay(pattern: Pattern, seed: int) -> None:
    dense = collected(conv_net, 2)
    mix = normal(3, 3, seed=seed)
    x = torch.einsum("nchw,dc->ndhw", normal(700, 3, 8, 8, seed=seed), mix)
    few = pruned(dense, pattern)
    found = sparse.refit(few, dense, x[:500])
    assert error(found, dense, x[500:]) < 0.8 * error(few, dense, x[500:])  # on inputs it has not seen
    assert torch.equal(found.masks, few.masks)
    assert not found.weights[~found.masks].any()
    assert torch.equal(sparse.refit(few, dense, x[:500]).weights, found.weights)


def test_layers_before_the_first_pruned_one_stay_and_those_behind_it_help() -> None:
    dense, x = collected(conv_net, 2), normal(600, 3, 8, 8)
    few = pruned(dense, ws.NM(2, 4))
    masks = torch.ones_like(few.masks)
    dense.layout.tensors(masks)["3.weight"][:] = dense.layout.tensors(few.masks)["3.weight"]
    few = dense.replace(weights=dense.weights * masks, masks=masks, records=[{"seed": 1, "metrics": {"a": 1}}] * 2)
    found = sparse.refit(few, dense, x[:500])
    assert found.records == [{"seed": 1}] * 2  # what was measured are not these networks
    old, new = dense.layout.tensors(dense.weights), dense.layout.tensors(found.weights)
    assert torch.equal(new["0.weight"], old["0.weight"])
    assert torch.equal(sparse.refit(dense, dense, x).weights, dense.weights)
    assert not torch.allclose(new["6.weight"], old["6.weight"], atol=1e-3)
    first = new | {"6.weight": old["6.weight"], "6.bias": old["6.bias"]}
    alone = dense.replace(
        weights=torch.stack([dense.layout.pack({n: t[i] for n, t in first.items()}) for i in range(2)])
    )
    assert error(found, dense, x[500:]) < error(alone, dense, x[500:]) < error(few, dense, x[500:])


class Language(nn.Module):
    """An embedding that shares its weight with the last layer, and a layer that runs twice, on inputs of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.hidden(torch.relu(self.hidden(self.embedding(x))))))


def test_a_weight_that_something_else_reads_stays() -> None:
    dense = collected(Language)
    x = torch.randint(20, (400, 5), generator=torch.Generator().manual_seed(0))
    masks = torch.ones_like(dense.weights, dtype=torch.bool)
    masks[:, dense.layout.slices["hidden.weight"]] = pruned(dense, ws.NM(1, 2)).masks[
        :, dense.layout.slices["hidden.weight"]
    ]
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    found = sparse.refit(few, dense, x)
    assert torch.equal(
        found.module(0).get_parameter("embedding.weight"), dense.module(0).get_parameter("embedding.weight")
    )
    assert not torch.equal(found.module(0).get_parameter("hidden.weight"), few.module(0).get_parameter("hidden.weight"))
    assert error(found, dense, x) < 0.8 * error(few, dense, x)
    with pytest.raises(ws.InputError, match="belongs to Embedding 'embedding', Linear 'last'"):
        sparse.refit(pruned(dense, ws.NM(1, 2)), dense, x)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_inputs_that_hardly_vary_are_no_reason_to_fail(scale: float) -> None:
    """A layer that lost all its weights leaves constants to the next."""
    dense = collected(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    few = pruned(dense, ws.NM(1, 2))
    masks = few.masks.clone()
    dense.layout.tensors(masks)["0.weight"][:] = False
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    x = scale + 1e-3 * normal(200, 6)
    found = sparse.refit(few, dense, x)
    assert found.weights.isfinite().all()
    torch.testing.assert_close(found.module(0)(x).mean(0), dense.module(0)(x).mean(0), rtol=1e-4, atol=1e-4)


def test_networks_in_double_precision_and_means_that_no_bias_takes_up() -> None:
    dense = collected(lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2, bias=False)).double())
    few, x = pruned(dense, ws.NM(2, 4)), (normal(300, 8) @ normal(8, 8, seed=1) + 1).double()
    found = sparse.refit(few, dense, x)
    assert found.weights.dtype is torch.float64
    assert error(found, dense, x) < 0.8 * error(few, dense, x)


def test_a_row_that_keeps_nothing_gets_the_mean_as_its_bias() -> None:
    dense, x = collected(lambda: nn.Linear(6, 2)), normal(50, 6) + torch.arange(6)
    masks = torch.ones_like(dense.weights, dtype=torch.bool)
    dense.layout.tensors(masks)["weight"][0, 0] = False
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    found = sparse.refit(few, dense, x).module(0)
    torch.testing.assert_close(found(x).mean(0), dense.module(0)(x).mean(0))
    assert not torch.allclose(few.module(0)(x).mean(0), dense.module(0)(x).mean(0), atol=0.05)
    assert found(x)[:, 0].std() < 1e-6


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.a(x), self.b(3 * x.flip(1))], dim=1)


def test_a_shared_weight_serves_all_its_uses() -> None:
    dense, x = collected(Twice), normal(200, 6) @ normal(6, 6, seed=1)
    few = pruned(dense, ws.NM(2, 3))
    found = sparse.refit(few, dense, x, ridge=1e-6)
    weight = found.module(0).get_parameter("a.weight").detach()
    inputs = torch.cat([x, 3 * x.flip(1)])
    goal = inputs @ dense.module(0).get_parameter("a.weight").T
    apart: list[float] = []  # from what one use alone would give
    for row in range(6):
        kept = weight[row] != 0
        expected = torch.linalg.lstsq(inputs[:, kept], goal[:, row]).solution
        torch.testing.assert_close(weight[row, kept], expected, rtol=1e-2, atol=1e-3)
        alone = torch.linalg.lstsq(x[:, kept], x @ dense.module(0).get_parameter("a.weight")[row]).solution
        apart.append((expected - alone).abs().max().item())
    assert max(apart) > 1e-2


def test_a_module_with_gathered_inputs_is_refitted_in_place() -> None:
    dense = ws.Architecture.of(conv_net).build_seeded(0).train()
    x = torch.einsum("nchw,dc->ndhw", normal(600, 3, 8, 8), normal(3, 3, seed=1))
    before = copy.deepcopy(dense).eval()(x)
    for layer in ("3", "6"):
        sparse.gather_inputs(dense, layer, seconds=1.0, restarts=0)
    torch.testing.assert_close(copy.deepcopy(dense).eval()(x), before, rtol=1e-4, atol=1e-5)
    module = copy.deepcopy(dense)
    module.get_submodule("1").eval()  # frozen
    layers = [module.get_submodule(name) for name in ("3.product", "6.linear")]
    with torch.no_grad():
        for layer in layers:
            layout = ws.Layout.of(layer)
            weights = layout.pack(layer.state_dict())
            layer.load_state_dict(layout.unpack(weights * ws.NM(2, 4).mask(weights.abs(), layout)))
    few = copy.deepcopy(module)
    sparse.refit_module(module, dense, x[:500])
    assert module.training
    assert not module.get_submodule("1").training
    assert all(sparse.is_two_four(layer.get_parameter("weight").detach()) for layer in layers)
    with torch.no_grad():
        far, near = ((one.eval()(x[500:]) - before[500:]).square().mean() for one in (few, module))
    assert near < 0.8 * far
    with pytest.raises(ws.InputError, match="same parameters"):
        sparse.refit_module(module, nn.Linear(2, 2), x)
    kept = copy.deepcopy(few.state_dict())
    with pytest.raises(ws.InputError, match="3.product read or returned is not finite"):
        broken = copy.deepcopy(dense)
        with torch.no_grad():
            broken.get_parameter("3.product.weight").fill_(1e38)
        sparse.refit_module(few, broken, 1e3 * x)
    assert all(torch.equal(kept[name], value) for name, value in few.state_dict().items())


class Residual(nn.Module):
    """Convolutions of several sizes, one layer beside others, batches of rows that lie across examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(3, 8, 1, stride=1)
        self.norm, self.second = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, stride=2, padding=(0, 1))
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)) + self.beside(x)).relu_()
        return self.last(self.second(x).flatten(2).permute(2, 0, 1)).mean(0)


def test_one_pass_and_passes_of_blocks_give_the_same() -> None:
    dense, x = collected(Residual), torch.einsum("nchw,dc->ndhw", normal(60, 3, 6, 6), normal(3, 3, seed=1))
    few = pruned(dense, ws.NM(2, 4))
    at_once = sparse.refit(few, dense, x)
    ran: list[int] = []
    module = dense.module(0)
    module.get_submodule("norm").register_forward_hook(lambda *_: ran.append(1))
    with LiveBytes() as whole:
        sparse.refit_module(few.module(0), module, x)
    assert len(ran) == 3  # which layers run, what they take, and one pass for all their products
    with LiveBytes() as blocks:
        in_blocks = sparse.refit(few, dense, x, memory_gb=5e-5)
    torch.testing.assert_close(in_blocks.weights, at_once.weights, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(at_once.weights, few.weights, atol=1e-2)
    assert blocks.most < 0.7 * whole.most


def squared_error(networks: ws.Collection, dense: ws.Collection, x: torch.Tensor, layer: str) -> float:
    """Of one layer's outputs, with the inputs that it gets."""
    made: list[torch.Tensor] = []
    for one in (networks, dense):
        module = one.module(0).eval()
        module.get_submodule(layer).register_forward_hook(lambda _, __, out: made.append(out.detach()))
        module(x)
    return float((made[0] - made[1]).square().mean())


@pytest.mark.parametrize("pattern", [ws.NM(2, 4), ws.Unstructured(0.2)])
def test_on_its_own_data_no_refitted_layer_is_farther_than_before(pattern: Pattern) -> None:
    dense, x = collected(Residual), torch.einsum("nchw,dc->ndhw", normal(60, 3, 6, 6), normal(3, 3, seed=1))
    few = pruned(dense, pattern)
    found = sparse.refit(few, dense, x)
    ran = ("first", "beside", "second", "last")
    for i, layer in enumerate(ran):
        names = [name for name in dense.layout.slices if name.split(".")[0] in ran[:i]]
        start = found.weights.clone()  # with this layer as it was, and those before it refitted
        for name in (name for name in dense.layout.slices if name not in names):
            start[:, dense.layout.slices[name]] = few.weights[:, dense.layout.slices[name]]
        before = few.replace(weights=start)
        assert squared_error(found, dense, x, layer) < squared_error(before, dense, x, layer)
    worse = found.replace(weights=found.weights + 0.1 * normal(*found.weights.shape) * found.masks)
    assert squared_error(worse, dense, x, "first") > squared_error(found, dense, x, "first")


def test_wide_rows_come_as_near_as_narrow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, x = collected(lambda: nn.Linear(40, 12)), normal(50, 40) @ normal(40, 40, seed=1) + 3
    few = pruned(dense, ws.Unstructured(0.5))
    narrow = error(sparse.refit(few, dense, x), dense, x)
    monkeypatch.setattr(ridge, "_DIRECT", 15)
    monkeypatch.setattr(gradients, "_LEADING", 4)
    wide = sparse.refit(few, dense, x)
    assert error(wide, dense, x) == pytest.approx(narrow, rel=1e-3)
    assert not wide.weights[~wide.masks].any()
    monkeypatch.setattr(gradients, "_STEPS", 1)  # each step comes nearer: one alone is no harm, and not enough
    with pytest.warns(UserWarning, match="rows of a layer are not solved to the end after 1 steps"):
        short = sparse.refit(few, dense, x)
    assert 1.01 * narrow < error(short, dense, x) < error(few, dense, x)


class Choosing(nn.Module):
    """Runs another layer where the first example is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x[-1, 0] > 0 else self.b(x)


def test_a_network_that_runs_other_layers_later_is_refused() -> None:
    dense, x = collected(Choosing), normal(20, 4).abs()
    few = pruned(dense, ws.NM(1, 2))
    masks = few.masks.clone()
    for name in ("b.weight", "b.bias"):
        masks[:, dense.layout.slices[name]] = True
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    sparse.refit(few, dense, x)
    with pytest.raises(ws.InputError, match="which layers run must not depend on the inputs"):
        sparse.refit(few, dense, torch.cat([x, -x]))


def test_what_cannot_be_refitted_is_refused() -> None:
    dense, x = collected(conv_net, 2), normal(4, 3, 8, 8)
    few = pruned(dense, ws.NM(2, 4))
    with pytest.raises(ws.InputError, match="needs its dense one: got 2 and 1"):
        sparse.refit(few, dense[:1], x)
    with pytest.raises(ws.InputError, match="ridge"):
        sparse.refit(few, dense, x, ridge=0.0)
    with pytest.raises(ws.InputError, match="memory_gb"):
        sparse.refit(few, dense, x, memory_gb=0.0)
    with pytest.raises(ws.InputError, match="at least one input"):
        sparse.refit(few, dense, x[:0])
    with pytest.raises(ws.InputError, match="all finite"):
        sparse.refit(few, dense, torch.full_like(x, torch.nan))
    with pytest.raises(ws.InputError, match="does not run on inputs"):
        sparse.refit(few, dense, x[:, :2])
    with pytest.raises(ws.LayoutMismatch):
        sparse.refit(few, collected(lambda: nn.Linear(3, 2), 2), x)
    grouped = collected(lambda: nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ws.InputError, match=r"weight was pruned and cannot be refitted: it belongs to Conv2d"):
        sparse.refit(pruned(grouped, ws.Unstructured(0.5)), grouped, normal(4, 4, 5, 5))

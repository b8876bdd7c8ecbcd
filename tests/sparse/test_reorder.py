"""Hidden units in the order that N:M pruning keeps most of."""

import math

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.fixtures import outputs
from tests.sparse.examples import collected, kept
from weightspace import sparse
from weightspace.models.resnet import ResNet


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
    with pytest.raises(ws.InputError, match="restarts must be a whole number of at least 0"):
        sparse.find_order(torch.rand(4, 8), restarts=-1)
    with pytest.raises(ws.InputError, match="all finite"):
        sparse.input_scores(dense[:1], torch.full_like(task.train.x[:2], math.nan))
    with pytest.raises(ws.InputError, match="at least one input"):
        sparse.input_scores(dense[:1], task.train.x[:0])
    attention = collected(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    with pytest.raises(ws.InputError, match=r"self_attn.in_proj_weight.* magnitudes"):
        sparse.input_scores(attention, torch.ones(2, 3, 8))
    with pytest.raises(ws.InputError, match="scores of layer 1 must have one value"):
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

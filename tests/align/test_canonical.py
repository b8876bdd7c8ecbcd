"""The canonical form of networks whose units can be mixed."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.align.linear import TABLES, hidden, outputs, population
from weightspace.align import WeightMatching, canonical
from weightspace.errors import InputError, LayoutMismatch
from weightspace.networks.record import Extra
from weightspace.symmetry import Axis, Group, Symmetry


@pytest.mark.parametrize("name", TABLES)
def test_one_form_for_all_bases(name: str) -> None:
    networks, symmetry, x = population(name)
    form = canonical(networks, symmetry)
    size = outputs(networks, x).abs().max()
    assert (outputs(form, x) - outputs(networks, x)).abs().max() < 1e-12 * size
    copies = hidden(networks, symmetry, "general", "orthogonal")
    assert (copies.weights - networks.weights).norm(dim=1).min() > 1
    torch.testing.assert_close(canonical(copies, symmetry).weights, form.weights, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(canonical(form, symmetry).weights, form.weights, rtol=1e-7, atol=1e-8)
    assert (form.weights.norm(dim=1) <= networks.weights.norm(dim=1) + 1e-12).all()
    # One network does not depend on the others.
    assert torch.equal(canonical(networks[1:], symmetry).weights, form.weights[1:])
    # Another function has another form.
    other = networks.replace(weights=networks.weights + 0.01)
    assert (canonical(other, symmetry).weights - form.weights).abs().max() > 1e-3


def test_adapters_in_single_precision_and_at_their_start() -> None:
    networks, symmetry, x = population("adapter", dtype=torch.float32)
    assert canonical(networks, symmetry).weights.dtype == torch.float32
    torch.testing.assert_close(outputs(canonical(networks, symmetry), x), outputs(networks, x), rtol=1e-5, atol=1e-5)
    weights = networks.weights.clone()
    weights[0, networks.layout.slices["1.weight"]] = 0  # LoRA's B
    start = networks.replace(weights=weights)
    with pytest.warns(UserWarning, match="'r' of 1 of 3 networks have directions that are made and not read"):
        form = canonical(start, symmetry)
    assert not form.weights[0].any()
    assert form.weights[1:].any()
    # Rank one, exactly and but for rounding.
    rank_one = networks.replace(weights=networks.weights[:, :1].expand(-1, networks.layout.size).clone())
    copies = hidden(rank_one, symmetry)
    forms = [canonical(some, symmetry) for some in (rank_one, copies)]
    torch.testing.assert_close(forms[0].weights, forms[1].weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs(forms[1], x), outputs(rank_one, x), rtol=1e-4, atol=1e-4)
    assert (forms[1].layout.tensors(forms[1].weights)["0.weight"].abs().amax(2) > 0).sum(1).tolist() == [1, 1, 1]


def test_rewound_weights_move_along() -> None:
    networks, symmetry, x = population("adapter")
    rewind = networks.weights.flip(0) + 0.3
    form = canonical(networks.replace(extras={Extra.REWIND: rewind}), symmetry)
    assert not torch.equal(form.extras[Extra.REWIND], rewind)
    torch.testing.assert_close(
        outputs(networks.replace(weights=form.extras[Extra.REWIND]), x), outputs(networks.replace(weights=rewind), x)
    )


def test_what_cannot_be_mixed_is_refused() -> None:
    networks, symmetry, _ = population("adapter")
    masks = torch.ones_like(networks.weights, dtype=torch.bool)
    masks[:, 0] = False
    with pytest.raises(InputError, match=r"masks cannot be mixed.*rotate=False.*masks=None"):
        canonical(networks.replace(weights=networks.weights * masks, masks=masks), symmetry)
    with pytest.raises(InputError, match=r"extra 'std', which cannot be mixed.*extras=\{\}"):
        canonical(networks.replace(extras={Extra.STD: networks.weights.abs()}), symmetry)
    with pytest.raises(LayoutMismatch, match="another layout"):
        canonical(population("deep")[0], symmetry)
    mlp = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe("1it")), 1)
    with pytest.raises(InputError, match="no units of .* can be mixed"):
        canonical(mlp, ws.WeightMatching().symmetry_of(mlp))


class Directed(nn.Module):
    """A constant direction, held as a buffer, among units that can be mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(3, 5)
        self.register_buffer("direction", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x) + self.direction)


def test_buffers_are_mixed_like_weights() -> None:
    architecture = ws.Architecture.of(Directed)
    layout = architecture.layout()
    makes, reads = (Axis("a.weight", 0), Axis("a.bias", 0), Axis("direction", 0)), (Axis("b.weight", 1),)
    symmetry = Symmetry(layout, (Group("units", 3, makes, reads, linear="general", dual=reads),))
    random = torch.Generator().manual_seed(0)
    weights, direction = torch.randn(2, layout.size, generator=random), torch.arange(3.0).expand(2, -1)
    networks = ws.Collection(layout, weights, architecture=architecture, buffers={"direction": direction})
    x = torch.randn(4, 6, generator=random)
    matching = WeightMatching(symmetry, rotate=True).fit(networks, example=x)
    for moved in (canonical(networks, symmetry), matching.transform(networks)):
        assert (moved.buffers["direction"] - direction).abs().min() > 1e-3
        torch.testing.assert_close(outputs(moved, x), outputs(networks, x), rtol=1e-4, atol=1e-4)

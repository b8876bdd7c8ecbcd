"""Signs of odd units: planted elements are found exactly, and everything that belongs to a weight flips with it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations, product

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.symmetry.examples import Recurrent
from weightspace.align import MergeMany, PrecisionCost, Star, Universe, WassersteinCost, WeightCost, WeightMatching
from weightspace.align.activation_matching import ActivationMatching
from weightspace.align.matcher import Matcher, _State
from weightspace.align.signs import without_signs
from weightspace.networks.record import Extra
from weightspace.symmetry import Axis, Group, Symmetry


class Sine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def net(*activations: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for activation in activations for layer in (nn.Linear(8, 8), activation)]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def tanh() -> nn.Module:
    return net(nn.Tanh(), nn.Tanh())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tanh": (tanh, (8, 8)),
    "sine": (lambda: net(Sine(), Sine()), (8, 8)),
    "linear, then ReLU": (lambda: net(nn.Identity(), nn.ReLU()), (8, 8)),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)),
        (8, 2, 4, 4),
    ),
    "norm without scale": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh(), nn.Linear(6, 3)),
        (8, 8),
    ),
    "recurrent": (lambda: Recurrent(nn.RNN(4, 6), 6), (3, 4, 4)),
}


@cache
def population(name: str, count: int = 4) -> tuple[ws.Collection, Symmetry, torch.Tensor]:
    make, shape = NETWORKS[name]
    architecture = ws.Architecture.of(make)
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(count, layout.size, generator=random)
    buffers = {
        e.name: torch.rand(count, *e.shape, generator=random) if e.shape else torch.zeros(count).long()
        for e in layout.buffers
    }
    networks = ws.Collection(layout, weights, architecture=architecture, buffers=buffers)
    x = torch.randn(shape, generator=random)
    return networks, WeightMatching().symmetry_of(networks, x), x


def hidden(networks: ws.Collection, symmetry: Symmetry, seed: int = 1) -> ws.Collection:
    """The same functions under random permutations, signs, and scales where there are any."""
    random = torch.Generator().manual_seed(seed)
    weights, buffers = [], []
    for i in range(len(networks)):
        order, signs = symmetry.random(random), symmetry.random_signs(random)
        scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups if g.homogeneous}
        weights.append(symmetry.permute(symmetry.flip(symmetry.scale(networks.weights[i], scales), signs), order))
        one = {n: b[i] for n, b in networks.buffers.items()}
        buffers.append(symmetry.permute_buffers(symmetry.flip_buffers(one, signs), order))
    return networks.replace(
        weights=torch.stack(weights), buffers={n: torch.stack([b[n] for b in buffers]) for n in networks.buffers}
    )


def outputs(networks: ws.Collection, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([networks[i].module().eval()(x) for i in range(len(networks))]).detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_copies_are_found(name: str) -> None:
    networks, symmetry, x = population(name)
    assert symmetry.odd
    copies = hidden(networks, symmetry)
    torch.testing.assert_close(outputs(copies, x), outputs(networks, x), rtol=1e-3, atol=1e-4)
    fitted = WeightMatching(symmetry, population=Star()).fit(networks, example=x)
    aligned, again = fitted.transform(networks[:1]), fitted.transform(copies[:1])
    torch.testing.assert_close(again.weights, aligned.weights, rtol=1e-5, atol=1e-5)
    for buffer, values in aligned.buffers.items():
        torch.testing.assert_close(again.buffers[buffer], values)
    torch.testing.assert_close(outputs(fitted.transform(copies), x), outputs(networks, x), rtol=1e-3, atol=1e-4)
    # Without signs they are not found.
    unsigned = WeightMatching(without_signs(symmetry), population=Star()).fit(networks, example=x)
    assert (unsigned.transform(copies[:1]).weights - unsigned.transform(networks[:1]).weights).abs().max() > 0.1


@pytest.mark.parametrize("signed", [(True,), (True, False), (False,)])
def test_one_group_by_brute_force(signed: tuple[bool, ...]) -> None:
    layout = ws.Layout.of(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)))
    group = Group("units", 3, (Axis("0.weight", 0), Axis("0.bias", 0)), (Axis("2.weight", 1),), odd=True)
    symmetry = Symmetry(layout, (group,))
    random = torch.Generator().manual_seed(0)
    reference, network = torch.randn(2, len(signed), layout.size, dtype=torch.float64, generator=random)

    def moved(order: tuple[int, ...], signs: tuple[float, ...]) -> torch.Tensor:
        sign = {"units": torch.tensor(signs, dtype=torch.float64)}
        rows = [symmetry.flip(row, sign) if flips else row for row, flips in zip(network, signed, strict=True)]
        return symmetry.permute(torch.stack(rows), {"units": torch.tensor(order)})

    best = max(
        (reference * moved(order, signs)).sum().item()
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
    )
    match = Matcher(symmetry, reference, signed).match(network)
    assert match.value == pytest.approx(best)
    assert match.converged
    found = moved(tuple(match.permutations["units"].tolist()), tuple(match.signs["units"].tolist()))
    assert (reference * found).sum().item() == pytest.approx(best)


@pytest.mark.parametrize("name", ["tanh", "recurrent", "batch norm"])
def test_every_step_raises_the_inner_product_and_gains_stay_up_to_date(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, symmetry, _ = population(name)
    reference, network = networks.weights[:2].double()[:, None]
    matcher = Matcher(symmetry, reference)
    values: list[float] = []
    improve = _State.improve

    def watched(self: _State, root: Group, settled: set[str] | None) -> bool:
        result = improve(self, root, settled)
        if settled is None:
            values.append(sum(float((matcher.reference[n] * t).sum()) for n, t in self.current.items()))
        for key, gram in self.grams.items():
            fresh = _State(matcher, self.current)
            group = symmetry.by_name[key[0]]
            torch.testing.assert_close(gram, fresh._gram(group, key[1], key[2], matcher.features(*key)))
        return result

    monkeypatch.setattr(_State, "improve", watched)
    match = matcher.match(network)
    assert all(a <= b + 1e-9 for a, b in pairwise(values))
    moved = symmetry.permute(symmetry.flip(network, match.signs), match.permutations)
    assert match.value == pytest.approx(float((reference * moved).sum()))
    monkeypatch.undo()
    unsigned = Matcher(without_signs(symmetry), reference).match(network)
    assert unsigned.signs == {}
    if name == "recurrent":
        assert match.value > unsigned.value


def test_everything_that_belongs_to_a_weight_flips_with_it() -> None:
    networks, symmetry, x = population("tanh")
    random = torch.Generator().manual_seed(3)
    masks = torch.rand(networks.weights.shape, generator=random) < 0.5
    masks |= ~networks.layout.prunable
    tickets = networks.replace(
        weights=networks.weights * masks,
        masks=masks,
        extras={
            Extra.REWIND: 2 * networks.weights,
            "my gradient": -networks.weights,
            Extra.STD: networks.weights.abs() + 0.1,
            Extra.GATE_LOGITS: networks.weights + 1,
            "my variance": networks.weights.square(),
        },
    )
    for cost in (WeightCost(), WassersteinCost(), PrecisionCost(), WeightCost(("weights", Extra.STD))):
        fitted = WeightMatching(symmetry, cost=cost).fit(tickets, example=x)
        aligned = fitted.transform(tickets)
        torch.testing.assert_close(outputs(aligned, x), outputs(tickets, x))
        assert torch.equal(aligned.weights != 0, aligned.masks & (aligned.weights != 0))
        signed = aligned.extras[Extra.REWIND]
        assert torch.equal(torch.where(aligned.masks, signed, 0.0), 2 * aligned.weights)
        assert torch.equal(aligned.extras["my gradient"], -0.5 * signed)
        size = 0.5 * signed.abs()
        torch.testing.assert_close(aligned.extras[Extra.STD], size + 0.1)
        torch.testing.assert_close(aligned.extras["my variance"], size.square())
        # Logits of gates move, and do not flip.
        orders = fitted.permutations(tickets)
        flipped = [bool((match.signs[g.name] < 0).any()) for match in orders for g in symmetry.odd]
        assert any(flipped)
        logits = [
            symmetry.permute(row, m.permutations)
            for row, m in zip(tickets.extras[Extra.GATE_LOGITS], orders, strict=True)
        ]
        assert torch.equal(aligned.extras[Extra.GATE_LOGITS], torch.stack(logits))


@pytest.mark.parametrize("scheme", [None, Star(), MergeMany(), Universe()])
def test_every_population_scheme_uses_signs(scheme: object) -> None:
    networks, symmetry, x = population("tanh", 1)
    random = torch.Generator().manual_seed(2)
    same = ws.Collection.concatenate([networks] * 5)
    noisy = same.replace(weights=same.weights + 0.02 * torch.randn(same.weights.shape, generator=random))
    copies = hidden(noisy, symmetry)
    matching = WeightMatching(symmetry) if scheme is None else WeightMatching(symmetry, population=scheme)
    fitted = matching.fit(copies, example=x)
    aligned = fitted.transform(copies)
    assert (aligned.weights - fitted.reference["weights"]).abs().max() < 0.2  # all are one network but for the noise
    torch.testing.assert_close(outputs(aligned, x), outputs(copies, x), rtol=1e-3, atol=1e-4)


def test_a_saved_matching_flips_as_before(tmp_path: object) -> None:
    networks, symmetry, x = population("tanh")
    fitted = WeightMatching(symmetry).fit(networks, example=x)
    fitted.save(tmp_path / "m")
    again = type(fitted).load(tmp_path / "m")
    assert torch.equal(again.transform(networks).weights, fitted.transform(networks).weights)
    assert again.symmetry.odd


def test_responses_of_the_opposite_sign_are_the_same_unit() -> None:
    networks, symmetry, _ = population("tanh")
    random = torch.Generator().manual_seed(4)
    x = torch.randn(64, 8, generator=random)
    copies = hidden(networks[:1], symmetry)
    fitted = ActivationMatching().fit(networks[:1], x)
    torch.testing.assert_close(fitted.transform(copies).weights, networks[:1].weights, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Own:
    """A cost that does not say what changes sign."""

    fields: tuple[str, ...] = ("weights",)
    rescaled: tuple[str, ...] = ()

    def of_reference(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
        return fields["weights"][None]

    def of_network(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
        return fields["weights"][None]


@dataclass(frozen=True)
class OwnSigned(Own):
    """One that does."""

    signed: tuple[bool, ...] = (True,)


def test_a_cost_of_ones_own_says_what_changes_sign() -> None:
    networks, _, x = population("tanh")
    with pytest.warns(UserWarning, match="Own does not say which of its features change sign"):
        fitted = WeightMatching(cost=Own()).fit(networks, example=x)
    assert not fitted.symmetry.odd
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = WeightMatching(cost=OwnSigned()).fit(networks, example=x)
    assert fitted.symmetry.odd
    usual = WeightMatching(fitted.symmetry).fit(networks, example=x)
    assert torch.equal(fitted.transform(networks).weights, usual.transform(networks).weights)


def test_networks_without_odd_units_are_matched_as_before() -> None:
    networks, _, x = population("tanh")
    relu = ws.Architecture.of(lambda: net(nn.ReLU(), nn.GELU()))
    networks = ws.Collection(relu.layout(), networks.weights, architecture=relu)
    fitted = WeightMatching().fit(networks, example=x)
    assert not fitted.symmetry.odd
    assert all(match.signs == {} for match in fitted.permutations(networks))
    assert "odd" not in str(fitted.to_json())

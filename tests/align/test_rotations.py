"""Alignment by rotations: planted elements of every kind are found, and every step raises the inner product."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from tests.align.linear import TABLES, hidden, outputs, population
from tests.symmetry.examples import Attention
from weightspace.align import (
    FittedMatching,
    GrowingMean,
    MergeMany,
    PopulationScheme,
    Star,
    Universe,
    WassersteinCost,
    WeightCost,
    WeightMatching,
)
from weightspace.align.bases import rows_of, without_other_factors
from weightspace.align.matcher import Matcher, _State
from weightspace.errors import InputError
from weightspace.networks.record import Extra
from weightspace.symmetry import Group, Symmetry, trace


def fitted(name: str, population_scheme: PopulationScheme = GrowingMean()) -> FittedMatching:
    networks, symmetry, x = population(name)
    return WeightMatching(symmetry, population=population_scheme, rotate=True).fit(networks, example=x)


@pytest.mark.parametrize("name", TABLES)
def test_copies_hidden_by_all_kinds_are_found(name: str) -> None:
    networks, symmetry, x = population(name, 2)
    matching = WeightMatching(symmetry, population=Star(), rotate=True).fit(networks, example=x)
    copies = hidden(networks, symmetry)
    aligned, again = matching.transform(networks), matching.transform(copies)
    band = (aligned.weights[0] - aligned.weights[1]).norm()
    assert (aligned.weights - again.weights).norm(dim=1).max() < 1e-6 * band  # scales were drawn in single precision
    torch.testing.assert_close(outputs(again, x), outputs(networks, x), rtol=1e-5, atol=1e-5)
    # By permutations alone they are not.
    plain = WeightMatching(symmetry).fit(networks, example=x)
    assert not any(match.matrices for match in plain.permutations(networks))
    assert (plain.transform(copies).weights - plain.transform(networks).weights).norm(dim=1).min() > 0.01 * band
    # Another network stays far.
    other = networks.replace(weights=networks.weights.roll(1, 0) + 0.1)
    assert (matching.transform(other).weights - aligned.weights).norm(dim=1).min() > 0.1 * band


@pytest.mark.parametrize("scheme", [GrowingMean(), Star(1), MergeMany(3)])
def test_population_schemes_rotate(scheme: PopulationScheme) -> None:
    networks, symmetry, x = population("attention", 1)
    random = torch.Generator().manual_seed(2)
    same = ws.Collection.concatenate([networks] * 4)
    noise = 0.001 * torch.randn(same.weights.shape, generator=random, dtype=torch.float64)
    copies = hidden(same.replace(weights=same.weights + noise), symmetry)
    matching = WeightMatching(symmetry, population=scheme, rotate=True).fit(copies, example=x)
    aligned = matching.transform(copies)
    assert (aligned.weights - aligned.weights.mean(0)).abs().max() < 0.02
    assert (copies.weights - copies.weights.mean(0)).abs().max() > 1
    torch.testing.assert_close(outputs(aligned, x), outputs(copies, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["deep", "attention"])
def test_every_step_raises_the_inner_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, symmetry, _ = population(name)
    symmetry = without_other_factors(symmetry)
    reference, network = networks.weights[:2, None]
    matcher = Matcher(symmetry, reference, rotate=True)
    values: list[float] = []
    improve = _State.improve

    def watched(self: _State, root: Group, settled: set[str] | None) -> bool:
        result = improve(self, root, settled)
        if settled is None:
            values.append(sum(float((matcher.reference[n] * t).sum()) for n, t in self.current.items()))
        return result

    monkeypatch.setattr(_State, "improve", watched)
    match = matcher.match(network)
    assert len(values) > (name == "deep")
    assert all(after >= before - 1e-12 * abs(before) for before, after in pairwise(values))
    assert match.converged
    assert match.value == pytest.approx(values[-1])
    assert match.value > float((reference * network).sum())
    # The matrices and permutations do what was done on the way.
    moved = symmetry.permute(symmetry.mix(network[0], match.matrices), match.permutations)
    assert float((reference[0] * moved).sum()) == pytest.approx(match.value)
    for matrix in match.matrices.values():
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(matrix.shape[-1]).double().expand_as(matrix))


def test_heads_by_brute_force() -> None:
    """No order of heads, with the best rotation of each pair, is better than the one that was found."""
    networks, symmetry, _ = population("attention")
    alone = Symmetry(symmetry.layout, symmetry.groups[1:])  # the stream stays
    reference, network = networks.weights[:2]
    match = Matcher(alone, reference[None], rotate=True).match(network[None])
    values: list[float] = []
    for order in permutations(range(3)):
        moved = alone.permute(network, alone.identity() | {"heads": torch.tensor(order)})
        inside = 0.0
        for group in symmetry.linear:
            for h in range(3):
                grams = [
                    rows_of(a[None], alone, group, axis)[0, h] @ rows_of(b[None], alone, group, axis)[0, h].T
                    for axis in group.axes
                    for a, b in [(alone.layout.tensors(v)[axis.tensor] for v in (reference, moved))]
                ]
                inside += float(torch.linalg.svdvals(torch.stack(grams).sum(0)).sum())
        values.append(inside)
    still = [entry.name for entry in alone.layout.parameters if not entry.name.startswith(("qkv", "out.weight"))]
    fixed = sum(float((reference[at] * network[at]).sum()) for at in map(alone.layout.slices.get, still) if at)
    assert match.value == pytest.approx(max(values) + fixed)
    assert min(values) < max(values) - 0.1


class Grouped(nn.Module):
    """Four heads of queries that share two of keys and values, in a stream that rotates."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.q, self.kv = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.end, self.norm = nn.Linear(8, 8), nn.Linear(8, 2), nn.RMSNorm(8, elementwise_affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        h = self.norm(x)
        n, t, _ = h.shape
        q = self.q(h).view(n, t, 4, 2).transpose(1, 2)
        k, v = (part.view(n, t, 2, 2).transpose(1, 2) for part in self.kv(h).chunk(2, -1))
        h = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.end(self.norm(x + self.out(h.transpose(1, 2).reshape(n, t, 8))))


@pytest.mark.parametrize(("make", "kinds"), [(Attention, {"general"}), (Grouped, {"general", "orthogonal"})])
def test_copies_of_traced_networks_are_found(make: Callable[[], nn.Module], kinds: set[str]) -> None:
    architecture = ws.Architecture.of(make)
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    symmetry = trace(architecture.build_seeded(0), x)
    assert {group.linear for group in symmetry.linear} == kinds
    states = [architecture.layout().pack(architecture.build_seeded(i).state_dict()) for i in range(3)]
    weights = torch.stack([states[0] + 0.5 * state for state in states[1:]])
    networks = ws.Collection(architecture.layout(), weights, architecture=architecture)
    copies = hidden(networks, symmetry)
    matching = WeightMatching(population=Star(), rotate=True).fit_proven(networks, symmetry)
    aligned, again = matching.transform(networks), matching.transform(copies)
    band = (aligned.weights[0] - aligned.weights[1]).norm()
    assert (copies.weights - networks.weights).norm(dim=1).min() > band
    assert (again.weights - aligned.weights).norm(dim=1).max() < 1e-5 * band
    torch.testing.assert_close(outputs(again, x), outputs(networks, x), rtol=1e-3, atol=1e-5)


def test_what_moves_along_and_what_is_refused(tmp_path: Path) -> None:
    networks, symmetry, x = population("adapter")
    parent = networks.weights + 0.3
    with_parents = networks.replace(extras={Extra.PARENT: parent})
    for cost in (WeightCost(), WeightCost(("parent",))):
        matching = WeightMatching(symmetry, rotate=True, cost=cost).fit(with_parents, example=x)
        aligned = matching.transform(with_parents)
        torch.testing.assert_close(outputs(aligned, x), outputs(networks, x))
        moved = networks.replace(weights=aligned.extras[Extra.PARENT])
        torch.testing.assert_close(outputs(moved, x), outputs(networks.replace(weights=parent), x))
    with pytest.raises(InputError, match=r"rotate=True compares vectors that can be mixed.*WassersteinCost"):
        WeightMatching(rotate=True, cost=WassersteinCost())
    with pytest.raises(InputError, match=r"rotate=True compares vectors that can be mixed.*std"):
        WeightMatching(rotate=True, cost=WeightCost(("weights", "std")))
    with pytest.raises(InputError, match="Universe maps networks by permutations and signs"):
        WeightMatching(rotate=True, population=Universe())
    masks = torch.ones_like(networks.weights, dtype=torch.bool)
    masks[:, 1:3] = False
    sparse = networks.replace(weights=networks.weights * masks, masks=masks)
    matching = WeightMatching(symmetry, rotate=True).fit(networks, example=x)
    for refused in (sparse, networks.replace(extras={Extra.STD: networks.weights.abs()})):
        with pytest.raises(InputError, match="cannot be mixed"):
            WeightMatching(symmetry, rotate=True).fit(refused, example=x)
        with pytest.raises(InputError, match="cannot be mixed"):
            matching.transform(refused)
    # A sparse network is compared as the dense one that it is.
    dense = networks.replace(weights=networks.weights * masks)
    assert torch.equal(matching.compared(sparse).weights, matching.transform(dense).weights)


def test_saved_and_in_a_pool_it_is_the_same(tmp_path: Path) -> None:
    networks, symmetry, x = population("attention")
    matching = fitted("attention")
    aligned = matching.transform(networks)
    matching.save(tmp_path / "rotated")
    again = FittedMatching.load(tmp_path / "rotated")
    assert again.rotate
    assert torch.equal(again.transform(networks).weights, aligned.weights)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(matching.transform(networks, executor=pool).weights, aligned.weights)
    plain = WeightMatching(symmetry).fit(networks, example=x)
    assert "rotate" not in plain.to_json()
    plain.save(tmp_path / "plain")
    assert not FittedMatching.load(tmp_path / "plain").rotate

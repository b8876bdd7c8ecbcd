"""The matcher against brute force, planted permutations and gains computed anew."""

from itertools import permutations as orders
from itertools import product

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

import weightspace as ws
from tests.align.examples import gated
from tests.symmetry.examples import Attention
from weightspace.align.matcher import Matcher
from weightspace.symmetry import Symmetry, trace


def gain(symmetry: Symmetry, a: torch.Tensor, b: torch.Tensor, order: dict[str, torch.Tensor]) -> float:
    return float(a @ symmetry.permute(b, order))


def match(reference: torch.Tensor, network: torch.Tensor, symmetry: Symmetry) -> dict[str, torch.Tensor]:
    return Matcher(symmetry, reference[None]).match(network[None]).permutations


STRUCTURED = {
    "heads": (Attention, (2, 7, 5)),
    "grouped convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 3)
        ),
        (2, 3, 8, 8),
    ),
    "LSTM": (gated, (5, 2, 4)),
    "ResNet-20": (lambda: ws.models.ResNet20(width=0.5), (2, 3, 16, 16)),
}


def derive(arch: ws.Architecture) -> Symmetry:
    return trace(arch.build_seeded(0), arch.example(16))


def test_planted_permutations_are_recovered(dense: ws.Collection, symmetry) -> None:
    random = torch.Generator().manual_seed(0)
    for i in range(5):
        network = dense.weights[i].double()
        planted = symmetry.random(random)
        found = match(network, symmetry.permute(network, planted), symmetry)
        assert all(torch.equal(planted[name][found[name]], torch.arange(len(planted[name]))) for name in planted)


def test_matching_never_lowers_the_inner_product(dense: ws.Collection, symmetry) -> None:
    for i in range(1, 6):
        a, b = dense.weights[0].double(), dense.weights[i].double()
        assert a @ symmetry.permute(b, match(a, b, symmetry)) >= a @ b


def test_one_hidden_layer_is_matched_optimally() -> None:
    arch = ws.Architecture("MLP", {"sizes": [3, 5, 2]})
    symmetry = derive(arch)
    a, b = (symmetry.layout.pack(arch.build_seeded(seed).state_dict()).double() for seed in (1, 2))
    every = (symmetry.permute(b, {symmetry.groups[0].name: torch.tensor(order)}) @ a for order in orders(range(5)))
    best = max(value.item() for value in every)
    assert (symmetry.permute(b, match(a, b, symmetry)) @ a).item() == pytest.approx(best, rel=1e-12)


def test_two_hidden_layers_by_brute_force() -> None:
    """Coordinate descent ends in a local optimum: no single group can be improved, and often it is global."""
    arch = ws.Architecture("MLP", {"sizes": [3, 4, 4, 2]})
    symmetry = trace(arch.build_seeded(0), torch.randn(16, 3))
    names = [g.name for g in symmetry.groups]
    hits = 0
    for seed in range(6):
        a, b = (
            torch.randn(symmetry.layout.size, generator=torch.Generator().manual_seed(s)) for s in (seed, 99 + seed)
        )
        found = Matcher(symmetry, a[None].double()).match(b[None].double())
        assert found.converged
        assert found.value == pytest.approx(gain(symmetry, a.double(), b.double(), found.permutations), rel=1e-9)
        every = [torch.tensor(o) for o in orders(range(4))]
        values = {
            (i, j): gain(symmetry, a, b, {names[0]: every[i], names[1]: every[j]})
            for i, j in product(range(24), repeat=2)
        }
        mine = [next(i for i, o in enumerate(every) if torch.equal(o, found.permutations[n])) for n in names]
        assert found.value >= max(values[i, mine[1]] for i in range(24)) - 1e-4
        assert found.value >= max(values[mine[0], j] for j in range(24)) - 1e-4
        hits += found.value >= max(values.values()) - 1e-4
    assert hits >= 2


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_permutations_of_structured_networks_are_recovered(name: str, noise: float) -> None:
    make, shape = STRUCTURED[name]
    torch.manual_seed(0)
    module = make()
    symmetry = trace(module, torch.randn(shape))
    random = torch.Generator().manual_seed(3)
    state = {n: t + (0.1 * torch.randn(t.shape) if t.ndim == 1 else 0) for n, t in module.state_dict().items()}
    a = symmetry.layout.pack(state).double()
    planted = symmetry.random(random)
    b = symmetry.permute(a, planted) + noise * a.std() * torch.randn(a.shape, generator=random, dtype=torch.float64)
    found = Matcher(symmetry, a[None]).match(b[None]).permutations
    recovered = symmetry.compose(planted, found)
    still = symmetry.identity()
    assert all(torch.equal(recovered[g.name], still[g.name]) for g in symmetry.groups)


def test_the_result_does_not_depend_on_the_order_of_units(dense: ws.Collection, symmetry: Symmetry) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = dense.weights[0].double(), dense.weights[1].double()
    found = Matcher(symmetry, a[None]).match(b[None])
    shuffled = Matcher(symmetry, a[None]).match(symmetry.permute(b, symmetry.random(random))[None])
    assert shuffled.value == pytest.approx(found.value, rel=1e-12)


def test_incremental_gains_equal_gains_from_scratch(dense: ws.Collection, symmetry: Symmetry) -> None:
    """The matcher ends where no group can be improved, judged by gain matrices computed anew."""
    a, b = dense.weights[2].double(), dense.weights[3].double()
    found = Matcher(symmetry, a[None]).match(b[None])
    moved = symmetry.layout.unpack(symmetry.permute(b, found.permutations))
    target = symmetry.layout.unpack(a)
    for group in symmetry.groups:
        scores = sum(
            target[x.tensor].movedim(x.axis, 0).flatten(1) @ moved[x.tensor].movedim(x.axis, 0).flatten(1).T
            if target[x.tensor].ndim > 1
            else torch.outer(target[x.tensor], moved[x.tensor])
            for x in group.axes
        )
        rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
        assert float(scores[rows, columns].sum()) <= float(scores.diagonal().sum()) + 1e-8

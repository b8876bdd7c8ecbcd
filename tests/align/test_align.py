from itertools import permutations as orders

import pytest
import torch

import weightspace as ws
from tests.conftest import outputs
from weightspace.align.balance import balance_scales
from weightspace.align.matcher import Matcher
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Symmetry, trace


def derive(arch: ws.Architecture) -> Symmetry:
    return trace(arch.build_seeded(0), arch.example(16))


def match(reference: torch.Tensor, network: torch.Tensor, symmetry: Symmetry) -> dict[str, torch.Tensor]:
    return Matcher(symmetry, reference[None]).match(network[None]).permutations


@pytest.fixture(scope="module")
def symmetry(task: ws.Task):
    return derive(task.architecture)


@pytest.mark.parametrize("balance", [True, False])
def test_alignment_leaves_functions_and_sparsity_unchanged(
    tickets: ws.Collection, task: ws.Task, balance: bool
) -> None:
    given = tickets.replace(extras={"rewind": tickets.weights + 1})
    aligned = ws.WeightMatching(balance=balance).fit(given).transform(given)
    x = task.test.x[:40]
    torch.testing.assert_close(outputs(aligned, x), outputs(given, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(aligned.masks.sum(1), given.masks.sum(1))
    assert torch.equal((aligned.weights != 0) | ~aligned.layout.prunable, aligned.masks)
    assert not torch.equal(aligned.masks, given.masks)
    assert len({record["aligned"] for record in aligned.records}) == 1
    if not balance:  # extras carry the same permutation
        shift = aligned.extras["rewind"] - aligned.weights
        torch.testing.assert_close(shift, torch.ones_like(shift))


def test_permuting_only_the_masks_would_break_the_networks(tickets: ws.Collection) -> None:
    aligned = ws.WeightMatching(balance=False).fit(tickets).transform(tickets)
    with pytest.raises(InputError, match="pruned weights are not zero"):
        tickets.replace(masks=aligned.masks)


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


def test_alignment_brings_networks_together(dense: ws.Collection) -> None:
    def residual(weights: torch.Tensor) -> float:  # share of squared norm left after removing the mean
        return 1 - (len(weights) * weights.mean(0).square().sum() / weights.square().sum()).item()

    aligned = ws.WeightMatching().fit(dense).transform(dense)
    assert residual(aligned.weights) < residual(dense.weights) - 0.1


def test_a_network_and_its_permuted_rescaled_copy_align_to_the_same_weights(dense: ws.Collection, symmetry) -> None:
    random = torch.Generator().manual_seed(1)
    scales = {g.name: torch.rand(10, g.size, generator=random) + 0.5 for g in symmetry.groups}
    moved = torch.stack([symmetry.permute(w, symmetry.random(random)) for w in symmetry.scale(dense.weights, scales)])
    fitted = ws.WeightMatching().fit(dense)
    a, b = (fitted.transform(c).weights for c in (dense, dense.replace(weights=moved)))
    same = (a - b).norm(dim=1) / a.norm(dim=1) < 1e-4
    assert same.all()


def test_balancing_equalises_norms(tickets: ws.Collection, symmetry) -> None:
    weights = symmetry.scale(tickets.weights.double(), balance_scales(tickets.weights.double(), symmetry))
    state = symmetry.layout.unpack(weights)
    incoming = (state["1.weight"].square().sum(2) + state["1.bias"].square()).sqrt()
    heard = (state["5.weight"] != 0).any(1)  # dead units of the next layer do not count
    outgoing = (state["3.weight"].square() * heard[:, :, None]).sum(1).sqrt()
    alive = (incoming > 0) & (outgoing > 0)
    assert alive.any()
    assert not alive.all()
    torch.testing.assert_close(incoming[alive], outgoing[alive], rtol=1e-4, atol=1e-8)
    assert torch.equal(weights == 0, tickets.weights == 0)


def test_other_layouts_are_refused(dense: ws.Collection) -> None:
    fitted = ws.WeightMatching().fit(dense)
    other = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe(ws.Step(epochs=1))), 2)
    with pytest.raises(LayoutMismatch, match="another layout"):
        fitted.transform(other)
    with pytest.raises(LayoutMismatch, match="another layout"):
        ws.WeightMatching(symmetry=derive(dense.architecture)).fit(other)


@pytest.mark.parametrize("density", [0.15, 0.03])
def test_balancing_of_networks_in_pieces(density: float) -> None:
    task = ws.tasks.digits(hidden=(20, 15, 12))
    symmetry = trace(task.architecture.build_seeded(0), task.train.x[:8])
    random = torch.Generator().manual_seed(0)
    size = symmetry.layout.size
    weights = torch.randn(20, size, generator=random, dtype=torch.float64)
    weights = weights * (torch.rand(20, size, generator=random) < density)
    scales = {g.name: torch.rand(20, g.size, generator=random, dtype=torch.float64) + 0.5 for g in symmetry.groups}
    rescaled = symmetry.scale(weights, scales)
    assert not torch.allclose(rescaled, weights)
    balanced = [symmetry.scale(w, balance_scales(w, symmetry)) for w in (weights, rescaled)]
    assert all(b.isfinite().all() for b in balanced)
    # Pieces that hang on no live unit have no canonical scale.
    apart = ~torch.isclose(*balanced, rtol=1e-4, atol=1e-6)
    assert apart.any() == (density < 0.1)
    for network, dead in zip(balanced[0], apart, strict=True):
        x = task.train.x.double()
        whole, without = (
            torch.func.functional_call(
                task.architecture.build_seeded(0).double(), symmetry.layout.tensors(network * keep), (x,)
            )
            for keep in (torch.ones_like(dead), ~dead)
        )
        assert torch.equal(whole, without)

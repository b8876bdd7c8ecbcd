"""Alignment of whole collections by weights."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import weightspace as ws
from tests.fixtures import outputs
from tests.symmetry.examples import Attention
from weightspace.align import (
    ActivationMatching,
    Star,
    WassersteinCost,
    WeightMatching,
)
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Symmetry, trace


def derive(arch: ws.Architecture) -> Symmetry:
    return trace(arch.build_seeded(0), arch.example(16))


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


def test_other_layouts_are_refused(dense: ws.Collection) -> None:
    fitted = ws.WeightMatching().fit(dense)
    other = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe(ws.Step(epochs=1))), 2)
    with pytest.raises(LayoutMismatch, match="another layout"):
        fitted.transform(other)
    with pytest.raises(LayoutMismatch, match="another layout"):
        ws.WeightMatching(symmetry=derive(dense.architecture)).fit(other)


def test_aligned_output_is_independent_of_chunking_and_workers(dense: ws.Collection) -> None:
    fitted = WeightMatching().fit(dense)
    whole = fitted.transform(dense)
    parts = ws.Collection.concatenate([fitted.transform(dense[i : i + 3]) for i in range(0, len(dense), 3)])
    assert torch.equal(whole.weights, parts.weights)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        again = WeightMatching().fit(dense, executor=pool)
        assert torch.equal(again.reference["weights"], fitted.reference["weights"])
        assert torch.equal(again.transform(dense, executor=pool).weights, whole.weights)
        with pytest.raises(InputError, match="workers compute on the CPU"):
            WeightMatching().fit(dense, executor=pool, device="cuda")
    torch.set_num_threads(threads)


def test_everything_in_weight_space_moves_together(tickets: ws.Collection) -> None:
    random = torch.Generator().manual_seed(0)
    moments = torch.rand(tickets.weights.shape, generator=random)
    given = tickets.replace(extras={"rewind": tickets.weights + 1, "moment": moments, "number": moments * 0 + 2})
    fitted = WeightMatching(balance=False).fit(given)
    aligned = fitted.transform(given)
    for i, found in enumerate(fitted.permutations(given)):
        for name in ("rewind", "moment"):
            moved = fitted.symmetry.permute(given.extras[name][i], found.permutations)
            assert torch.equal(aligned.extras[name][i], moved)
        assert torch.equal(aligned.masks[i], fitted.symmetry.permute(given.masks[i], found.permutations))


def test_networks_of_unknown_input_need_an_example(dense: ws.Collection) -> None:
    arch = ws.Architecture.of(Attention)
    layout = arch.layout()
    networks = ws.Collection(
        layout, torch.stack([layout.pack(arch.build_seeded(0).state_dict())] * 2), architecture=arch
    )
    with pytest.raises(InputError, match=r"input of Attention is not known.*example="):
        WeightMatching().fit(networks)
    fitted = WeightMatching().fit(networks, example=torch.randn(2, 7, 5))
    with pytest.raises(LayoutMismatch):
        fitted.transform(dense)


def test_networks_without_hidden_units_are_not_aligned_silently() -> None:
    arch = ws.Architecture("MLP", {"sizes": [4, 3]})
    layout = arch.layout()
    networks = ws.Collection(layout, torch.randn(2, layout.size), architecture=arch)
    with pytest.raises(InputError, match="no hidden units"):
        WeightMatching().fit(networks)


def test_half_precision_collections_are_aligned() -> None:
    arch = ws.Architecture.of(lambda: ws.models.MLP((4, 6, 3)).bfloat16())
    layout = arch.layout()
    weights = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0)).bfloat16()
    networks = ws.Collection(layout, weights, architecture=arch)
    example = torch.randn(5, 4).bfloat16()
    aligned = WeightMatching(balance=False).fit(networks, example=example).transform(networks)
    assert torch.equal(aligned.weights.sort(1).values, weights.sort(1).values)
    assert not torch.equal(aligned.weights, weights)


def test_wrong_settings_are_refused_at_once(dense: ws.Collection, task: ws.Task) -> None:
    # Strings are stopped by the tests' own type checks; classes in the place of objects are not.
    for bad in ({"population": Star}, {"cost": WassersteinCost}):
        with pytest.raises(InputError, match="must be one of"):
            WeightMatching(**bad)
    with pytest.raises(InputError, match="at least 16 inputs"):
        ActivationMatching().fit(dense, task.train.x[:3])
    assert "% of the parameters can move" in repr(WeightMatching().fit(dense))

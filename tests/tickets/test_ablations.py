"""Deconstruction, the early phase, transfer, refill and regroup, early-bird tickets, overlap of masks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.models.resnet import ResNet
from weightspace.tickets import Deconstruction, EarlyBird, EarlyPhase, refill, regroup, transfer
from weightspace.tickets.ablations import deconstruct
from weightspace.tickets.early_bird import channels
from weightspace.training.conversion import initial


@pytest.fixture(scope="module")
def found(dense: ws.Collection, task: ws.Task) -> ws.Collection:
    return ws.tickets.IMP(0.3, 0.7, rewind=ws.Step(iterations=5)).find(dense[:3], task)


def layers(collection: ws.Collection) -> list[slice]:
    return [collection.layout.slices[e.name] for e in collection.layout.weights]


# Scores of four weights, literally: initial 1, -2, 3, -0.5; final -2, -2.5, 0.5, -0.4.
SCORES: dict[Callable[..., torch.Tensor], list[float]] = {
    deconstruct.large_final: [2, 2.5, 0.5, 0.4],
    deconstruct.small_final: [-2, -2.5, -0.5, -0.4],
    deconstruct.large_init: [1, 2, 3, 0.5],
    deconstruct.small_init: [-1, -2, -3, -0.5],
    deconstruct.large_init_large_final: [1, 2, 0.5, 0.4],
    deconstruct.small_init_small_final: [-2, -2.5, -3, -0.5],
    deconstruct.magnitude_increase: [1, 0.5, -2.5, -0.1],
    deconstruct.movement: [3, 0.5, 2.5, 0.1],
}


@pytest.mark.parametrize("criterion", deconstruct.CRITERIA, ids=lambda c: c.__name__)
def test_criteria_are_those_of_the_paper(criterion: deconstruct.Criterion) -> None:
    first, final = torch.tensor([[1, -2, 3, -0.5]]), torch.tensor([[-2, -2.5, 0.5, -0.4]])
    assert torch.allclose(criterion(first, final), torch.tensor([SCORES[criterion]]))


def test_the_paper_base_is_one_shot_pruning_inside_layers(dense: ws.Collection, task: ws.Task) -> None:
    networks = dense[:2]
    ticket = Deconstruction(0.3).start(networks)
    expected = ws.Unstructured(0.3, "layer").mask(networks.weights.abs(), networks.layout)
    assert torch.equal(ticket.masks, expected)
    assert torch.equal(ticket.weights, initial(task.architecture, networks.records).weights * expected)
    same = Deconstruction(0.3, signs="same").start(networks)
    agree = initial(task.architecture, networks.records).weights.sign() == networks.weights.sign()
    assert not (same.masks & ~agree)[:, networks.layout.prunable].any()
    opposite = Deconstruction(0.05, signs="opposite").start(networks)
    flipped = (opposite.masks & ~agree)[:, networks.layout.prunable].sum()
    assert flipped > (expected & ~agree)[:, networks.layout.prunable].sum()


def test_what_becomes_of_kept_weights(dense: ws.Collection, task: ws.Task) -> None:
    networks = dense[:2]
    first = initial(task.architecture, networks.records).weights
    for kept in ("reinitialise", "reshuffle", "constant"):
        plain = Deconstruction(0.3, kept=kept).start(networks)
        signed = Deconstruction(0.3, kept=kept, keep_signs=True).start(networks)
        mask = plain.masks & networks.layout.prunable
        assert torch.equal(plain.masks, Deconstruction(0.3).start(networks).masks)
        assert (plain.weights[mask] != first[mask]).double().mean() > 0.9
        assert (signed.weights[mask].sign() == first[mask].sign()).all()
        assert (plain.weights[mask].sign() != first[mask].sign()).any()
    for at in layers(networks):
        chosen = plain.masks[0, at]
        shuffled = Deconstruction(0.3, kept="reshuffle").start(networks).weights[0, at][chosen]
        assert torch.equal(shuffled.sort().values, first[0, at][chosen].sort().values)
        assert torch.allclose(plain.weights[0, at][chosen].abs(), first[0, at].std())


def test_frozen_weights_stay_while_the_kept_train(dense: ws.Collection, task: ws.Task) -> None:
    networks = dense[:2]
    masks = Deconstruction(0.3).start(networks).masks
    first = initial(task.architecture, networks.records).weights
    frozen = Deconstruction(0.3, pruned="frozen").find(networks, task)
    assert torch.equal(frozen.weights[~masks], first[~masks])
    assert (frozen.weights[masks] != first[masks]).double().mean() > 0.9
    some = Deconstruction(0.3, pruned="frozen if grown").find(networks, task)
    grown = networks.weights.abs() > first.abs()
    assert torch.equal(some.weights[~masks & grown], first[~masks & grown])
    assert not some.weights[~masks & ~grown].any()
    assert frozen.records[0]["method"]["pruned"] == "frozen"
    zero = Deconstruction(0.3).find(networks, task)
    assert torch.equal(zero.masks, masks)


def test_every_variant_of_the_study_starts(dense: ws.Collection) -> None:
    starts = {name: variant.start(dense[:1]) for name, variant in deconstruct.variants(0.3).items()}
    assert len(starts) == len(deconstruct.CRITERIA) + 2 + 6 + 2
    distinct = {name: start.weights for name, start in starts.items() if name != "large_final"}
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct.values()) for b in list(distinct.values())[:i])
    assert all(start.weights.isfinite().all() for start in starts.values())
    with pytest.raises(ws.InputError, match="density"):
        Deconstruction(0.0)


def test_weights_of_the_other_sign_keep_their_own_order(dense: ws.Collection) -> None:
    networks = dense[:1]
    ticket = Deconstruction(0.9, signs="opposite").start(networks)  # too few weights changed their sign
    agree = initial(networks.architecture, networks.records).weights.sign() == networks.weights.sign()
    for at in layers(networks):
        size, mask = networks.weights[0, at].abs(), ticket.masks[0, at]
        same = agree[0, at]
        assert mask[~same].all()
        assert size[same & mask].min() >= size[same & ~mask].max()


def test_a_deconstructed_ticket_has_dense_weights_to_start_from(dense: ws.Collection, task: ws.Task) -> None:
    found = Deconstruction(0.2).find(dense[:2], task)
    shuffled = ws.tickets.TicketControls().shuffled(found)
    prunable = found.layout.prunable
    assert torch.equal((shuffled.weights != 0)[:, prunable].sum(1), found.masks[:, prunable].sum(1))
    with pytest.raises(ws.InputError, match="collect the networks first"):
        Deconstruction(0.2).start(ws.train(dense[:1], task, "1ep"))


def test_random_networks_share_only_counts_with_the_ticket(found: ws.Collection) -> None:
    controls = ws.tickets.TicketControls(seed=3)
    random, new = controls.random(found), controls.reinitialised(found)
    for at in layers(found):
        assert torch.equal(random.masks[:, at].sum(1), found.masks[:, at].sum(1))
    assert not torch.equal(random.masks, found.masks)
    assert torch.equal(random.masks, controls.shuffled(found).masks)
    assert torch.equal(random.extras["rewind"], new.extras["rewind"])
    assert not torch.equal(random.extras["rewind"], found.extras["rewind"])


def test_a_nameless_criterion_has_no_run_folder(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    with pytest.raises(ws.InputError, match="named function"):
        Deconstruction(0.2, criterion=lambda _first, final: final.abs()).find(dense[:1], task, folder=tmp_path / "d")


def test_signs_and_magnitudes_can_be_exchanged(found: ws.Collection, task: ws.Task) -> None:
    first = initial(task.architecture, found.records).weights
    rewind, kept = found.extras["rewind"], found.masks & found.layout.prunable
    early = EarlyPhase()
    assert torch.equal(early.signs_of(found, rewind).weights, rewind * found.masks)
    signs = early.signs_of(found, first).weights
    assert torch.equal(signs[kept], (rewind.abs() * first.sign())[kept])
    assert torch.equal(early.magnitudes_of(found, first).weights[kept], (rewind.sign() * first.abs())[kept])
    assert not torch.equal(signs, rewind * found.masks)
    with pytest.raises(ws.InputError, match="shape"):
        early.signs_of(found, first[:1])


@pytest.mark.parametrize("same_sign", [False, True])
@pytest.mark.parametrize("within", ["filter", "layer", "network"])
def test_permuted_weights_stay_within_their_place(found: ws.Collection, within: str, same_sign: bool) -> None:
    before = found.extras["rewind"] * found.masks
    after = EarlyPhase(seed=1).permuted(found, within, same_sign=same_sign)  # pyright: ignore[reportArgumentType]
    assert torch.equal(after.masks, found.masks)
    assert not torch.equal(after.weights, before)
    prunable = found.layout.prunable
    parts = layers(found) if within != "network" else [prunable]
    for part in parts:
        old, new = before[:, part], after.weights[:, part]
        if within == "filter":
            entry = next(e for e in found.layout.parameters if found.layout.slices[e.name] == part)
            old, new = old.unflatten(1, (entry.shape[0], -1)), new.unflatten(1, (entry.shape[0], -1))
        assert torch.equal(old.sort(-1).values, new.sort(-1).values)
    assert torch.equal(before.sign(), after.weights.sign()) == same_sign
    if within == "network":
        assert any(
            not torch.equal(before[:, p].sort().values, after.weights[:, p].sort().values) for p in layers(found)
        )


def test_noise_is_in_units_of_the_initialisation(found: ws.Collection, task: ws.Task) -> None:
    assert torch.equal(EarlyPhase().noisy(found, 0.0).weights, found.extras["rewind"] * found.masks)
    noisy = EarlyPhase().noisy(found, 0.5)
    at = layers(found)[0]
    change = (noisy.extras["rewind"] - found.extras["rewind"])[:, at]
    expected = 0.5 * initial(task.architecture, found.records).weights[:, at].std(1)
    assert torch.allclose(change.std(1), expected, rtol=0.1)
    assert not noisy.weights[~found.masks].any()


def test_tickets_move_to_a_task_with_other_classes(found: ws.Collection, task: ws.Task) -> None:
    few = lambda split: ws.Split(split.x, split.y % 4)  # noqa: E731
    other = replace(
        task,
        name="fours",
        architecture=ws.Architecture("MLP", {"sizes": [64, 12, 8, 4]}),
        train=few(task.train),
        validation=few(task.validation),
        test=few(task.test),
    )
    start = transfer(found, other)
    for entry in start.layout.parameters[:-2]:
        at = found.layout.slices[entry.name]
        assert torch.equal(start.masks[:, start.layout.slices[entry.name]], found.masks[:, at])
        expected = (found.extras["rewind"] * found.masks)[:, at]
        assert torch.equal(start.weights[:, start.layout.slices[entry.name]], expected)
    head = start.layout.slices[start.layout.parameters[-2].name]
    assert start.masks[:, head].all()
    trained = ws.train(start, other, "1ep")
    assert torch.equal(trained.masks, start.masks)
    assert trained.records[0]["from_task"] == "digits"
    same = transfer(found, task)
    assert torch.equal(same.masks, found.masks)
    assert not torch.equal(
        same.weights[:, layers(same)[-1]], (found.extras["rewind"] * found.masks)[:, layers(found)[-1]]
    )
    wide = replace(task, architecture=ws.Architecture("MLP", {"sizes": [64, 12, 9, 10]}))
    with pytest.raises(ws.LayoutMismatch, match="only the output layer may differ"):
        transfer(found, wide)
    with pytest.raises(ws.LayoutMismatch, match="in one of the two networks only"):
        transfer(found, replace(task, architecture=ws.Architecture("MLP", {"sizes": [64, 12, 10]})))


def test_refill_keeps_the_units_with_most_weights(found: ws.Collection) -> None:
    filled = refill(found)
    entries = found.layout.weights
    inner = entries[1]
    at = found.layout.slices[inner.name]
    for i in range(3):
        before, after = found.masks[i, at].reshape(inner.shape), filled.masks[i, at].reshape(inner.shape)
        kept = after.any(1)
        assert int(kept.sum()) == max(1, int(before.sum()) // inner.shape[1])
        assert after[kept].all()
        assert before.sum(1)[kept].min() >= before.sum(1)[~kept].max()
    for outer in (entries[0], entries[-1]):
        assert torch.equal(
            filled.masks[:, found.layout.slices[outer.name]], found.masks[:, found.layout.slices[outer.name]]
        )
    assert refill(found, extra=1.0).masks[:, at].all()
    small = ws.compact(filled.module(0), torch.randn(3, 64))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in found.module(0).parameters())
    with pytest.raises(ws.InputError, match="extra"):
        refill(found, extra=2.0)


def test_regroup_finds_planted_blocks() -> None:
    """Two kinds of rows, shuffled: each cluster's block is its support, and nothing else is kept."""
    random = torch.Generator().manual_seed(0)
    architecture = ws.Architecture("MLP", {"sizes": [40, 32, 3]})
    layout = architecture.layout()
    kind = torch.randperm(32, generator=random) % 2
    support = torch.zeros(32, 40, dtype=torch.bool)
    support[kind == 0, :10] = True
    support[kind == 1, 20:35] = True
    mask = torch.ones(1, layout.size, dtype=torch.bool)
    mask[0, layout.slices["1.weight"]] = support.flatten()
    weights = torch.randn(1, layout.size, generator=random)
    planted = ws.Collection(
        layout, weights * mask, architecture=architecture, masks=mask, extras={"rewind": weights}, records=[{"seed": 0}]
    )
    found = regroup(planted, clusters=2, fill=1.0)
    assert torch.equal(found.masks, mask)
    assert int(regroup(planted, clusters=1, fill=1.0).masks.sum()) != int(mask.sum())
    holes = support & (torch.rand(32, 40, generator=random) < 0.7)
    mask[0, layout.slices["1.weight"]] = holes.flatten()
    filled = regroup(planted.replace(weights=weights * mask, masks=mask), clusters=2, fill=1.5)
    block = filled.masks[0, layout.slices["1.weight"]].reshape(32, 40)
    assert torch.equal(block, support)


def conv() -> nn.Module:
    return ResNet((1, 1), (6, 8), inputs=1)


@pytest.fixture(scope="module")
def images(task: ws.Task) -> ws.Task:
    shaped = lambda split: ws.Split(split.x.reshape(-1, 1, 8, 8), split.y)  # noqa: E731
    return replace(
        task,
        architecture=ws.Architecture.of(conv),
        train=shaped(task.train),
        validation=shaped(task.validation),
        test=shaped(task.test),
        recipe=ws.Recipe(ws.Step(epochs=4), batch_size=128, optimizer=ws.Adam(lr=3e-3)),
    )


def test_an_early_bird_is_smaller_and_the_same_function(images: ws.Task) -> None:
    networks = ws.collect(images, 2)
    found = EarlyBird(0.5, max_mask_distance=0.5, history=1).find(networks, images)
    assert found.records[0]["drawn_in_epoch"] == 2
    late = EarlyBird(0.5, max_mask_distance=1e-9, history=2).find(networks[:1], images)
    assert late.records[0]["drawn_in_epoch"] == 3
    for record, density in zip(found.records, found.densities, strict=True):
        assert record["density"] == pytest.approx(density.item())
    with pytest.raises(ws.InputError, match="two at least"):
        EarlyBird().find(networks, replace(images, recipe=replace(images.recipe, length=ws.Step(epochs=1))))
    module = found.module(0)
    small = ws.compact(module, images.train.x[:2])
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        assert torch.allclose(small(images.test.x[:50]), module.eval()(images.test.x[:50]), atol=1e-4)
    alone = EarlyBird(0.5, max_mask_distance=0.5, history=1).find(networks[1:], images)
    assert torch.equal(alone.masks[0], found.masks[1])
    assert torch.allclose(alone.weights[0], found.weights[1], atol=1e-4)


def test_statistics_start_anew_with_the_weights(images: ws.Task) -> None:
    dense = ws.collect(images, 1)
    found = ws.tickets.IMP(0.5, 0.5).find(dense, images)
    assert (found.buffers["norm.running_var"] != 1).all()
    for start in (ws.tickets.TicketControls().rewound(found), EarlyPhase().noisy(found, 0.1), refill(found)):
        assert torch.equal(start.buffers["norm.running_var"], torch.ones(1, 6))
        assert not start.buffers["norm.num_batches_tracked"].any()


def test_channels_are_ranked_over_all_layers_and_none_is_emptied() -> None:
    module = conv()
    symmetry = ws.symmetry.trace(module, torch.randn(2, 1, 8, 8))
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())
    for name, at in layout.slices.items():
        if "norm" in name and name.endswith("weight"):
            weights[at] = torch.linspace(0.1, 0.6, at.stop - at.start) if name == "norm.weight" else 0.01
    groups = [group for group in symmetry.groups if group.name in ("stem", "blocks.0.conv1")]
    kept = channels(weights, symmetry, groups, 0.5)
    assert kept["stem"].tolist() == [False, True, True, True, True, True]
    assert int(kept["blocks.0.conv1"].sum()) == 1


def test_early_birds_need_batchnorm(dense: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(ws.InputError, match="BatchNorm"):
        EarlyBird().find(dense[:1], task)


def test_overlap_of_masks_beside_chance(found: ws.Collection) -> None:
    same, _ = ws.tickets.mask_overlap(found, found)
    assert torch.equal(same, torch.ones(3, dtype=torch.float64))
    shuffled = ws.tickets.TicketControls().shuffled(found)
    shared, chance = ws.tickets.mask_overlap(found, shuffled)
    assert (shared - chance).abs().max() < 0.1
    mask = found.masks[0]
    expected = sum(int(mask[at].sum()) ** 2 / (at.stop - at.start) for at in layers(found))
    assert chance[0].item() == pytest.approx(expected / int(mask[found.layout.prunable].sum()))
    with pytest.raises(ws.InputError, match="in pairs"):
        ws.tickets.mask_overlap(found, found[:1])

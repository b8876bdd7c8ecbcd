"""Mask rules: decode then top-k, shared support, weight-and-gate codes; and flows of raw weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError

MODEL = ws.TicketGenerator(compress=ws.PCA(5), generate=ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16))


@pytest.mark.parametrize("masks", [ws.MagnitudeMask(), ws.SharedMask(), ws.GateMask()])
def test_each_rule_meets_the_count_and_survives_saving(tickets: ws.Collection, masks, tmp_path: Path) -> None:
    fitted = replace(MODEL, masks=masks).fit(tickets, folder=tmp_path / "g")
    nets = fitted.sample(4, density=0.15, seed=1)
    prunable = tickets.layout.prunable
    asked = round(0.15 * tickets.layout.num_prunable)
    assert (nets.masks[:, prunable].sum(1) == asked).all()
    assert (nets.weights[:, prunable] != 0).sum(1).tolist() == [asked] * 4
    again = ws.FittedGenerator.load(fitted.save(tmp_path / "h"))
    assert torch.equal(again.sample(4, density=0.15, seed=1).weights, nets.weights)
    narrow = fitted.sample(4, density=0.1, seed=1)
    assert (narrow.masks <= nets.masks).all()


def test_a_shared_support_is_the_same_in_all_samples_and_values_are_not(tickets: ws.Collection) -> None:
    shared = replace(MODEL, masks=ws.SharedMask()).fit(tickets).sample(4, density=0.2)
    assert (shared.masks == shared.masks[0]).all()
    assert not torch.allclose(shared.weights[0], shared.weights[1])
    own = MODEL.fit(tickets).sample(4, density=0.2)
    assert not (own.masks == own.masks[0]).all()


def test_a_shared_support_prefers_what_most_tickets_keep(tickets: ws.Collection) -> None:
    fitted = ws.SharedMask().fit(tickets)
    often = tickets.masks.float().mean(0)[tickets.layout.prunable]
    order = fitted.scores[tickets.layout.prunable].argsort(descending=True)
    assert (often[order].diff() <= 0).all()


def test_gates_code_masks_exactly_and_decide_them(tickets: ws.Collection) -> None:
    fitted = ws.GateMask(share=0.25).fit(tickets)
    vectors = fitted.vectors(tickets)
    values, scores = fitted.split(vectors)
    assert torch.equal(values, tickets.weights)
    prunable = tickets.layout.prunable
    torch.testing.assert_close(scores[:, prunable], 2 * tickets.masks[:, prunable].float() - 1)
    weights, gates = (
        part.var(0).sum() for part in (vectors[:, : tickets.layout.size], vectors[:, tickets.layout.size :])
    )
    torch.testing.assert_close(gates / (gates + weights), torch.tensor(0.25), rtol=1e-4, atol=0)
    # Gates, not values, choose: with the gates of another ticket a value keeps another support.
    swapped = torch.cat([vectors[:1, : tickets.layout.size], vectors[1:2, tickets.layout.size :]], dim=1)
    _, foreign = fitted.split(swapped)
    torch.testing.assert_close(foreign, scores[1:2])


def test_all_components_of_gates_give_the_tickets_back(tickets: ws.Collection) -> None:
    few = tickets[:6]
    model = replace(
        MODEL, masks=ws.GateMask(), compress=ws.PCA(5), generate=ws.FlowMatching(width=8, blocks=1, steps=1)
    )
    fitted = model.fit(few)
    aligned = fitted.align.transform(few)
    again = fitted.reconstruct(few, density=float(few.densities[0]))
    assert torch.equal(again.masks, aligned.masks)
    torch.testing.assert_close(again.weights, aligned.weights, rtol=1e-3, atol=1e-4)


def test_gates_of_dense_or_equal_masks_are_refused(tickets: ws.Collection, dense: ws.Collection) -> None:
    with pytest.raises(InputError, match="dense"):
        ws.GateMask().fit(dense)
    same = tickets.replace(
        weights=tickets.weights * tickets.masks[:1], masks=tickets.masks[:1].expand(len(tickets), -1)
    )
    with pytest.raises(InputError, match="same mask"):
        ws.GateMask().fit(same)
    with pytest.raises(InputError, match="share"):
        ws.GateMask(share=1.0)


def test_a_flow_of_raw_weights(tickets: ws.Collection, tmp_path: Path) -> None:
    model = replace(MODEL, compress=None, generate=ws.DeepWeightFlow(width=8, time=4, steps=30, batch_size=4))
    fitted = model.fit(tickets, folder=tmp_path / "g")
    loaded = ws.FittedGenerator.load(tmp_path / "g")
    assert torch.equal(loaded.sample(3, density=0.2).weights, fitted.sample(3, density=0.2).weights)
    aligned = fitted.align.transform(tickets)
    assert torch.equal(fitted.encode(tickets), aligned.weights)
    assert torch.equal(fitted.reconstruct(tickets, density=0.2).weights, aligned.weights)
    with pytest.raises(InputError, match="components"):
        replace(model, refine=ws.TaskRefinement())


def test_most_of_a_raw_sample_is_its_noise() -> None:
    """Outside the image of its last layer DeepWeightFlow cannot move anything: novelty that is not learned."""
    data = torch.randn(20, 200, generator=torch.Generator().manual_seed(0))
    flow = ws.DeepWeightFlow(width=8, time=4, steps=50, batch_size=4).fit(data)
    x_0 = flow.noise(5, seed=1)
    layer = flow.velocity().outward
    image = torch.linalg.qr(torch.cat([layer.weight, layer.bias[:, None]], dim=1)).Q
    moved = flow.integrate(x_0) - x_0
    assert moved.norm() > 0.01
    torch.testing.assert_close(moved @ image @ image.T, moved, rtol=1e-3, atol=1e-5)
    assert x_0.std().item() == pytest.approx(0.01, rel=0.1)

"""Conditions: a flow that is told what each ticket is like can be asked for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.generator import Conditions

FLOW = ws.FlowMatching(width=32, blocks=1, steps=600, batch_size=64)


def told(tickets: ws.Collection) -> ws.Collection:
    """Tickets whose records say something, different for each."""
    records = [
        record | {"noise": i / len(tickets), "kin": "even" if i % 2 == 0 else "odd", "deep": {"value": i}}
        for i, record in enumerate(tickets.records)
    ]
    return tickets.replace(records=records)


def test_a_conditional_flow_samples_the_mode_that_is_asked() -> None:
    random = torch.Generator().manual_seed(0)
    side = torch.where(torch.rand(400, 1, generator=random) < 0.5, -1.0, 1.0)
    codes = torch.cat([4 * side, torch.randn(400, 1, generator=random)], dim=1) + 0.1 * torch.randn(
        400, 2, generator=random
    )
    flow = FLOW.fit(codes, side)
    for asked in (-1.0, 1.0):
        drawn = flow.sample(200, conditions=torch.full((200, 1), asked))
        assert (drawn[:, 0].sign() == asked).float().mean() > 0.97
    free = flow.sample(200)[:, 0].sign()
    assert 0.3 < (free > 0).float().mean() < 0.7, "left open, both modes are sampled"


def test_guidance_pushes_away_from_the_unconditional_field() -> None:
    random = torch.Generator().manual_seed(0)
    asked = torch.rand(400, 1, generator=random) * 2 - 1
    codes = torch.cat([2 * asked, torch.zeros(400, 1)], dim=1) + 0.5 * torch.randn(400, 2, generator=random)
    flow = FLOW.fit(codes, asked)
    x_0, high = flow.noise(300, seed=1), torch.full((300, 1), 0.8)
    plain, strong = (flow.integrate(x_0, conditions=high, guidance=g)[:, 0].mean() for g in (1.0, 2.0))
    assert 1.0 < plain < 2.2
    assert strong > plain + 0.2
    with pytest.raises(InputError, match="give some with conditions="):
        flow.integrate(x_0, guidance=2.0)


def test_conditions_are_standardised_and_unknown_ones_are_left_open(tickets: ws.Collection) -> None:
    known = told(tickets)
    conditions = Conditions.of(("noise", "kin", "deep.value"), known)
    rows = conditions.encode(known)
    assert rows is not None
    assert rows.shape == (len(tickets), 4)
    torch.testing.assert_close(rows[:, [0, 3]].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[:, [0, 3]].std(0, correction=0), torch.ones(2))
    assert rows[0, 1:3].tolist() == [1.0, -1.0]
    asked = conditions.rows({"kin": "odd"}, 3)
    assert asked is not None
    assert asked[0, 1:3].tolist() == [-1.0, 1.0]
    assert asked[:, [0, 3]].isnan().all()
    again = Conditions.from_json(conditions.to_json())
    assert again == conditions


def test_what_cannot_be_asked_is_refused(tickets: ws.Collection) -> None:
    known = told(tickets)
    conditions = Conditions.of(("noise", "kin"), known)
    for asked, message in (
        ({"colour": 1.0}, "knows noise, kin"),
        ({"kin": "both"}, "one of even, odd"),
        ({"noise": 2.0}, "between 0 and"),
        ({"noise": float("nan")}, "is a number"),
        ({"noise": "much"}, "is a number"),
    ):
        with pytest.raises(InputError, match=message):
            conditions.rows(asked, 2)
    wrong = {"density": "for all", "task": "for all", "nothing": "no ticket", "deep": "must be a number"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            Conditions.of((name,), known)


def test_a_generator_asks_its_flow_for_the_density_of_the_mask(tickets: ws.Collection, tmp_path: Path) -> None:
    sparser = ws.Unstructured(0.05).mask(tickets.weights.abs(), tickets.layout, within=tickets.masks)
    both = ws.Collection.concatenate([tickets, tickets.replace(weights=tickets.weights * sparser, masks=sparser)])
    model = ws.TicketGenerator(
        compress=ws.PCA(5),
        generate=ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16),
        conditions=("density",),
    )
    fitted = model.fit(both, folder=tmp_path / "g")
    wide, narrow = (fitted.sample(3, density=d, seed=1) for d in (0.2, 0.05))
    same = fitted.sample(3, density=0.05, condition={"density": 0.2}, seed=1)
    assert (same.masks <= wide.masks).all(), "the same networks, pruned more"
    assert not torch.equal(same.weights, narrow.weights), "the flow is asked for sparser networks"
    outside = fitted.sample(3, density=0.3, seed=1)  # the nearest density that the tickets had is asked
    assert (wide.masks <= outside.masks).all()
    assert torch.equal(
        ws.FittedGenerator.load(fitted.save(tmp_path / "h")).sample(3, density=0.2, seed=1).weights, wide.weights
    )
    plain = replace(model, conditions=()).fit(tickets)
    with pytest.raises(InputError, match="without conditions"):
        plain.sample(2, density=0.2, condition={"density": 0.2})
    with pytest.raises(InputError, match="guidance"):
        plain.sample(2, density=0.2, guidance=2.0)
    with pytest.raises(InputError, match="sequence of names"):
        replace(model, conditions="density")


def test_an_ensemble_is_the_sample(tickets: ws.Collection, generator: ws.FittedGenerator) -> None:
    x = torch.randn(5, 1, 8, 8)
    expected = generator.sample(4, density=0.2, seed=3).ensemble().predict_proba(x)
    assert torch.equal(generator.ensemble(4, density=0.2, seed=3).predict_proba(x), expected)
    assert not torch.equal(generator.ensemble(4, density=0.2, seed=4).predict_proba(x), expected)


def test_a_choice_of_many_words_can_be_left_open(tickets: ws.Collection) -> None:
    """The field that knows nothing is trained too: all columns of a word are hidden together."""
    random = torch.Generator().manual_seed(0)
    which = torch.randint(6, (600,), generator=random)
    angle = which * torch.pi / 3
    codes = 4 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.2 * torch.randn(600, 2, generator=random)
    words = 2 * torch.nn.functional.one_hot(which, 6).float() - 1
    flow = replace(FLOW, steps=1500).fit(codes, words, widths=[6])
    drawn = flow.sample(600, seed=1)
    nearest = (torch.atan2(drawn[:, 1], drawn[:, 0]) / (torch.pi / 3)).round().long() % 6
    counts = torch.bincount(nearest, minlength=6)
    assert counts.min() > 60, counts
    asked = flow.sample(100, conditions=words[which == 2][:1].expand(100, -1), seed=2)
    angles = torch.atan2(asked[:, 1], asked[:, 0]) / (torch.pi / 3)
    assert ((angles - 2).abs() < 0.5).float().mean() > 0.9


def test_the_density_of_codes_under_a_condition_integrates_to_one() -> None:
    random = torch.Generator().manual_seed(0)
    side = torch.where(torch.rand(200, 1, generator=random) < 0.5, -1.0, 1.0)
    flow = replace(FLOW, steps=300).fit(side + 0.3 * torch.randn(200, 1, generator=random), side)
    grid = torch.linspace(-6, 6, 241)[:, None]
    for asked in (-1.0, 1.0):
        told = torch.full_like(grid, asked)
        density = flow.log_prob(grid, conditions=told, solver_steps=40).exp()
        assert torch.trapezoid(density, grid[:, 0].double()).item() == pytest.approx(1.0, abs=0.01)
        assert density[(grid[:, 0] * asked) > 0].sum() > 0.8 * density.sum()
        x_0 = flow.noise(20, seed=1)
        there = flow.integrate(x_0, conditions=told[:20], solver_steps=40)
        torch.testing.assert_close(flow.encode(there, conditions=told[:20], solver_steps=40), x_0, rtol=1e-2, atol=1e-2)


def test_what_cannot_be_combined_with_conditions_is_refused_before_work(tickets: ws.Collection) -> None:
    known = told(tickets)
    model = ws.TicketGenerator(compress=ws.PCA(5), generate=ws.FlowMatching(pairing="optimal"), conditions=("noise",))
    with pytest.raises(InputError, match="independent"):
        model.fit(known)
    with pytest.raises(InputError, match="takes no conditions"):
        replace(model, generate=ws.DeepWeightFlow()).fit(known)
    with pytest.raises(InputError, match="named twice"):
        Conditions.of(("noise", "noise"), known)


def test_a_ticket_density_as_it_was_asked_for_is_known(tickets: ws.Collection) -> None:
    half = tickets[:5]
    sparser = ws.Unstructured(0.05).mask(half.weights.abs(), half.layout, within=half.masks)
    both = ws.Collection.concatenate([tickets, half.replace(weights=half.weights * sparser, masks=sparser)])
    conditions = Conditions.of(("density",), both)
    for asked in (0.2, 0.05):
        assert conditions.rows({"density": asked}, 1) is not None
    with pytest.raises(InputError, match="knows nothing"):
        conditions.rows({"density": 0.3}, 1)


def test_several_densities_of_a_generator_that_is_told_them_are_nested(tickets: ws.Collection) -> None:
    sparser = ws.Unstructured(0.05).mask(tickets.weights.abs(), tickets.layout, within=tickets.masks)
    both = ws.Collection.concatenate([tickets, tickets.replace(weights=tickets.weights * sparser, masks=sparser)])
    flow = ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16)
    fitted = ws.TicketGenerator(compress=ws.PCA(5), generate=flow, conditions=("density",)).fit(both)
    nested = fitted.sample(4, density=[0.05, 0.2], seed=1)
    assert (nested[:4].masks <= nested[4:].masks).all()
    own = fitted.sample(4, density=[0.05, 0.2], nested=False, seed=1)
    assert not (own[:4].masks <= own[4:].masks).all()

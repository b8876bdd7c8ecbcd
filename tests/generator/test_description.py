"""Descriptions: conditions of several numbers are obeyed at values that no ticket had."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.errors import InputError
from weightspace.generator import Conditions
from weightspace.generator.conditions import plain_values

TICKETS, DENSITY = 300, 0.5


def described(angles: Tensor) -> Tensor:
    """Two numbers on a circle of another size and place than the unit circle."""
    return 50 + 20 * torch.stack([angles.cos(), angles.sin()], 1)


def planted(angles: Tensor) -> Tensor:
    """The part of a network's weights that an angle decides: a curve that is not linear in the description."""
    return torch.stack([angles.cos(), angles.sin(), (2 * angles).cos(), (2 * angles).sin()], 1)


def angles_of(directions: Tensor) -> Tensor:
    return torch.atan2(directions[:, 1], directions[:, 0])


def collection(angles: Tensor, *, told: Tensor | None = None) -> ws.Collection:
    """Networks 4-4-1 whose first weights lie on the curve; the others are small noise."""
    network = ws.Architecture("MLP", {"sizes": (4, 4, 1)})
    layout = network.layout()
    weights = 0.02 * torch.randn(len(angles), layout.size, generator=torch.Generator().manual_seed(1))
    weights[:, :4] += planted(angles)
    masks = ws.Unstructured(DENSITY).mask(weights.abs(), layout)
    rows = (described(angles) if told is None else told).tolist()
    records = [{"seed": i, "index": i, "density": DENSITY, "description": row} for i, row in enumerate(rows)]
    return ws.Collection(layout, weights * masks, architecture=network, masks=masks, records=records)


def seen_and_unseen() -> tuple[Tensor, Tensor]:
    """Angles of tickets, and others in the middle of gaps of 30 degrees that hold no ticket."""
    unseen = torch.arange(4) * torch.pi / 2 + torch.pi / 4
    angles = 2 * torch.pi * torch.rand(4 * TICKETS, generator=torch.Generator().manual_seed(0))
    far = (torch.remainder(angles[:, None] - unseen + torch.pi, 2 * torch.pi) - torch.pi).abs().amin(1)
    return angles[far > torch.pi / 12][:TICKETS], unseen


def model() -> ws.TicketGenerator:
    flow = ws.FlowMatching(width=64, blocks=1, steps=400, batch_size=64, lr=5e-3, ema=0.99)
    return ws.TicketGenerator(align=None, compress=ws.PCA(4), generate=flow, conditions=("description",))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> ws.FittedGenerator:
    seen, _ = seen_and_unseen()
    folder: Path = tmp_path_factory.mktemp("described") / "generator"
    return model().fit(collection(seen), folder=folder)


def error_of(generator: ws.FittedGenerator, guidance: float = 1.0) -> Tensor:
    """Median angle between samples and what was asked, for each unseen angle."""
    _, unseen = seen_and_unseen()
    errors = []
    for asked, told in zip(unseen, described(unseen), strict=True):
        drawn = generator.sample(20, density=DENSITY, condition={"description": told}, guidance=guidance, seed=1)
        wrong = torch.remainder(angles_of(drawn.weights[:, :2]) - asked + torch.pi, 2 * torch.pi) - torch.pi
        errors.append(wrong.abs().median())
    return torch.stack(errors)


def test_descriptions_that_no_ticket_had_are_obeyed(fitted: ws.FittedGenerator) -> None:
    assert error_of(fitted).max() < 0.2
    assert error_of(fitted, guidance=1.3).max() < 0.25
    free = fitted.sample(200, density=DENSITY, seed=2)
    around = torch.bincount(((angles_of(free.weights[:, :2]) + torch.pi) // (torch.pi / 2)).long(), minlength=5)[:4]
    assert around.min() > 20, "left open, every angle is sampled"


def test_descriptions_of_other_tickets_are_not_obeyed() -> None:
    """The control: with descriptions in another order there is nothing to follow."""
    seen, _ = seen_and_unseen()
    told = described(seen)[torch.randperm(len(seen), generator=torch.Generator().manual_seed(3))]
    assert error_of(model().fit(collection(seen, told=told))).mean() > 0.7


def test_a_description_is_kept_with_generator_and_samples(fitted: ws.FittedGenerator, tmp_path: Path) -> None:
    again = ws.FittedGenerator.load(fitted.save(tmp_path / "g"))
    assert again.conditions == fitted.conditions
    asked = [50.0, 70.0]
    drawn = again.sample(3, density=DENSITY, condition={"description": asked}, folder=tmp_path / "s")
    assert drawn.records[0]["condition"] == {"description": asked}
    for same in (tuple(asked), np.array(asked, np.float32), torch.tensor(asked)):
        other = fitted.sample(3, density=DENSITY, condition={"description": same})
        assert torch.equal(other.weights, drawn.weights)
        assert other.records[0]["condition"] == drawn.records[0]["condition"]
    resumed = fitted.sample(3, density=DENSITY, condition={"description": torch.tensor(asked)}, folder=tmp_path / "s")
    assert torch.equal(resumed.weights, drawn.weights), "the same run, however the numbers are given"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([50.0, 70.0, 1.0], "is 2 numbers, as in the tickets' records; got 3"),
        ([50.0, float("nan")], "number 1 of condition 'description' must be a finite number"),
        ([50.0, 75.0], "number 1 of condition 'description' was 3.* knows nothing about 75"),
        (50.0, "is a list of 2 numbers, got 50.0"),
        ("north", "is a list of 2 numbers, got 'north'"),
        ([], "is empty"),
        (torch.zeros(1, 2), "numbers in one row, got an array of shape"),
    ],
)
def test_a_description_that_cannot_be_asked_is_refused(fitted: ws.FittedGenerator, asked: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted.sample(1, density=DENSITY, condition={"description": asked})  # pyright: ignore[reportArgumentType]


def test_values_of_other_kinds_are_refused_by_name() -> None:
    for wrong, message in (
        ([50.0, "much"], "number 1 of condition 'description' must be a finite number"),
        (None, "condition 'description' must be a number, a word or a list of numbers"),
        ({}, "condition 'description' must be a number, a word or a list of numbers"),
    ):
        with pytest.raises(InputError, match=message):
            plain_values({"description": wrong})


def test_numbers_are_standardised_one_by_one() -> None:
    angles = torch.linspace(0, 6, 10)
    told = torch.cat([described(angles), torch.full((10, 1), 7.0)], 1)
    known = collection(angles, told=told)
    conditions = Conditions.of(("description",), known)
    rows = conditions.encode(known)
    assert rows is not None
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    assert Conditions.from_json(conditions.to_json()) == conditions
    assert conditions.widths == [3]
    assert str(conditions.each[0]) == "description (3 numbers)"
    with pytest.raises(InputError, match="was 7 in all tickets"):
        conditions.rows({"description": [50.0, 50.0, 8.0]}, 1)


def test_an_unknown_description_is_left_open() -> None:
    known = collection(torch.linspace(0, 6, 5))
    some = known.replace(records=[known.records[0].without("description"), *known.records[1:]])
    rows = Conditions.of(("description",), some).encode(some)
    assert rows is not None
    assert rows[0].isnan().all()
    assert not rows[1:].isnan().any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1.0, 2.0, 3.0], "it has 3 in record 0 and 2 in record 1"),
        (1.0, "a number for all tickets, or a word, or a list of numbers"),
        ([1.0, float("inf")], "number 1 of condition 'description' in a record must be a finite number"),
        ([[1.0], [2.0]], "number 0 of condition 'description' in a record"),
    ],
)
def test_records_that_disagree_are_told_before_the_work(wrong: object, message: str) -> None:
    known = collection(torch.linspace(0, 6, 8))
    first = known.records[0] | {"description": wrong}
    with pytest.raises(InputError, match=message):
        model().fit(known.replace(records=[first, *known.records[1:]]))


def test_a_description_that_is_the_same_for_all_is_refused() -> None:
    known = collection(torch.linspace(0, 6, 8), told=torch.ones(8, 2))
    with pytest.raises(InputError, match="the same for all tickets"):
        model().fit(known)

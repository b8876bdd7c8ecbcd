"""What holds of every way to align networks: by weights, activations, the loss halfway between, and all at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pytest
import torch

import weightspace as ws
from tests.fixtures import outputs
from weightspace.align import (
    ActivationMatching,
    GrowingMean,
    MergeMany,
    PopulationScheme,
    Star,
    StraightThrough,
    Universe,
    WeightMatching,
)
from weightspace.align.population import Fields, MatchableNetworks
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Symmetry


class Fitted(Protocol):
    """What every matcher's `fit` returns."""

    @property
    def symmetry(self) -> Symmetry: ...

    def transform(self, networks: ws.Collection) -> ws.Collection: ...


@dataclass(frozen=True)
class First:
    """A user's own population scheme: the first network is the reference."""

    def reference(self, networks: MatchableNetworks) -> Fields:
        return {name: vector.double() for name, vector in networks.fields(0).items()}


Fit = Callable[[ws.Collection, ws.Task], Fitted]


def by_weights(population: PopulationScheme, balance: bool = False) -> Fit:
    return lambda networks, _task: WeightMatching(balance=balance, population=population).fit(networks)


MATCHERS: dict[str, Fit] = {
    "growing mean": by_weights(GrowingMean()),
    "growing mean, balanced": by_weights(GrowingMean(), balance=True),
    "star": by_weights(Star(1)),
    "MergeMany": by_weights(MergeMany(sweeps=2)),
    "Universe": by_weights(Universe(steps=10)),
    "a user's own": by_weights(First()),
    "activations": lambda networks, task: ActivationMatching().fit(networks, task.train.x[:100]),
    "straight-through": lambda networks, task: StraightThrough(ws.Step(iterations=5)).fit(networks, task),
}
every = pytest.mark.parametrize("fit", MATCHERS.values(), ids=MATCHERS.keys())


@pytest.fixture(scope="module")
def four(dense: ws.Collection) -> ws.Collection:
    return dense[:4]


@every
def test_the_function_of_each_network_stays(four: ws.Collection, task: ws.Task, fit: Fit) -> None:
    aligned = fit(four, task).transform(four)
    x = task.test.x[:30]
    torch.testing.assert_close(outputs(aligned, x), outputs(four, x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(aligned.weights, four.weights)
    assert len({record["aligned"] for record in aligned.records}) == 1


@every
def test_masks_and_extras_move_with_the_weights(tickets: ws.Collection, task: ws.Task, fit: Fit) -> None:
    networks = tickets[:3].replace(extras={"mark": tickets[:3].masks.float()})
    aligned = fit(networks, task).transform(networks)
    assert torch.equal(aligned.extras["mark"].bool(), aligned.masks)
    assert torch.equal(aligned.masks.sum(1), networks.masks.sum(1))
    assert not torch.equal(aligned.masks, networks.masks)


@every
def test_a_planted_permutation_is_undone(four: ws.Collection, task: ws.Task, fit: Fit) -> None:
    """A network and its permuted copy, which compute the same, are aligned to the same weights."""
    fitted = fit(four, task)
    planted = fitted.symmetry.random(torch.Generator().manual_seed(0))
    copy = four[[0]].replace(weights=fitted.symmetry.permute(four.weights[0], planted)[None])
    assert not torch.equal(copy.weights, four.weights[:1])
    torch.testing.assert_close(
        fitted.transform(copy).weights, fitted.transform(four[[0]]).weights, rtol=1e-4, atol=1e-5
    )


@every
def test_the_same_settings_give_the_same_bytes(four: ws.Collection, task: ws.Task, fit: Fit) -> None:
    once, again = (fit(four, task).transform(four) for _ in range(2))
    assert torch.equal(once.weights, again.weights)
    assert once.records == again.records


@every
def test_each_network_is_aligned_on_its_own(four: ws.Collection, task: ws.Task, fit: Fit) -> None:
    fitted = fit(four, task)
    assert torch.equal(fitted.transform(four[2:]).weights, fitted.transform(four).weights[2:])


@every
def test_another_layout_is_refused(four: ws.Collection, task: ws.Task, fit: Fit) -> None:
    fitted = fit(four, task)
    other = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe(ws.Step(iterations=1))), 2)
    with pytest.raises(LayoutMismatch, match="another layout"):
        fitted.transform(other)


@every
def test_networks_without_hidden_units_are_refused(task: ws.Task, fit: Fit) -> None:
    arch = ws.Architecture("MLP", {"sizes": [64, 10]})
    layout = arch.layout()
    networks = ws.Collection(layout, torch.randn(2, layout.size), architecture=arch)
    with pytest.raises(InputError, match="no hidden units"):
        fit(networks, task)

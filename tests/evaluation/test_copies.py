"""Copies that are hidden by any kind of symmetry are copies: the same function at distance zero."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.align.linear import hidden
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.neighbours import Neighbours
from weightspace.symmetry import Axis, Group, Symmetry

TASK = ws.tasks.digits(hidden=(2,), recipe=ws.Recipe("6it", batch_size=64))


def network() -> nn.Module:
    layers = (nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def table(layout: ws.Layout, linear: str | None) -> Symmetry:
    """The kinds by hand."""

    def group(name: str, size: int, makes: int, reads: int, **kinds: bool) -> Group:
        return Group(
            name,
            size,
            (Axis(f"{makes}.weight", 0), Axis(f"{makes}.bias", 0)),
            (Axis(f"{reads}.weight", 1),),
            **kinds,
        )

    between = group("between", 6, 3, 4, odd=True, homogeneous=True)
    if linear is not None:
        between = replace(between, linear=linear, dual=between.outgoing if linear == "general" else ())
    return Symmetry(layout, (group("tanh", 10, 1, 3, odd=True), between, group("relu", 8, 4, 6, homogeneous=True)))


@dataclass(frozen=True)
class Zoo:
    """Training networks, and what they and others are measured against."""

    training: ws.Collection
    canonical: CanonicalForm
    reference: TrainingReference
    without_rotations: TrainingReference

    def around(self, networks: ws.Collection) -> Neighbours:
        return self.reference.search.around(self.reference.to_compare(self.canonical(networks)), itself=False)


@pytest.fixture(scope="module", params=[True, False], ids=["dense", "sparse"])
def zoo(request: pytest.FixtureRequest) -> Iterator[Zoo]:
    task = replace(TASK, architecture=ws.Architecture.of(network))
    networks = ws.collect(task, n=12, seed=0)
    if not request.param:
        masks = ws.masks.Unstructured(0.5).mask(networks.weights.abs(), networks.layout)
        networks = networks.replace(weights=networks.weights * masks, masks=masks)
    training, held_out = networks[:6], networks[6:]
    matching, plain = (ws.WeightMatching(table(networks.layout, linear)) for linear in ("general", None))
    with (
        CanonicalForm.of(training, task, matching, 0.1) as canonical,
        CanonicalForm.of(training, task, plain, 0.1) as permuted,
    ):
        assert permuted.distances is None
        settings = (0.95, 0.1, 0)
        reference = TrainingReference(task, canonical(training), canonical, *settings, compared=canonical.compared)
        without = TrainingReference(task, permuted(training), permuted, *settings)
        found = Zoo(training, canonical, reference, without)
        # The control: other networks of the recipe are far, and no copies.
        others = found.around(held_out)
        assert others.nearest.first.min() > 0.3 * reference.unit
        assert not reference.copies(others).any()
        yield found


@pytest.mark.parametrize("kind", ["permutation", "sign", "scale", "general", "orthogonal", "all"])
def test_copies_hidden_by_any_kind_are_called_copies(zoo: Zoo, kind: str) -> None:
    training, reference = zoo.training, zoo.reference
    hiding = table(training.layout, "orthogonal" if kind == "orthogonal" else "general")
    # A copy is told by its weights: its mask does not matter.
    copies = hidden(training.replace(masks=None), hiding, *(() if kind == "all" else (kind,)))
    x = TASK.test.head(9).x
    torch.testing.assert_close(copies[0].module()(x), training[0].module()(x), rtol=1e-4, atol=1e-4)
    found = zoo.around(copies)
    assert found.nearest.first.max() < 1e-5 * reference.unit
    assert found.angle.first.max() < 1e-5 * reference.unit_angle
    assert found.nearest.index.tolist() == list(range(6))
    assert reference.copies(found).all()
    if kind in ("general", "orthogonal", "all"):  # by permutations, signs and scales alone they are not found
        plain = zoo.without_rotations
        missed = plain.search.around(plain.canonical(copies), itself=False)
        assert missed.nearest.first.min() > 0.1 * reference.unit


def test_the_baseline_of_permuted_copies_is_mixed(zoo: Zoo) -> None:
    symmetry = zoo.canonical.symmetry
    assert symmetry is not None
    aligned = zoo.canonical(zoo.training)
    density = zoo.training.masks.double().mean().item()
    made = Baselines(aligned, zoo.training, n=3, density=density, components=2, symmetry=symmetry, seed=0).permuted()
    assert zoo.around(made).nearest.first.max() < 1e-5 * zoo.reference.unit
    plain = zoo.without_rotations
    missed = plain.search.around(plain.canonical(made), itself=False).nearest.first
    # Masks cannot be mixed.
    assert (missed.min() > 0.1 * plain.unit) if zoo.training.dense else (missed.max() < 1e-5 * plain.unit)

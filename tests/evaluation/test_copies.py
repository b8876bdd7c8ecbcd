"""Copies that are hidden by any kind of symmetry are copies: the same function at distance zero."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.align.linear import hidden
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm
from weightspace.evaluation.measure import TrainingReference
from weightspace.symmetry import Axis, Group, Symmetry

TASK = ws.tasks.digits(hidden=(2,), recipe=ws.Recipe("6it", batch_size=64))


def network() -> nn.Module:
    layers = (nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))
    return nn.Sequential(nn.Flatten(), *layers)


@cache
def zoo(*, dense: bool) -> tuple[ws.Task, ws.Collection]:
    task = replace(TASK, architecture=ws.Architecture.of(network))
    networks = ws.collect(task, n=20, seed=0)
    if dense:
        return task, networks
    masks = ws.masks.Unstructured(0.5).mask(networks.weights.abs(), networks.layout)
    return task, networks.replace(weights=networks.weights * masks, masks=masks)


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


KINDS = ("permutation", "sign", "scale", "general", "orthogonal", "all")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
def test_copies_hidden_by_any_kind_are_called_copies(kind: str, dense: bool) -> None:
    task, networks = zoo(dense=dense)
    training, held_out = networks[:10], networks[10:]
    # Every table hides by its own kind, and the full one finds it.
    symmetry = table(networks.layout, "general")
    hiding = table(networks.layout, "orthogonal") if kind == "orthogonal" else symmetry
    # A copy is told by its weights: its mask does not matter.
    copies = hidden(training.replace(masks=None, extras={}), hiding, *(() if kind == "all" else (kind,)))
    x = task.test.head(9).x
    torch.testing.assert_close(copies[0].module()(x), training[0].module()(x), rtol=1e-4, atol=1e-4)

    with CanonicalForm.of(training, task, ws.WeightMatching(symmetry), 0.1) as canonical:
        reference = TrainingReference(task, canonical(training), canonical, 0.95, 0.1, 0, compared=canonical.compared)
        found = reference.search.around(reference.to_compare(canonical(copies)), itself=False)
        assert found.nearest.first.max() < 1e-5 * reference.unit
        assert found.angle.first.max() < 1e-5 * reference.unit_angle
        assert found.nearest.index.tolist() == list(range(10))
        assert reference.copies(found).all()
        # The control: other networks of the recipe are far, and no copies.
        others = reference.search.around(reference.to_compare(canonical(held_out)), itself=False)
        assert others.nearest.first.min() > 0.3 * reference.unit
        assert not reference.copies(others).any()
        if kind == "all" and dense:
            made = Baselines(canonical(training), training, n=3, density=1.0, components=2, symmetry=symmetry, seed=0)
            permuted = reference.search.around(reference.to_compare(canonical(made.permuted())), itself=False)
            assert permuted.nearest.first.max() < 1e-5 * reference.unit

    if kind in ("general", "orthogonal", "all"):  # by permutations, signs and scales alone they are not found
        with CanonicalForm.of(training, task, ws.WeightMatching(table(networks.layout, None)), 0.1) as canonical:
            assert canonical.distances is None
            reference = TrainingReference(task, canonical(training), canonical, 0.95, 0.1, 0)
            missed = reference.search.around(canonical(copies), itself=False)
            assert missed.nearest.first.min() > 0.1 * reference.unit

"""References of whole populations."""

from itertools import pairwise

import pytest
import torch

import weightspace as ws
from tests.fixtures import outputs
from weightspace.align import (
    ActivationMatching,
    GrowingMean,
    MergeMany,
    Star,
    StraightThrough,
    Universe,
    WeightMatching,
)
from weightspace.errors import InputError
from weightspace.evaluation import connectivity


@pytest.mark.parametrize("population", [GrowingMean(), Star(1), MergeMany(sweeps=3), Universe(steps=20)])
def test_every_population_keeps_functions_and_brings_networks_together(
    dense: ws.Collection, task: ws.Task, population: object
) -> None:
    matching = WeightMatching(population=population)
    aligned = matching.fit(dense).transform(dense)
    x = task.test.x[:30]
    torch.testing.assert_close(outputs(aligned, x), outputs(dense, x), rtol=1e-4, atol=1e-4)
    assert connectivity.residual_share(aligned) < connectivity.residual_share(dense) - 0.1


def test_a_reference_outside_the_collection_is_refused(dense: ws.Collection, task: ws.Task) -> None:
    for matching, data in (
        (WeightMatching(population=Star(99)), ()),
        (ActivationMatching(reference=99), (task.train.x[:50],)),
        (StraightThrough(reference=99), (task,)),
    ):
        with pytest.raises(InputError, match="is not among the"):
            matching.fit(dense, *data)
    with pytest.raises(InputError, match="reference must be"):
        StraightThrough(reference=-1)


def test_merge_many_never_ends_lower_than_it_was(dense: ws.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.align import population

    norms: list[float] = []
    original = population._norm
    monkeypatch.setattr(population, "_norm", lambda fields: norms.append(original(fields)) or norms[-1])
    fitted = WeightMatching(population=MergeMany(sweeps=6)).fit(dense)
    assert len(norms) > 2
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(norms))
    mean = fitted.reference["weights"].double() * len(dense)
    assert float(mean.square().sum()) == pytest.approx(max(norms), rel=1e-5)

"""Ensembles as predictive distributions."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble


def test_the_temperature_never_sees_test_data(tickets: ws.Collection, task: ws.Task) -> None:
    found = []
    for x in (task.test.x, task.test.x.flip(0)):  # the second test split has wrong labels
        benchmark = PredictiveBenchmark.of(replace(task, test=ws.Split(x, task.test.y)), seed=0)
        ensemble = PredictiveEnsemble.of("tickets", "", tickets, memory_gb=1.0)
        found.append(benchmark.run(ensemble))
    assert found[0].temperature == found[1].temperature
    assert found[1].metrics.accuracy < 0.3 < found[0].metrics.accuracy
    assert found[0].scaled.accuracy == pytest.approx(found[0].metrics.accuracy)


def test_sets_of_inputs_go_through_an_ensemble_together(tickets: ws.Collection, task: ws.Task) -> None:
    """What is done to networks first, such as estimating BatchNorm statistics, is done once for sets of one shape."""
    prepared: list[int] = []
    ensemble = PredictiveEnsemble.of(
        "tickets", "", tickets, memory_gb=1.0, prepare=lambda part: prepared.append(len(part)) or part
    )
    inputs = [task.test.x[:50], task.train.x[:30]]
    both = ensemble.predict(inputs)
    assert prepared == [len(tickets)]
    for x, result in zip(inputs, both, strict=True):
        (alone,) = ensemble.predict([x])
        torch.testing.assert_close(result.joint, alone.joint)
        torch.testing.assert_close(result.mean_entropy, alone.mean_entropy)
        assert torch.equal(result.votes, alone.votes)
    small = PredictiveEnsemble(
        "of any size", "", lambda x: [x.mean((2, 3))[None]]
    )  # as networks with global pooling are
    found = small.predict([torch.rand(4, 10, 3, 3), torch.rand(6, 10, 5, 5)])
    assert [len(one.votes) for one in found] == [4, 6]

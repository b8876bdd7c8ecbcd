"""Merging: identities of each way, and TIES against a second computation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace import adapt
from weightspace.adapt.merging import Merger

MERGERS: dict[str, Merger] = {
    "sum": adapt.Sum(),
    "task arithmetic": adapt.TaskArithmetic(1.0),
    "ties": adapt.TIES(density=1.0),
    "dare": adapt.DARE(drop=0.0),
    "dare, ties": adapt.DARE(drop=0.0, then=adapt.TIES(density=1.0)),
}


@pytest.mark.parametrize("name", MERGERS)
def test_one_vector_merged_gives_the_network_back(base: ws.Collection, vectors: adapt.TaskVectors, name: str) -> None:
    merged = MERGERS[name].fit([vectors])
    assert torch.equal(merged.on(base).weights, vectors.on(base).weights)
    assert torch.equal(merged.masks, (vectors.weights != 0) | ~base.layout.prunable)


def test_ties_of_equal_vectors_is_that_vector_and_a_sum_is_not(vectors: adapt.TaskVectors) -> None:
    merged = adapt.TIES(density=1.0).fit([vectors, vectors, vectors])
    torch.testing.assert_close(merged.weights, vectors.weights)
    assert not torch.allclose(adapt.Sum().fit([vectors, vectors]).weights, vectors.weights)


def ties_by_hand(changes: Tensor, density: float) -> Tensor:
    """Entry by entry, as in the paper."""
    vectors, size = changes.shape
    keep = round(density * size)
    trimmed = torch.zeros_like(changes)
    for i in range(vectors):
        for j in sorted(range(size), key=lambda j: -abs(float(changes[i, j])))[:keep]:
            trimmed[i, j] = changes[i, j]
    merged = torch.zeros(size, dtype=changes.dtype)
    for j in range(size):
        total = float(trimmed[:, j].sum())
        agreeing = [float(v) for v in trimmed[:, j] if v != 0 and total != 0 and (float(v) > 0) == (total > 0)]
        merged[j] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


def test_ties_is_the_papers() -> None:
    changes = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = adapt.TIES(density=0.3, scale=1.0).merged(changes)
    for row in range(2):
        torch.testing.assert_close(found[row], ties_by_hand(changes[:, row], 0.3))
    released = adapt.TIES(density=10 / 30).merged(changes)  # the released code keeps one entry more
    assert not torch.allclose(found, released)


@pytest.mark.parametrize("changes", [torch.arange(1.0, 11.0), torch.ones(10)])
def test_ties_keeps_exactly_so_many_entries_ties_included(changes: Tensor) -> None:
    assert int((adapt.TIES(density=0.2).merged(changes[None, None]) != 0).sum()) == 2


def test_what_cancels_changes_nothing() -> None:
    change = torch.tensor([[1.0, -2.0, 3.0]])
    assert not adapt.TIES(density=1.0).merged(torch.stack([change, -change])).any()


def test_the_mean_of_dare_is_the_vector() -> None:
    change = torch.linspace(-1, 1, 20, dtype=torch.float64)[None, None]
    draws = torch.stack([adapt.DARE(drop=0.5, seed=seed).merged(change)[0] for seed in range(400)])
    error = (draws.mean(0) - change[0, 0]).abs() / (change[0, 0].abs() / 400**0.5)
    assert error.max() < 4
    assert float((draws == 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(draws[3], adapt.DARE(drop=0.5, seed=3).merged(change)[0])
    assert not torch.equal(draws[3], draws[4])


def test_two_vectors_do_not_share_what_is_dropped() -> None:
    changes = torch.ones(2, 1, 1000)
    left = adapt.DARE(drop=0.5).merged(changes)
    assert set(left.unique().tolist()) == {0.0, 2.0, 4.0}


def test_what_does_not_fit_is_refused(vectors: adapt.TaskVectors) -> None:
    with pytest.raises(ws.InputError, match="nothing to merge"):
        adapt.Sum().fit([])
    with pytest.raises(ws.InputError, match="got 2, 1 networks"):
        adapt.Sum().fit([vectors, vectors[:1]])
    for make in (
        lambda: adapt.TIES(density=0.0),
        lambda: adapt.DARE(drop=1.0),
        lambda: adapt.TaskArithmetic(float("nan")),
    ):
        with pytest.raises(ws.InputError):
            make()


def accuracy(networks: ws.Collection, data: object) -> float:
    """Mean accuracy of networks, by their modules."""
    assert isinstance(data, ws.Split)
    right = [(networks.module(i).eval()(data.x).argmax(-1) == data.y).double().mean() for i in range(len(networks))]
    return float(torch.stack(right).mean())


def test_the_scale_is_chosen_on_validation_data(
    base: ws.Collection, vectors: adapt.TaskVectors, first: ws.Task
) -> None:
    again = replace(first, name="again", test=first.train)
    other = adapt.LoTA(density=0.2, by="random").find(base, again)
    scales = (0.0, 0.5, -3.0)
    rows = adapt.compare({"sum": adapt.Sum()}, [vectors, other], [base], [first, again], scales=scales)
    assert [row.merger for row in rows] == ["alone", "base", "sum"]
    merged = adapt.Sum().fit([vectors, other])
    found = {scale: accuracy(merged.on(base, scale=scale), first.validation) for scale in scales}
    assert len(set(found.values())) > 1
    chosen = rows[2]
    assert found[chosen.scale] == max(found.values())
    assert sum(chosen.validation["iris"]) / 2 == pytest.approx(found[chosen.scale])
    assert sum(chosen.test["again"]) / 2 == pytest.approx(accuracy(merged.on(base, scale=chosen.scale), first.train))
    with pytest.raises(ws.InputError, match="names of their own"):
        adapt.compare({}, [vectors, other], [base], [first, first])

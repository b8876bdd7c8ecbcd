"""Planted cases with known verdicts: what copies, averages, a collapse, new and broken networks must be called."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from tests.evaluation.cases import few_points
from weightspace.evaluation.measure import clustered

TRAINING, HELD_OUT, SAMPLES = 24, 12, 12


@pytest.fixture(scope="module")
def wide() -> ws.Task:
    base = ws.tasks.digits(hidden=(32,))
    return replace(base, recipe=replace(base.recipe, length=ws.Step(epochs=6)))


@pytest.fixture(scope="module")
def crowd(wide: ws.Task) -> list[ws.Collection]:
    """Training, held-out and further tickets of one recipe."""
    networks = ws.collect(wide, TRAINING + HELD_OUT + SAMPLES, seed=0)
    return (
        ws.tickets.GradualPruning(density=0.3, length=ws.Step(epochs=6))
        .find(networks, wide)
        .split(TRAINING, HELD_OUT, SAMPLES)
    )


def sparse(like: ws.Collection, weights: torch.Tensor) -> ws.Collection:
    masks = ws.Unstructured(0.3).mask(weights.abs(), like.layout)
    return ws.Collection(like.layout, weights * masks, architecture=like.architecture, masks=masks)


@pytest.fixture(scope="module")
def judge(crowd: list[ws.Collection], wide: ws.Task):
    training, held_out, _ = crowd

    def outcomes(samples: ws.Collection) -> dict[str, str]:
        with few_points():
            report = ws.evaluate(samples, wide, training=training, held_out=held_out, dropout=None)
        return {verdict.claim: verdict.outcome for verdict in report.verdicts}

    return outcomes


def test_new_networks_of_the_recipe_pass(judge, crowd: list[ws.Collection]) -> None:
    found = judge(crowd[2])
    for claim in ("not copies", "errors of their own", "not averages", "no collapse", "novel and good"):
        assert found[claim] == "pass", claim
    assert found["better than their tickets"] == "open"
    assert found["a better ensemble"] == "open"


def test_copies_are_called_copies(judge, crowd: list[ws.Collection], wide: ws.Task) -> None:
    training = crowd[0]
    found = judge(training[:SAMPLES])
    assert found["not copies"] == "fail"
    assert found["errors of their own"] == "fail"
    assert found["novel and good"] == "fail"
    noise = 1e-3 * torch.randn(SAMPLES, training.layout.size, generator=torch.Generator().manual_seed(0))
    near = training[:SAMPLES].replace(weights=training[:SAMPLES].weights + noise * training[:SAMPLES].masks)
    assert judge(near)["not copies"] == "fail"
    with few_points():
        report = ws.evaluate(near, wide, training=training, dropout=None)  # also without held-out networks
    assert report.verdict("not copies").outcome == "fail"
    assert "they are copies" in report.verdict("not copies").words


def test_larger_weights_do_not_hide_a_small_angle(crowd: list[ws.Collection], wide: ws.Task) -> None:
    training, held_out, new = crowd
    near = sparse(new, 1.7 * (0.5 * new.weights + training[:SAMPLES].weights))  # halfway, and larger
    with few_points():
        report = ws.evaluate(near, wide, training=training, held_out=held_out, dropout=None)
    verdict = report.verdict("not copies")
    assert verdict.outcome == "fail"
    assert "by angle they are closer to the training set" in verdict.words
    assert "only the size of their weights puts them farther away" in verdict.words


def test_permuted_copies_are_called_copies(judge, crowd: list[ws.Collection], wide: ws.Task) -> None:
    training = crowd[0]
    symmetry = ws.symmetry.trace(training.architecture.build_seeded(0), wide.train.x[:8])
    random = torch.Generator().manual_seed(0)
    weights, masks = [], []
    for network in training[:SAMPLES]:
        order = symmetry.random(random)
        scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups}
        weights.append(symmetry.permute(symmetry.scale(network.weights, scales), order))
        masks.append(symmetry.permute(network.mask, order))
    hidden = training[:SAMPLES].replace(weights=torch.stack(weights), masks=torch.stack(masks))
    found = judge(hidden)
    assert found["not copies"] == "fail"
    assert found["errors of their own"] == "fail"
    with few_points():
        blind = ws.evaluate(hidden, wide, training=training, held_out=crowd[1], align=None, dropout=None)
    assert blind.verdict("not copies").outcome == "pass"  # the control: distances as they are do not see it


def test_averages_are_called_averages(judge, crowd: list[ws.Collection], wide: ws.Task) -> None:
    training = crowd[0]
    aligned = ws.WeightMatching().fit(training, example=wide.train.x[:8]).transform(training)
    pairs = sparse(training, (aligned.weights[:SAMPLES] + aligned.weights[SAMPLES:]) / 2)
    found = judge(pairs)
    assert found["not averages"] == "fail"
    assert found["not copies"] == "fail"
    soups = torch.stack([aligned.weights[i : i + 10].mean(0) for i in range(SAMPLES)])
    assert judge(sparse(training, soups))["not averages"] == "fail"


def test_one_network_repeated_is_called_a_collapse(judge, crowd: list[ws.Collection]) -> None:
    assert judge(crowd[2][[0] * SAMPLES])["no collapse"] == "fail"
    assert judge(crowd[2][[0, 1, 2] * 4])["no collapse"] == "fail"


def test_clusters_are_called_a_collapse_however_large_their_networks(crowd: list[ws.Collection], wide: ws.Task) -> None:
    """Weights three times as large are as far apart inside a cluster as tickets are."""
    new = crowd[2]
    random = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.randn(SAMPLES, new.layout.size, generator=random)
    clusters = new[[0, 1, 2] * (SAMPLES // 3)]
    gathered = clusters.replace(weights=(3 * clusters.weights + 3 * noise) * clusters.masks)
    with few_points():
        report = ws.evaluate(gathered, wide, training=crowd[0], held_out=crowd[1], dropout=None)
    verdict = report.verdict("no collapse")
    assert verdict.outcome == "fail"
    assert "gathered in clusters" in verdict.words
    assert "closer to each other" not in verdict.words
    for networks, share in ((gathered, 1.0), (new, 0.0)):
        assert clustered(torch.cdist(networks.weights, networks.weights).fill_diagonal_(torch.inf), 0.5) == share


def test_random_networks_are_new_and_useless(judge, crowd: list[ws.Collection]) -> None:
    training = crowd[0]
    fresh = torch.stack(
        [training.layout.pack(training.architecture.build_seeded(1000 + i).state_dict()) for i in range(SAMPLES)]
    )
    found = judge(sparse(training, fresh))
    assert found["novel and good"] == "fail"
    assert found["better than their tickets"] == "fail"
    assert found["a better ensemble"] == "fail"
    assert found["errors of their own"] in ("pass", "fail")

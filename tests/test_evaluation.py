import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import accuracy_score, log_loss

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch
from weightspace.evaluation import novelty, predictive
from weightspace.symmetry import trace


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 60, 5, generator=random) * 2, torch.randint(0, 5, (60,), generator=random)


@pytest.fixture(scope="module")
def report(generator: ws.FittedGenerator, tickets: ws.Collection, task: ws.Task) -> ws.Report:
    return ws.evaluate(generator.sample(6, density=0.2, seed=1), task, reference=tickets[:8], held_out=tickets[8:])


def test_metrics_agree_with_independent_computations(case) -> None:
    logits, y = case
    probabilities = logits.double().softmax(-1).numpy()
    for i, p in enumerate(probabilities):
        assert predictive.nll(logits, y)[i].item() == pytest.approx(log_loss(y, p, labels=range(5)))
        accuracy = 1 - predictive.errors(logits, y)[i].double().mean().item()
        assert accuracy == pytest.approx(accuracy_score(y, p.argmax(1)))
        assert predictive.brier(logits, y)[i].item() == pytest.approx(((p - np.eye(5)[y]) ** 2).sum(1).mean())
        confidence, right = p.max(1), p.argmax(1) == y.numpy()
        expected = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert predictive.ece(logits, y)[i].item() == pytest.approx(expected)
    mixture = predictive.ensemble_logits(logits)
    np.testing.assert_allclose(mixture[0].exp(), probabilities.mean(0), rtol=1e-9)


def test_calibration_of_known_cases() -> None:
    y = torch.tensor([0, 0, 0, 1])
    sure = torch.tensor([[[50.0, -50.0]] * 4])  # always says 0 with certainty, right three times of four
    assert predictive.ece(sure, y).item() == pytest.approx(0.25)
    honest = torch.tensor([[[0.75, 0.25]] * 4]).log()
    assert predictive.ece(honest, y).item() == pytest.approx(0, abs=1e-6)
    assert predictive.brier(honest, y).item() == pytest.approx(0.375)


def test_distances_agree_with_scipy() -> None:
    a, b = torch.randn(5, 7), torch.randn(4, 7)
    np.testing.assert_allclose(novelty.distances(a, b), cdist(a, b), rtol=1e-6)
    own = novelty.distances(a)
    assert own.diagonal().isinf().all()
    np.testing.assert_allclose(own.min(1).values, np.sort(cdist(a, a), 1)[:, 1], rtol=1e-6)


def test_error_overlap_of_known_cases() -> None:
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert novelty.error_iou(a, b).tolist() == [[pytest.approx(1 / 3), 0.0], [0.0, 1.0]]
    assert novelty.error_iou(a, a)[0, 0] == 1
    assert novelty.error_iou(a).diagonal().isneginf().all()


def test_mask_overlap_of_known_cases() -> None:
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]).bool()
    assert novelty.mask_overlap(masks, masks)[0].tolist() == [1.0, 0.5, 0.0]
    random = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0)) < 0.1
    assert novelty.mask_overlap(random[:1], random[1:]).item() == pytest.approx(0.1, abs=0.02)  # chance


def test_dispersion_sees_a_collapse() -> None:
    cloud = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert novelty.dispersion(cloud, cloud) == pytest.approx(1)
    assert novelty.dispersion(cloud * 0.1 + 5, cloud) == pytest.approx(0.1, rel=1e-4)
    assert novelty.dispersion(cloud[:1].expand(9, 8), cloud) == 0


def test_permuted_rescaled_copies_are_seen_as_copies(tickets: ws.Collection, task: ws.Task) -> None:
    symmetry = trace(tickets.architecture.build_seeded(0), task.test.x[:8])
    random = torch.Generator().manual_seed(0)
    hidden = []
    for network in tickets[:6]:
        scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups}
        p = symmetry.random(random)
        hidden.append((symmetry.permute(symmetry.scale(network.weights, scales), p), symmetry.permute(network.mask, p)))
    weights, masks = (torch.stack(parts) for parts in zip(*hidden, strict=True))
    copies = tickets[:6].replace(weights=weights, masks=masks)
    raw = torch.cdist(weights, tickets.weights).min(1).values
    report = ws.evaluate(copies, task, reference=tickets)
    unit = report["training tickets"].median("nearest distance")
    # Not exactly zero: a unit that lost all its outgoing weights has no canonical scale.
    assert max(report["samples"].per_network["nearest distance"]) < 1e-5 * unit
    assert raw.min() > 0.5 * unit  # without alignment they would have passed as new
    assert min(report["samples"].per_network["max error IoU"]) == 1


def test_the_report_puts_samples_beside_their_baselines(report: ws.Report) -> None:
    names = [arm.name for arm in report.arms]
    assert names == [
        "training tickets", "held-out tickets", "samples", "ticket + noise", "interpolation", "soup of 8",
        "mean network", "Gaussian", "unaligned average", "random",
    ]  # fmt: skip
    for arm in report.arms:
        assert all(len(values) == arm.count for values in arm.per_network.values())
        assert set(arm.per_network["density"]) == {report["samples"].per_network["density"][0]}
    assert report["mean network"].count == 1
    assert report["random"].mean("accuracy") < 0.3 < report["training tickets"].mean("accuracy")
    assert report["interpolation"].median("nearest distance") < report["training tickets"].median("nearest distance")


def test_numbers_in_the_report_come_from_the_networks(report: ws.Report, tickets: ws.Collection, task: ws.Task) -> None:
    arm = report["held-out tickets"]
    by_hand = [(n.module().eval()(task.test.x).argmax(-1) == task.test.y).double().mean().item() for n in tickets[8:]]
    assert list(arm.per_network["accuracy"]) == pytest.approx(by_hand)
    ensemble = (tickets[8:].ensemble().predict(task.test.x) == task.test.y).double().mean().item()
    assert arm.together["accuracy"] == pytest.approx(ensemble)
    low, high = arm.interval("accuracy")
    assert low <= arm.mean("accuracy") <= high


def test_same_seed_same_report(generator: ws.FittedGenerator, tickets: ws.Collection, task: ws.Task, report) -> None:
    samples = generator.sample(6, density=0.2, seed=1)
    again = ws.evaluate(samples, task, reference=tickets[:8], held_out=tickets[8:])
    assert again.to_json() == report.to_json()


def test_bad_requests_are_refused(tickets: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="at least 3 networks"):
        ws.evaluate(tickets, task, reference=tickets[:2])
    other = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe(ws.Step(epochs=1))), 3)
    with pytest.raises(LayoutMismatch, match="samples has another layout"):
        ws.evaluate(other, task, reference=tickets)

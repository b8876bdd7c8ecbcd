"""Metrics against independent implementations and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy as scipy_entropy
from scipy.stats import mannwhitneyu
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

import weightspace as ws
from weightspace.evaluation.baselines import best_bandwidth
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.metrics import calibration, intervals, novelty, ood_detection, predictive
from weightspace.evaluation.neighbours import Nearest, NeighbourSearch, distances_among, largest_error_overlap
from weightspace.evaluation.predictions import PredictionSum, score
from weightspace.evaluation.shift import shifts
from weightspace.masks.overlap import overlap_matrix


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 60, 5, generator=random) * 2, torch.randint(0, 5, (60,), generator=random)


def mutual_information(logits: torch.Tensor) -> torch.Tensor:
    total = PredictionSum()
    for block in logits.split(2):
        total.add(block)
    return total.result().mutual_information


def binned(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """ECE and MACE of 15 bins of equal width, by hand."""
    confidence, right = p.max(1), p.argmax(1) == y
    gaps: list[tuple[float, float]] = []
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gaps.append((inside.mean(), abs(right[inside].mean() - confidence[inside].mean())))
    return sum(w * g for w, g in gaps), sum(g for _, g in gaps) / len(gaps)


def test_metrics_agree_with_independent_computations(case) -> None:
    logits, y = case
    probabilities = logits.double().softmax(-1).numpy()
    width, mass = calibration.equal_width(logits, y), calibration.equal_mass(logits, y)
    for i, p in enumerate(probabilities):
        assert predictive.nll(logits, y)[i].item() == pytest.approx(log_loss(y, p, labels=range(5)))
        accuracy = 1 - predictive.errors(logits, y)[i].double().mean().item()
        assert accuracy == pytest.approx(accuracy_score(y, p.argmax(1)))
        assert predictive.brier(logits, y)[i].item() == pytest.approx(((p - np.eye(5)[y]) ** 2).sum(1).mean())
        np.testing.assert_allclose(predictive.entropy(logits)[i], scipy_entropy(p, axis=1))
        ece, mace = binned(p, y.numpy())
        assert width.ece[i].item() == pytest.approx(ece)
        assert width.mace[i].item() == pytest.approx(mace)
        order = np.argsort(p.max(1), kind="stable").reshape(15, 4)  # 60 samples, 4 to a bin
        right = p.argmax(1) == y.numpy()
        gaps = [abs(right[bin].mean() - p.max(1)[bin].mean()) for bin in order]
        assert mass.ece[i].item() == pytest.approx(np.mean(gaps))
        assert mass.mace[i].item() == pytest.approx(np.mean(gaps))  # equal masses: the same
        matrix = confusion_matrix(y, p.argmax(1), labels=range(5))
        np.testing.assert_array_equal(predictive.confusion(logits[i], y), matrix)
    assert width.mace.tolist() != pytest.approx(width.ece.tolist())
    mixture = predictive.ensemble_logits(logits)
    np.testing.assert_allclose(mixture[0].exp(), probabilities.mean(0), rtol=1e-9)
    information = scipy_entropy(probabilities.mean(0), axis=1) - scipy_entropy(probabilities, axis=2).mean(0)
    np.testing.assert_allclose(mutual_information(logits), information)


def test_calibration_of_known_cases() -> None:
    y = torch.tensor([0, 0, 0, 1])
    sure = torch.tensor([[[50.0, -50.0]] * 4])  # always says 0 with certainty, right three times of four
    assert calibration.equal_width(sure, y).ece.item() == pytest.approx(0.25)
    honest = torch.tensor([[[0.75, 0.25]] * 4]).log()
    assert calibration.equal_width(honest, y).ece.item() == pytest.approx(0, abs=1e-6)
    assert predictive.brier(honest, y).item() == pytest.approx(0.375)
    assert predictive.entropy(sure * 40).max() == 0  # a probability that underflows has no entropy, and no NaN
    assert mutual_information(sure).max() == 0  # one network
    two = torch.tensor([[[100.0, -100.0]], [[-100.0, 100.0]]])
    assert mutual_information(two).item() == pytest.approx(math.log(2))


def test_disagreement_is_that_of_all_pairs(case) -> None:
    classes = case[0].argmax(-1)
    votes = torch.nn.functional.one_hot(classes, 5).sum(0).double()
    pairs = [(classes[i] != classes[j]).double().mean() for i in range(4) for j in range(i)]
    assert predictive.disagreement(votes) == pytest.approx(np.mean(pairs))
    assert predictive.disagreement(votes * 0 + torch.eye(5)[0] * 7) == 0


def test_the_temperature_of_scaled_logits_is_found() -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4000, 4, generator=random, dtype=torch.float64) * 2
    y = torch.distributions.Categorical(logits=logits[0]).sample()  # calibrated by construction
    assert calibration.fit_temperature(logits, y) == pytest.approx(1, abs=0.06)
    assert calibration.fit_temperature(logits * 3, y) == pytest.approx(
        3 * calibration.fit_temperature(logits, y), rel=1e-3
    )
    grid = torch.linspace(0.5, 5, 400, dtype=torch.float64)
    losses = [predictive.nll(logits * 3 / t, y).item() for t in grid.tolist()]
    assert calibration.fit_temperature(logits * 3, y) == pytest.approx(grid[int(np.argmin(losses))].item(), abs=0.02)


def test_detection_against_brute_force() -> None:
    random = torch.Generator().manual_seed(0)
    own = torch.randint(0, 12, (50,), generator=random).double()  # many ties
    foreign = torch.randint(4, 16, (40,), generator=random).double()
    pairs = (foreign[:, None] > own).double() + 0.5 * (foreign[:, None] == own).double()
    assert ood_detection.auroc(own, foreign) == pytest.approx(pairs.mean().item())
    thresholds = [t for t in sorted(set(foreign.tolist())) if (foreign >= t).double().mean() >= 0.95]
    assert ood_detection.fpr95(own, foreign) == pytest.approx((own >= max(thresholds)).double().mean().item())
    assert ood_detection.auroc(own, own + 100) == 1
    assert ood_detection.fpr95(own, own + 100) == 0


def test_bootstrap_intervals_cover_what_they_should(case) -> None:
    logits, y = case
    joint = predictive.ensemble_logits(logits)
    found = intervals.ensemble_intervals(joint, y)
    accuracy = 1 - predictive.errors(joint, y).double().mean().item()
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(y))
    assert found.accuracy == pytest.approx((accuracy - half, accuracy + half), abs=0.03)
    own = torch.nn.functional.nll_loss(joint[0], y, reduction="none")
    half = 1.96 * own.std().item() / math.sqrt(len(y))
    assert found.nll == pytest.approx((own.mean().item() - half, own.mean().item() + half), abs=0.08)
    assert found.brier[0] < predictive.brier(joint, y).item() < found.brier[1]


def test_two_ensembles_of_one_kind_are_not_told_apart() -> None:
    random = torch.Generator().manual_seed(0)
    p = torch.rand(40, 300, generator=random, dtype=torch.float64) * 0.5 + 0.4
    low, high = intervals.of_two_ensembles(p[:20], p[20:])
    assert low < 0 < high
    low, high = intervals.of_two_ensembles((p[:20] + 0.1).clamp(max=1), p[20:])
    assert high < 0
    assert intervals.of_two_ensembles(p[:20], p[20:]) == intervals.of_two_ensembles(p[:20], p[20:])


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
    assert largest_error_overlap(a, a, itself=True).first.tolist() == [0.0, 0.0]
    assert largest_error_overlap(a, a, itself=False).first.tolist() == [1.0, 1.0]


def test_independent_errors_overlap_by_chance() -> None:
    random = torch.Generator().manual_seed(0)
    wrong = torch.rand(6, 50_000, generator=random) < torch.linspace(0.05, 0.3, 6)[:, None]
    assert novelty.off_diagonal(novelty.error_iou(wrong, wrong)) == pytest.approx(novelty.chance_iou(wrong), rel=0.03)
    assert math.isnan(novelty.chance_iou(wrong[:1]))


def test_mask_overlap_of_known_cases() -> None:
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]).bool()
    assert overlap_matrix(masks, masks)[0].tolist() == [1.0, 0.5, 0.0]
    random = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0)) < 0.1
    assert overlap_matrix(random[:1], random[1:]).item() == pytest.approx(0.1, abs=0.02)  # chance


def test_z_u_agrees_with_its_definition() -> None:
    random = torch.Generator().manual_seed(0)
    g = torch.randint(0, 9, (30,), generator=random).double()
    h = torch.randint(0, 9, (20,), generator=random).double()
    u = ((g[:, None] > h).double() + 0.5 * (g[:, None] == h).double()).sum().item()
    z, share = novelty.z_u(g, h)
    assert z == pytest.approx((u - 300) / math.sqrt(30 * 20 * 51 / 12))
    assert share == pytest.approx(u / 600)
    assert u == mannwhitneyu(g, h).statistic
    assert novelty.z_u(h - 100, h)[1] == 0


def explained(x: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
    x, bases = x.double(), bases.double()
    return novelty.from_few((bases @ x[..., None])[..., 0], bases @ bases.mT, x.square().sum(1))


def test_what_few_networks_explain() -> None:
    random = torch.Generator().manual_seed(0)
    bases = torch.randn(3, 4, 50, generator=random)
    inside = torch.einsum("nk,nkd->nd", torch.randn(3, 4, generator=random), bases)
    apart = torch.randn(3, 50, generator=random)
    assert explained(inside, bases).tolist() == pytest.approx([1, 1, 1])
    for i, share in enumerate(explained(apart, bases).tolist()):
        fit, *_ = np.linalg.lstsq(bases[i].T.double().numpy(), apart[i].double().numpy(), rcond=None)
        left = apart[i].double().numpy() - bases[i].T.double().numpy() @ fit
        assert share == pytest.approx(1 - (left**2).sum() / (apart[i].double() ** 2).sum().item())
    twice = bases.clone()
    twice[:, 1] = twice[:, 0]  # a copy among them must not break it
    assert (explained(apart, twice) <= explained(apart, bases) + 1e-9).all()
    assert explained(torch.zeros(3, 50), bases).tolist() == [1, 1, 1]


def test_neighbours_in_blocks_against_brute_force(tickets: ws.Collection) -> None:
    training, others = tickets[:7], tickets[7:]
    w, centre = training.weights.double(), training.weights.double().mean(0)
    for memory_gb in (1.0, 1e-9):  # all at once, and a network at a time
        space = NeighbourSearch.of(training, centre, memory_gb)
        found = space.around(others, itself=False)
        exact = cdist(others.weights.double(), w)
        np.testing.assert_allclose(found.nearest.first, np.sort(exact, 1)[:, 0], rtol=1e-6)
        np.testing.assert_allclose(found.nearest.second, np.sort(exact, 1)[:, 1], rtol=1e-6)
        np.testing.assert_array_equal(found.nearest.index, exact.argmin(1))
        own = space.around(training, itself=True)
        np.testing.assert_allclose(own.nearest.first, np.sort(cdist(w, w), 1)[:, 1], rtol=1e-6)
        for j in range(7):  # each from the mean of the others
            rest = torch.cat([w[:j], w[j + 1 :]])
            assert own.few[j].item() == pytest.approx(
                explained((w[j] - rest.mean(0))[None], (rest - rest.mean(0))[None]).item()
            )
        among = distances_among(tickets, memory_gb)
        exact = cdist(tickets.weights.double(), tickets.weights.double())
        np.testing.assert_allclose(among.fill_diagonal_(0), exact, rtol=1e-6, atol=1e-6)


def test_dropping_a_neighbour_makes_sides_equal() -> None:
    nearest = Nearest(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0]), torch.tensor([0, 0]))
    random = torch.Generator().manual_seed(0)
    draws = torch.stack([nearest.without_one(4, random) for _ in range(2000)]).double()
    assert (draws[:, 0] == 5).double().mean() == pytest.approx(0.25, abs=0.03)
    assert set(draws[:, 1].tolist()) == {2.0, 6.0}


def test_the_bandwidth_has_the_largest_leave_one_out_likelihood() -> None:
    from sklearn.model_selection import GridSearchCV, LeaveOneOut
    from sklearn.neighbors import KernelDensity

    codes = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([3.0, 0.5])
    grid = torch.logspace(-1.5, 0.5, 61, dtype=torch.float64)
    search = GridSearchCV(KernelDensity(), {"bandwidth": grid.tolist()}, cv=LeaveOneOut())
    search.fit((codes / codes.std(0)).numpy())
    assert best_bandwidth(codes, codes.var(0)) == pytest.approx(search.best_params_["bandwidth"])


def test_gathering_in_blocks_changes_nothing(tickets: ws.Collection, task: ws.Task) -> None:
    whole = score(tickets, task.test, memory_gb=1.0)
    parts = score(tickets, task.test, memory_gb=1e-9)  # a network at a time
    np.testing.assert_array_equal(whole.wrong, parts.wrong)
    np.testing.assert_allclose(whole.predictions.joint, parts.predictions.joint, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(whole.predictions.votes, parts.predictions.votes)
    logits = tickets.ensemble().logits(task.test.x)
    np.testing.assert_allclose(whole.predictions.joint, predictive.ensemble_logits(logits), rtol=1e-6, atol=1e-7)
    information = parts.predictions.mutual_information
    np.testing.assert_allclose(information, mutual_information(logits), atol=1e-7)


def test_shifts_grow_and_keep_the_shape(task: ws.Task) -> None:
    x = task.test.x[:50]
    found = {(s.kind, s.severity): s.x for s in shifts(task, x)}
    assert set(found) == {(k, s) for k in ("noise", "contrast", "blur", "rotation") for s in (1, 2, 3)}
    for kind in ("noise", "contrast", "blur", "rotation"):
        far = [(found[kind, s] - x).norm().item() for s in (1, 2, 3)]
        assert 0 < far[0] < far[1] < far[2]
        assert all(found[kind, s].shape == x.shape for s in (1, 2, 3))
    noise = (found["noise", 2] - x).std().item()
    assert noise == pytest.approx(0.5 * task.train.x.std().item(), rel=0.05)
    table = ws.tasks.iris()
    assert {s.kind for s in shifts(table, table.test.x)} == {"noise", "contrast"}
    again = [s.x for s in shifts(task, x)]
    assert all(torch.equal(a, b) for a, b in zip(again, found.values(), strict=True))


def test_mc_dropout_draws_and_repeats(task: ws.Task) -> None:
    fitted = MCDropout(rates=(0.2,)).fit(task, seed=0)
    once = torch.cat(list(fitted.passes(task.test.x, 3, seed=0)))
    again = torch.cat(list(fitted.passes(task.test.x, 3, seed=0)))
    assert torch.equal(once, again)
    assert not torch.equal(once[0], once[1])  # each pass has its own dropout
    plain = fitted.network.module().eval()(task.test.x)
    assert not torch.equal(once[0], plain)
    mean = torch.cat(list(fitted.passes(task.test.x, 200, seed=0))).softmax(-1).mean(0)
    assert (mean.argmax(-1) == plain.argmax(-1)).double().mean() > 0.9
    with pytest.raises(ws.InputError, match=r"in \(0, 1\)"):
        MCDropout(rates=(1.5,))
    flat = ws.tasks.digits(hidden=())
    with pytest.raises(ws.InputError, match="single layer"):
        MCDropout().fit(flat)

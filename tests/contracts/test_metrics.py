"""Metrics against independent computations: scikit-learn, SciPy, brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy as scipy_entropy
from scipy.stats import mannwhitneyu, ttest_1samp, ttest_ind
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from tests.evaluation.cases import binned, mutual_information
from weightspace.evaluation.baselines import best_bandwidth
from weightspace.evaluation.metrics import calibration, intervals, novelty, ood_detection, predictive
from weightspace.report.intervals import mean_interval


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 60, 5, generator=random) * 2, torch.randint(0, 5, (60,), generator=random)


def test_metrics_agree_with_independent_computations(case) -> None:
    logits, y = case
    probabilities = logits.double().softmax(-1).numpy()
    width, mass = calibration.equal_width(logits, y), calibration.equal_mass(logits, y)
    for i, p in enumerate(probabilities):
        assert predictive.nll(logits, y)[i].item() == pytest.approx(log_loss(y.numpy(), p, labels=range(5)))
        accuracy = 1 - predictive.errors(logits, y)[i].double().mean().item()
        assert accuracy == pytest.approx(accuracy_score(y.numpy(), p.argmax(1)))
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
        matrix = confusion_matrix(y.numpy(), p.argmax(1), labels=range(5))
        np.testing.assert_array_equal(predictive.confusion(logits[i], y), matrix)
    assert width.mace.tolist() != pytest.approx(width.ece.tolist())
    mixture = predictive.ensemble_logits(logits)
    np.testing.assert_allclose(mixture[0].exp(), probabilities.mean(0), rtol=1e-9)
    information = scipy_entropy(probabilities.mean(0), axis=1) - scipy_entropy(probabilities, axis=2).mean(0)
    np.testing.assert_allclose(mutual_information(logits), information)


def test_disagreement_is_that_of_all_pairs(case) -> None:
    classes = case[0].argmax(-1)
    votes = torch.nn.functional.one_hot(classes, 5).sum(0).double()
    pairs = [(classes[i] != classes[j]).double().mean() for i in range(4) for j in range(i)]
    assert predictive.disagreement(votes) == pytest.approx(np.mean(pairs))
    assert predictive.disagreement(votes * 0 + torch.eye(5)[0] * 7) == 0


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


def test_distances_agree_with_scipy() -> None:
    a, b = torch.randn(5, 7), torch.randn(4, 7)
    np.testing.assert_allclose(novelty.distances(a, b), cdist(a, b), rtol=1e-6)
    own = novelty.distances(a)
    assert own.diagonal().isinf().all()
    np.testing.assert_allclose(own.min(1).values, np.sort(cdist(a, a), 1)[:, 1], rtol=1e-6)


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


def test_the_bandwidth_has_the_largest_leave_one_out_likelihood() -> None:
    from sklearn.model_selection import GridSearchCV, LeaveOneOut
    from sklearn.neighbors import KernelDensity

    codes = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([3.0, 0.5])
    grid = torch.logspace(-1.5, 0.5, 61, dtype=torch.float64)
    search = GridSearchCV(KernelDensity(), {"bandwidth": grid.tolist()}, cv=LeaveOneOut())
    search.fit((codes / codes.std(0)).numpy())
    assert best_bandwidth(codes, codes.var(0)) == pytest.approx(search.best_params_["bandwidth"])


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 40), (30, 7)])
def test_intervals_of_means_agree_with_scipy(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    a, b = random.normal(0.9, 0.02, n), random.normal(0.88, 0.05, m)
    low, high = mean_interval(a.tolist())
    assert (low, high) == pytest.approx(tuple(ttest_1samp(a, 0).confidence_interval(0.95)))
    welch = intervals.welch_interval(a.mean(), a.std(ddof=1), n, b.mean(), b.std(ddof=1), m)
    assert welch == pytest.approx(tuple(ttest_ind(a, b, equal_var=False).confidence_interval(0.95)))
    pooled = tuple(ttest_ind(a, b, equal_var=True).confidence_interval(0.95))
    assert n == m or welch != pytest.approx(pooled, rel=1e-6)  # the control: spreads are not pooled

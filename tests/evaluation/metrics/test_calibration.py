"""Calibration errors and temperatures of known cases."""

import math

import numpy as np
import pytest
import torch

from tests.evaluation.cases import mutual_information
from weightspace.evaluation.metrics import calibration, predictive


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

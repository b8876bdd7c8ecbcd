from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.networks.outputs import Binary, Classes, Regression
from weightspace.networks.temperature import at_temperature, fit_temperature, nll_and_ece


@pytest.mark.parametrize("kind", [Classes(), Binary()])
def test_a_planted_temperature_is_found(kind: Classes | Binary) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=random, dtype=torch.float64)
    if isinstance(kind, Binary):
        y = (torch.rand(logits.shape, generator=random) < logits.sigmoid()).double()
        sure = (3 * logits).sigmoid()
    else:
        y = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
        sure = (3 * logits).softmax(-1)
    found = fit_temperature(sure, y, kind)
    assert found == pytest.approx(3, rel=0.1)
    cooled = at_temperature(sure, found, kind)
    before, after = nll_and_ece(sure, y, kind), nll_and_ece(cooled, y, kind)
    assert after[0] < before[0]
    assert after[1] < 0.02 < before[1]
    torch.testing.assert_close(at_temperature(sure, 1.0, kind), sure)
    by_hand = F.binary_cross_entropy(sure, y) if isinstance(kind, Binary) else F.nll_loss(sure.log(), y)
    assert before[0] == pytest.approx(by_hand.item(), rel=1e-4)


def test_values_have_no_temperature() -> None:
    with pytest.raises(InputError, match="temperatures are for probabilities"):
        fit_temperature(torch.rand(3, 2), torch.rand(3, 2), Regression())


@pytest.fixture(scope="module")
def calibrated(generator: ws.FittedGenerator, task: ws.Task) -> ws.FittedGenerator:
    return generator.calibrate(task, density=0.2, networks=4)


def test_a_generator_keeps_the_temperature_of_its_ensembles(
    calibrated: ws.FittedGenerator, generator: ws.FittedGenerator, task: ws.Task, tmp_path: Path
) -> None:
    (one,) = calibrated.temperatures
    assert one.nll_at < one.nll
    model = ws.FittedGenerator.load(calibrated.save(tmp_path / "g"))
    assert list(model.temperatures) == [one]
    assert model.fingerprint() == generator.fingerprint()
    plain = model.ensemble(3, density=0.2)
    cooled = model.ensemble(3, density=0.2, calibrated=True)
    x = task.test.x[:20]
    p = plain.predict_proba(x).double() ** (1 / one.temperature)
    torch.testing.assert_close(cooled.predict_proba(x).double(), p / p.sum(-1, keepdim=True), atol=1e-5, rtol=0)
    assert torch.equal(cooled.predict(x), plain.predict(x))
    assert not torch.allclose(cooled.predict_proba(x), plain.predict_proba(x), atol=1e-4)
    assert len(model.calibrate(task, density=0.2, networks=3).temperatures) == 1  # it replaces the other
    (tmp_path / "g" / "measured.json").write_text("{}")
    with pytest.raises(StorageError, match="truncated or was changed"):
        ws.FittedGenerator.load(tmp_path / "g")


def test_temperatures_do_not_see_test_data(generator: ws.FittedGenerator, task: ws.Task) -> None:
    blind = replace(task, test=ws.Split(task.test.x, task.test.y.roll(1)))
    wrong = replace(task, validation=ws.Split(task.validation.x, task.validation.y.roll(1)))  # the control
    one, same, other = (generator.calibrate(t, density=0.2, networks=2).temperatures[0] for t in (task, blind, wrong))
    assert one == same
    assert other.temperature > 1.5 * one.temperature


def test_a_temperature_that_was_not_fitted_is_refused(
    calibrated: ws.FittedGenerator, generator: ws.FittedGenerator, task: ws.Task
) -> None:
    with pytest.raises(InputError, match=r"no temperature was fitted.*calibrate\(task"):
        generator.ensemble(2, density=0.2, calibrated=True)
    with pytest.raises(InputError, match="only under"):
        calibrated.ensemble(2, density=0.1, calibrated=True)
    values = replace(task, outputs=Regression(), loss=lambda outputs, y: F.mse_loss(outputs[:, 0], y.float()))
    with pytest.raises(InputError, match="temperatures are for probabilities"):
        generator.calibrate(values, density=0.2)


def test_networks_that_are_given_can_be_calibrated(tickets: ws.Collection, task: ws.Task) -> None:
    ensemble = tickets.ensemble()
    cooled = ensemble.calibrated(task.validation.x, task.validation.y)
    assert cooled.temperature != 1
    y = task.validation.y
    losses = [F.nll_loss(e.predict_proba(task.validation.x).log(), y) for e in (ensemble, cooled)]
    assert losses[1] < losses[0]

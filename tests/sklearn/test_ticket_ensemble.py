"""The estimator passes scikit-learn's own checks, and its networks are tickets."""

import subprocess
import sys
from unittest import SkipTest

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import weightspace as ws
from weightspace.networks.outputs import OUTPUT_KINDS, Regression
from weightspace.training import engine

TINY = {"networks": 2, "hidden": (8,), "epochs": 8, "batch_size": 64, "lr": 0.05, "density": 0.7}


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch) -> None:
    """Every set of data would be timed for itself."""
    monkeypatch.setattr(engine, "_measured_once", lambda _task, limit, _device: engine.Execution(limit, 1, 0.0))


def test_scikit_learns_own_checks() -> None:
    failed = []
    for estimator, check in estimator_checks_generator(ws.sklearn.TicketEnsemble(**TINY)):
        try:
            check(estimator)
        except SkipTest:  # what is not installed here
            pass
        except Exception as error:
            failed.append(f"{getattr(check, 'func', check).__name__}: {error!r}")
    assert failed == []


def test_it_is_an_ensemble_of_tickets() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = ws.sklearn.TicketEnsemble(**(TINY | {"density": 0.5, "epochs": 20})).fit(x, names)
    assert len(model.tickets_) == 2
    assert model.tickets_.densities.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert model.score(x, names) > 0.85
    standard = (x - x.mean(0)) / x.std(0)
    members = model.tickets_.ensemble().predict_proba(standard.astype("float32"))
    assert np.allclose(model.predict_proba(x), members.numpy(), atol=1e-5)
    shuffled = np.random.RandomState(0).permutation(names)
    assert ws.sklearn.TicketEnsemble(**TINY).fit(x, shuffled).score(x, names) < 0.7  # the control


def test_it_goes_into_pipelines_and_searches() -> None:
    x, y = load_iris(return_X_y=True)
    small = {**TINY, "networks": 1, "epochs": 6}
    search = GridSearchCV(ws.sklearn.TicketEnsemble(**small), {"density": [0.3, 0.9]}, cv=2).fit(x, y)
    assert search.best_params_["density"] in (0.3, 0.9)
    pipeline = make_pipeline(MinMaxScaler(), ws.sklearn.TicketEnsemble(**small))
    assert cross_val_score(pipeline, x, y, cv=2).min() > 0.5


def test_networks_that_there_are_become_a_classifier() -> None:
    """Of pictures, with statistics of BatchNorm, and with names of their own."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))

    x, names = torch.randn(20, 1, 8, 8), ["a", "b", "c"]
    files = [build().state_dict() for _ in range(2)]
    networks = ws.Collection.concatenate([ws.from_state_dict(one, build) for one in files])
    model = ws.sklearn.TicketEnsemble.of(networks, x[:1], names)
    rows = x.flatten(1).numpy()
    expected = networks.ensemble().predict_proba(x)
    assert np.allclose(model.predict_proba(rows), expected.numpy(), atol=1e-6)
    assert model.predict(rows).tolist() == [names[i] for i in expected.argmax(1)]
    assert accuracy_score(model.predict(rows), FrozenEstimator(model).fit(rows, None).predict(rows)) == 1
    with pytest.raises(NotFittedError):
        clone(model).predict(rows)
    with pytest.raises(ValueError, match="64 features"):
        model.predict(rows[:, :5])
    with pytest.raises(ws.InputError, match="3 classes, got 2 names"):
        ws.sklearn.TicketEnsemble.of(networks, x[:1], names[:2])
    values = ws.from_state_dict(nn.Linear(4, 2).state_dict(), lambda: nn.Linear(4, 2))
    values = values.replace(records=[{**values.records[0], "outputs": OUTPUT_KINDS.to_json(Regression())}])
    with pytest.raises(ws.InputError, match="logits of classes"):
        ws.sklearn.TicketEnsemble.of(values, torch.randn(1, 4))


def test_another_finder() -> None:
    x, y = load_iris(return_X_y=True)
    finder = ws.tickets.IMP(density=0.5, rate=0.5)
    model = ws.sklearn.TicketEnsemble(**(TINY | {"finder": finder})).fit(x, y)
    assert model.tickets_.records[0]["method"]["name"] == "IMP"


def test_scikit_learn_waits_until_it_is_asked_for() -> None:
    code = "import sys, weightspace as ws; print('sklearn' in sys.modules, 'TicketEnsemble' in dir(ws.sklearn))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        ws.sklearn.Other  # noqa: B018

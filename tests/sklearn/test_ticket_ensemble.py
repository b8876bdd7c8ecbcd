"""The estimator passes scikit-learn's own checks, and its networks are tickets."""

import subprocess
import sys
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import weightspace as ws
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

"""What Bayesian searches refuse before work starts, and what they warn of."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace import bayes
from weightspace.bayes.checks import require_likelihood, warn_of_other_loss
from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, LossOnly, Regression

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
VALUES = X @ torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.5, 0.0], [0.0, 1.0]])
LABELS = (VALUES[:, 0] > 0).long()
RECIPE = ws.Recipe("2it", batch_size=10, optimizer=ws.Adam(lr=1e-2))


def task_of(y: torch.Tensor, loss: Callable, **settings) -> ws.Task:
    return ws.tasks.from_tensors("small", X, y, lambda: nn.Linear(4, 2), recipe=RECIPE, loss=loss, **settings)


def squared(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 3 * (outputs - y).square().sum(1).mean()


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (LABELS, F.cross_entropy),
        (LABELS, nn.CrossEntropyLoss()),
        (LABELS, lambda o, y: F.nll_loss(o.log_softmax(-1), y, reduction="sum")),
        (F.one_hot(LABELS).float(), nn.BCEWithLogitsLoss()),
        (VALUES, F.mse_loss),
        (VALUES, squared),
    ],
)
def test_losses_that_are_likelihoods_up_to_a_factor_pass(y: torch.Tensor, loss: Callable) -> None:
    warn_of_other_loss(task_of(y, loss))


@pytest.mark.parametrize(
    ("y", "loss", "name"),
    [
        (LABELS, partial(F.cross_entropy, label_smoothing=0.1), "categorical"),
        (LABELS, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), "categorical"),
        (F.one_hot(LABELS).float(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), "Bernoulli"),
        (VALUES, F.l1_loss, "normal"),
        (VALUES, F.huber_loss, "normal"),
        (0.01 * VALUES, F.smooth_l1_loss, "normal"),
    ],
)
def test_other_losses_are_said_to_play_no_part(y: torch.Tensor, loss: Callable, name: str) -> None:
    with pytest.warns(UserWarning, match=f"not the negative log-likelihood of a {name} distribution"):
        warn_of_other_loss(task_of(y, loss))


def test_outputs_decide_the_likelihood() -> None:
    assert require_likelihood(task_of(LABELS, F.cross_entropy)) == Classes()
    assert require_likelihood(task_of(VALUES, F.mse_loss)) == Regression()
    assert require_likelihood(task_of(F.one_hot(LABELS), F.mse_loss, outputs=Binary())) == Binary()


def test_tasks_without_a_likelihood_or_with_own_data_are_refused_before_work(tmp_path: Path) -> None:
    unknown = task_of(VALUES, F.mse_loss, outputs=LossOnly())
    own = ws.tasks.from_own_data("own", X, VALUES[None].repeat(2, 1, 1), lambda: nn.Linear(4, 2), loss=F.mse_loss)
    start = ws.collect(unknown, 1, seed=0)
    searches = [
        bayes.Variational(noise_std=None).fit,
        bayes.BayesianIMP(density=0.5).find,
        bayes.GateSearch(0.5).find,
        bayes.GateSearch.concrete(0.5).find,
    ]
    for task, match in ((unknown, r"outputs=Classes\(\), Binary\(\) or Regression\(\)"), (own, "data of its own")):
        for search in searches:
            with pytest.raises(InputError, match=match):
                search(start, task, folder=tmp_path / "run")
        for sampler in (bayes.Nuts(draws=1, warm_up=1), bayes.WithGuide(lambda *_, **__: None)):
            with pytest.raises(InputError, match=match):
                sampler.sample(start, task)
    assert not (tmp_path / "run").exists()
    short = bayes.GateSearch.concrete(0.5, "features", length=ws.Step(iterations=2))
    assert short.find(start, unknown).records[0]["density"] == 0.5, "what looks at no targets needs no likelihood"

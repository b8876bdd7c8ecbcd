"""Metrics agree with scikit-learn, have a direction, and add up over batches."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score, root_mean_squared_error

import weightspace as ws
from weightspace.tasks import Binary, Classes, LossOnly, Metric, Regression
from weightspace.tasks.metrics import METRICS, default_metrics, metric_of


def test_accuracy_is_scikit_learns() -> None:
    logits, y = torch.randn(40, 3), torch.randint(3, (40,))
    assert METRICS["accuracy"](Classes())(logits, y) == pytest.approx(accuracy_score(y, logits.argmax(1)))
    labels = torch.randint(2, (40, 3)).float()
    expected = accuracy_score(labels.flatten(), (logits > 0).float().flatten())
    assert METRICS["accuracy"](Binary())(logits, labels) == pytest.approx(expected)
    one = torch.randn(40, 1)
    assert METRICS["accuracy"](Binary())(one, labels[:, 0]) == pytest.approx(
        accuracy_score(labels[:, 0], (one[:, 0] > 0).float())
    )


def test_positions_that_do_not_count_are_left_out() -> None:
    logits, y = torch.randn(6, 5, 3), torch.randint(3, (6, 5))
    y[:, 3:] = -100
    expected = accuracy_score(y[:, :3].flatten(), logits[:, :3].argmax(-1).flatten())
    assert METRICS["accuracy"](Classes())(logits, y) == pytest.approx(expected)
    perplexity = METRICS["perplexity"](Classes())(logits, y)
    mean = torch.nn.functional.cross_entropy(logits[:, :3].reshape(-1, 3), y[:, :3].flatten()).item()
    assert perplexity == pytest.approx(math.exp(mean), rel=1e-5)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_regression_is_scikit_learns(shape: tuple[int, ...]) -> None:
    values, y = torch.randn(*shape), torch.randn(*shape)
    assert METRICS["r2"](Regression())(values, y) == pytest.approx(r2_score(y.numpy(), values.numpy()), abs=1e-6)
    assert METRICS["rmse"](Regression())(values, y) == pytest.approx(
        root_mean_squared_error(y.flatten().numpy(), values.flatten().numpy()), rel=1e-5
    )


def test_a_target_that_does_not_vary() -> None:
    constant = torch.ones(5, 1)
    one = constant.numpy()
    assert METRICS["r2"](Regression())(constant, constant) == r2_score(one, one) == 1
    assert METRICS["r2"](Regression())(constant + 1, constant) == r2_score(one, one + 1) == 0


def test_means_over_samples_add_up_over_batches() -> None:
    logits, y = torch.randn(30, 4, 3), torch.randint(3, (30, 4))
    for name in ("accuracy", "perplexity"):
        metric = METRICS[name](Classes())
        parts = torch.cat([metric.values(logits[i : i + 7], y[i : i + 7]) for i in range(0, 30, 7)])
        assert metric.of_values(parts) == pytest.approx(metric(logits, y))


def test_names_directions_and_shapes_are_checked() -> None:
    assert [metric.name for metric in default_metrics(Classes())] == ["accuracy"]
    assert [metric.name for metric in default_metrics(Regression())] == ["r2"]
    assert default_metrics(LossOnly()) == ()
    assert not METRICS["perplexity"](Classes()).higher_is_better
    with pytest.raises(ws.InputError, match="no metric is called 'acuracy': use accuracy"):
        metric_of("acuracy", Classes())
    for name, kind in (("accuracy", Regression()), ("r2", Classes()), ("rmse", LossOnly())):
        with pytest.raises(ws.InputError, match="does not apply"):
            metric_of(name, kind)
    with pytest.raises(ws.InputError, match="one word"):
        Metric("top 5", lambda o, y: 0.0)
    with pytest.raises(ws.InputError, match=r"must return one number, got a tensor of shape \(4,\)"):
        Metric("mine", lambda o, y: o[:, 0])(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(ws.InputError, match="one value a sample"):
        Metric("mine", lambda o, y: o.mean(), per_sample=True)(torch.ones(4, 2), torch.ones(4))

"""MC dropout."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.evaluation.dropout import MCDropout


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
    with pytest.raises(ws.InputError, match="above 0 and below 1"):
        MCDropout(rates=(1.5,))
    flat = ws.tasks.digits(hidden=())
    with pytest.raises(ws.InputError, match="single layer"):
        MCDropout().fit(flat)


def in_place() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10)
    )


def test_the_first_layer_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = ws.tasks.digits(hidden=())
    task = replace(digits, architecture=ws.Architecture.of(in_place), recipe=ws.Recipe("3it", batch_size=64))
    fitted = MCDropout(rates=(0.2,)).fit(task)
    x = task.test.x[:50]
    found = list(fitted.passes(x, 4)), list(fitted.passes(2 * x, 4))
    called = 0
    product = torch.nn.functional.linear

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal called
        called += 1
        return product(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    again = list(fitted.passes(x, 4))
    assert called == 1 + 2 * 4
    monkeypatch.setattr("weightspace.evaluation.dropout._REMEMBERED", 0)
    computed = list(fitted.passes(x, 4)), list(fitted.passes(2 * x, 4))
    assert called == (1 + 2 * 4) + 2 * 3 * 4
    for remembered, plain in zip(
        [*found[0], *found[1], *again], [*computed[0], *computed[1], *computed[0]], strict=True
    ):
        assert torch.equal(remembered, plain)

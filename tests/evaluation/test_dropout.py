"""MC dropout."""

import pytest
import torch

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

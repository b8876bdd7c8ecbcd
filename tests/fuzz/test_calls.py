"""A short part of the wrong calls, and what its checkers see."""

import math
from dataclasses import dataclass

import pytest
import torch

import weightspace as ws
from experiments.fuzz import calls
from experiments.fuzz.outcomes import Findings
from weightspace.errors import InputError


@dataclass(frozen=True)
class Careless:
    width: int = 1
    rate: float = 0.5


def refuse(n: int) -> None:
    raise InputError(f"n must be at least 1, got {n}")


def short(n: int) -> ws.Collection:
    module = ws.models.MLP([2, 2])
    return ws.from_state_dict(module.state_dict(), ws.Architecture("MLP", {"sizes": [2, 2]}))


@pytest.mark.parametrize(
    ("function", "arguments", "outcome"),
    [
        (refuse, {"n": 0}, "refused"),
        (lambda n: 1 / n, {"n": 0}, "traceback"),
        (lambda n: torch.tensor([n]), {"n": math.nan}, "wrong"),
        (lambda n: {"a": [1.0, n]}, {"n": math.nan}, "wrong"),
        (lambda n: torch.ones(n), {"n": 2}, "right"),
        (short, {"n": 2}, "wrong"),
        (short, {"n": 1}, "right"),
        (Careless, {"width": "x"}, "wrong"),
        (Careless, {"rate": math.nan}, "wrong"),
        (Careless, {"rate": 1}, "right"),
    ],
)
def test_what_was_planted_is_seen(function, arguments: dict, outcome: str) -> None:
    call = calls.Call("planted", "here", function, {}, tuple(arguments))
    assert calls.judge(call, arguments)[0] == outcome


def test_hypothesis_draws_values_of_the_right_types_or_of_others() -> None:
    call = calls.Call("Careless", "here", Careless, {}, ("width", "rate"))
    assert all(isinstance(value, int) for value in call.values("width", types=False))
    assert not any(isinstance(value, int) for value in call.values("width", types=True))
    findings = Findings()
    calls._draw("0", range(10), [call], findings, types=True)
    assert findings.tried == 10
    assert findings.number("wrong") == 10
    calls._draw("0", range(10), [call], findings, types=False)
    assert findings.number("right") > 5

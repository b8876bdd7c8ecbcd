"""What modules return: its tensors, and how far two outputs are apart."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.runtime.outputs import difference, tensors_within


@dataclass
class Both:
    first: Tensor
    rest: Any = None


class Slotted:
    __slots__ = ("empty", "keys")

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Holder:
    def __init__(self, keys: Tensor) -> None:
        self.keys, self.device, self.dtype = keys, keys.device, keys.dtype
        self.itself = self


A, B, C = torch.ones(2), torch.zeros(3), torch.arange(2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, [A]),
        ({"a": A, "b": [B, (C, None)]}, [A, B, C]),
        (Both(A, Both(B)), [A, B]),
        ((Slotted(A), Holder(B)), [A, B]),
        (deque([A, B]), [A, B]),
        (
            [A, torch.device("cpu"), torch.float32, torch.relu, lambda: B, A.sum, nn.Linear(1, 1), "text", 1.5, Tensor],
            [A],
        ),
        (object(), []),
    ],
)
def test_tensors_are_found_wherever_they_are(value: Any, expected: list[Tensor]) -> None:
    found = tensors_within(value)
    assert len(found) == len(expected)
    assert all(one is other for one, other in zip(found, expected, strict=True))


def test_what_is_read_once_is_refused() -> None:
    with pytest.raises(InputError, match="holds a generator"):
        tensors_within({"a": (t for t in [A])})
    with pytest.raises(InputError, match="the example holds a map"):
        tensors_within(map(torch.relu, [A]), "the example")


def test_differences() -> None:
    assert difference({"x": A, "n": C}, {"x": A, "n": C}) == 0
    assert difference([A * 2.5], [A * 2]) == 0.25
    assert difference(1j * A, 2j * A) == 0.5
    assert difference(A.bfloat16(), A) == 0
    assert difference(torch.tensor([-math.inf, 1.0]), torch.tensor([-math.inf, 1.0])) == 0
    for found, expected in (
        (A, B),
        ([A], [A, A]),
        (C + 1, C),
        (torch.tensor([math.inf, 1.0]), torch.tensor([-math.inf, 1.0])),
        (torch.tensor([math.nan, 1.0]), torch.ones(2)),
    ):
        assert difference(found, expected) == math.inf

"""Forward passes for tracing and proof."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.symmetry.examples import (
    Net,
    X,
    net,
)
from weightspace.errors import InputError
from weightspace.symmetry import trace


@dataclass
class Output:
    logits: torch.Tensor
    features: list[torch.Tensor] = field(default_factory=list)


def test_tensors_inside_objects_are_outputs() -> None:
    class Wrapped(Net):
        def forward(self, x: torch.Tensor) -> Output:
            h = self.a(x).relu()
            return Output(self.b(h), [h])

    assert trace(Wrapped(), X).groups == ()


@pytest.mark.parametrize("way", ["tolist", "numpy", "item"])
def test_control_flow_on_values_is_refused(way: str) -> None:
    class Hidden(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            positive = {
                "tolist": lambda: sum(x.sum(0).tolist()) > 0,
                "numpy": lambda: x.numpy().sum() > 0,
                "item": lambda: x.sum().item() > 0,
            }[way]()
            return self.b(h * torch.arange(6) if positive else h)

    with pytest.raises(InputError, match="control flow"):
        trace(Hidden(), X)


@pytest.mark.parametrize("written", [False, True])
def test_both_outcomes_of_a_condition_on_data_are_traced(written: bool) -> None:
    class Branches(Net):
        def __init__(self, apart: torch.Tensor) -> None:
            super().__init__()
            self.apart = apart

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            flag = torch.zeros(1)
            flag[0] = x.sum()
            if bool(flag > 1e9) if written else x.sum() > 1e9:  # the example does not take this way
                return self.b(h * self.apart)
            return self.b(h)

    assert [group.size for group in trace(Branches(torch.ones(6)), X).groups] == [6]
    with pytest.warns(UserWarning, match="no permutation moves"):
        assert trace(Branches(torch.arange(6.0)), X).groups == (), "on the other way the units are unlike"


def test_a_condition_on_units_ties_them_and_a_way_that_raises_is_none() -> None:
    class Guarded(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            if h.isnan().any():
                raise ValueError("not a number")
            return self.b(h)

    assert [group.size for group in trace(Guarded(), X).groups] == [6]

    class OneUnit(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            return self.b(h) * (2 if h[0, 3] > 0.1 else 1)

    assert [group.size for group in trace(OneUnit(), X).groups] == [5], "the unit that is asked keeps its place"


def test_loops_until_a_condition_on_data_holds_are_refused() -> None:
    class Loops(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            while h.abs().max() > 1e-3:
                h = h / 2
            return self.b(h)

    with pytest.raises(InputError, match=r"more than 16 ways.*by hand \(symmetry=\)"):
        trace(Loops(), X)


def test_a_module_that_is_called_drop_something_is_still_put_in_training_mode() -> None:
    class BackdropNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.norm.training == self.training
            return self.b(self.norm(self.a(x)))

    assert trace(BackdropNet(), X).coverage > 0.9


def test_functional_dropout_is_left_out_as_its_module_is() -> None:
    functional = net(lambda self, h: F.dropout(h, 0.5, self.training))
    assert trace(functional, X).coverage == trace(Net(), X).coverage > 0.9


def test_arguments_by_name() -> None:
    class Two(Net):
        def forward(self, x: torch.Tensor, *, scale: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.b(self.a(x).relu()) * scale["by"]

    symmetry = trace(Two(), {"x": X, "scale": {"by": torch.rand(6, 2)}})
    assert len(symmetry.groups) == 1

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


@pytest.mark.parametrize("way", ["tolist", "numpy", "item", "written"])
def test_control_flow_on_values_is_refused(way: str) -> None:
    class Hidden(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            flag = torch.zeros(1)
            if way == "written":
                flag[0] = x.sum()
            positive = {
                "tolist": lambda: sum(x.sum(0).tolist()) > 0,
                "numpy": lambda: x.numpy().sum() > 0,
                "item": lambda: x.sum().item() > 0,
                "written": lambda: bool(flag > 0),
            }[way]()
            return self.b(h * torch.arange(6) if positive else h)

    with pytest.raises(InputError, match="control flow"):
        trace(Hidden(), X)


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

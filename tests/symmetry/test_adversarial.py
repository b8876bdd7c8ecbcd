"""Modules that try to get a wrong symmetry past the proof, or to crash the tracer."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from tests.symmetry.test_symmetry import Cumulated
from weightspace.errors import InputError
from weightspace.symmetry import Axis, Group, Symmetry, prove, trace
from weightspace.symmetry.proof import _cycles

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """4 - 6 - 2; subclasses change what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("statistic", torch.zeros(6))
        self.gate = nn.Parameter(torch.tensor(1.0))

    def inside(self, h: torch.Tensor) -> torch.Tensor:
        return h

    def forward(self, x: torch.Tensor) -> object:
        return self.b(self.gate * self.inside(self.a(x).relu()))


def net(inside: Callable[[Net, torch.Tensor], torch.Tensor]) -> Net:
    return type("Variant", (Net,), {"inside": inside})()


def wrong(symmetry: Symmetry, without: str) -> Symmetry:
    groups = tuple(
        Group(
            g.name, g.size, tuple(a for a in g.incoming if a.tensor != without),
            tuple(a for a in g.outgoing if a.tensor != without), g.homogeneous, (), g.parent,
        )
        for g in symmetry.groups
    )  # fmt: skip
    return Symmetry(symmetry.layout, groups, ("statistic",))


def test_updated_statistics_are_compared_although_units_can_be_rescaled() -> None:
    def track(self: Net, h: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.statistic.copy_(h.amax(0))
        return h

    module = net(track)
    symmetry = trace(module, X)
    assert "statistic" in {a.tensor for g in symmetry.groups for a in g.axes}
    (group,) = (g for g in symmetry.groups if g.size == 6)
    table = Group("units", 6, (Axis("a.weight", 0), Axis("a.bias", 0)), (Axis("b.weight", 1),), homogeneous=True)
    with pytest.raises(InputError, match="does not fit"):
        prove(Symmetry(symmetry.layout, (table,), ("statistic",)), module, X)
    assert group.size == 6


def test_a_buffer_that_is_replaced_in_training_moves_with_its_units() -> None:
    def replace(self: Net, h: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.statistic = h.mean(0).detach()
        return h

    symmetry = trace(net(replace), X)
    assert "statistic" in {a.tensor for g in symmetry.groups for a in g.axes}


def test_proofs_move_every_unit_by_permutations_that_are_not_their_own_inverse() -> None:
    symmetry = trace(ws.models.MLP((4, 2, 5, 3, 2)), X)
    for seed in range(20):
        for group in symmetry.groups:
            p = _cycles(symmetry, torch.Generator().manual_seed(seed))[group.name]
            assert (p != torch.arange(group.size)).all()
            assert group.size == 2 or not torch.equal(p, p.argsort())


def test_infinite_outputs_neither_hide_an_error_nor_make_one() -> None:
    class Masked(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            assert isinstance(out, torch.Tensor)
            return out.masked_fill(torch.tensor([[True, False]]), -torch.inf)

    module = Masked()
    symmetry = trace(module, X)
    assert len(symmetry.groups) == 1
    with pytest.raises(InputError, match="does not fit"):
        prove(wrong(symmetry, "a.bias"), module, X)


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


class Cast(nn.Module):
    """A norm in float32, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


ACCEPTED: dict[str, Callable[[], nn.Module]] = {
    "a scalar parameter": Net,
    "a cast to float32": lambda: nn.Sequential(nn.Linear(4, 6), Cast(), nn.Linear(6, 2)),
    "a power with the tensor as exponent": lambda: net(lambda _, h: 2**h),
    "a maximum over samples": lambda: net(lambda _, h: h - h.max(0).values),
    "any over units": lambda: net(lambda _, h: h * (h > 0).any(1)[:, None]),
    "stacks of grouped convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=4), nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 1), nn.Flatten(),
    ),
    "grouped convolutions of different groups": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 1, groups=6), nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=3), nn.ReLU(), nn.Conv2d(12, 4, 1), nn.Flatten(),
    ),
    "a grouped convolution in front of the output": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten()
    ),
    "an ensemble in one tensor": lambda: Ensemble(),
}  # fmt: skip


# Units that could move only inside the blocks of an axis whose blocks are fixed are left in place.
LITTLE = {"a grouped convolution in front of the output"}


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.w = nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.a(x), self.w).mean(0)


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_modules_are_traced(name: str) -> None:
    torch.manual_seed(0)
    least = 0.0 if name in LITTLE else 0.3
    assert trace(ACCEPTED[name](), X, fix_unknown=True).coverage >= least


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("nothing")


def written(self: Net, h: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(h)
    torch.amax(h, 0, out=self.statistic)
    return out + h


REFUSED: dict[str, tuple[Callable[[], nn.Module], object]] = {
    "a roll over all axes": (lambda: net(lambda _, h: h.roll(1)), X),
    "results written into a given tensor": (lambda: net(written), X),
    "a lazy layer": (lambda: nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2)), X[:0]),
    "a wrong shape": (Net, X[:, :3]),
    "a wrong kind of input": (Net, X.long()),
    "no samples for a norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), X[:1]),
    "an error of the module's own": (Broken, X),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_a_message(name: str) -> None:
    make, example = REFUSED[name]
    with pytest.raises(InputError):
        trace(make(), example)


def test_arguments_by_name() -> None:
    class Two(Net):
        def forward(self, x: torch.Tensor, *, scale: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.b(self.a(x).relu()) * scale["by"]

    symmetry = trace(Two(), {"x": X, "scale": {"by": torch.rand(6, 2)}})
    assert len(symmetry.groups) == 1


def test_a_wrong_trace_names_itself_and_can_be_left_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.symmetry.tracing import shape_rules
    from weightspace.symmetry.tracing.rules import same

    # A rule that is wrong: it says that a cumulative sum treats units alike.
    monkeypatch.setitem(shape_rules.RULES, torch.ops.aten.cumsum, same)
    with pytest.raises(
        InputError, match=r"tracing Cumulated led to a symmetry that does not stand the proof.*fix_unknown"
    ):
        trace(Cumulated(), X)
    with pytest.warns(UserWarning, match="did not stand the proof"):
        assert trace(Cumulated(), X, fix_unknown=True).groups == ()


def test_writes_into_parts_of_tensors_are_reported() -> None:
    def pieces(self: Net, h: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(6, 6)
        out[:, :3] = h[:, :3]
        out[:, 3:] = h[:, 3:]
        return out

    with pytest.warns(UserWarning, match="left in place: a write"):
        trace(net(pieces), X)

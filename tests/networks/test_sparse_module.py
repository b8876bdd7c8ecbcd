"""Pruned weights of a module are zero, whatever its user does with it."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from weightspace.networks.sparse_module import keep_sparse, masked_tensors, release, zero_pruned

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
Edit = Callable[[nn.Module], None]


def dense() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    return {n: torch.rand(p.shape, generator=random) < 0.4 for n, p in module.named_parameters() if p.ndim > 1}


def sparse() -> nn.Module:
    module = dense()
    return keep_sparse(module, masks_of(module))


def revived(module: nn.Module) -> int:
    """Pruned weights that are not zero, as the parameters are."""
    return sum(
        int((owner.get_parameter(hook.name)[~hook.mask(owner)] != 0).sum()) for owner, hook in masked_tensors(module)
    )


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]


class OwnSign(torch.optim.Optimizer):
    """Divides 0 by 0 wherever there is no gradient, and adds noise."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad / p.grad.abs() + torch.randn_like(p), alpha=-0.01)


OPTIMIZERS: list[Callable[[object], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),  # pyright: ignore[reportArgumentType]
    lambda p: torch.optim.Adam(p, 0.01),  # pyright: ignore[reportArgumentType]
    lambda p: torch.optim.AdamW(p, 0.01),  # pyright: ignore[reportArgumentType]
    lambda p: torch.optim.LBFGS(p, max_iter=2),  # pyright: ignore[reportArgumentType]
    OwnSign,
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("prepare", [lambda m: m, copy.deepcopy])
def test_momentum_of_the_dense_phase_revives_nothing(make, prepare) -> None:
    plain = dense()
    first = make(plain.parameters())
    step(plain, first)
    module = prepare(sparse())
    second = make(module.parameters())
    if not isinstance(second, OwnSign):
        second.load_state_dict(first.state_dict())
    step(module, second)
    assert revived(module) == 0
    again = copy.deepcopy(sparse())
    again.load_state_dict(module.state_dict())
    assert torch.allclose(again(X), module(X), equal_nan=True)  # no value hides where the mask is False


def test_without_the_hooks_momentum_would_revive_weights() -> None:  # the control
    module, plain = sparse(), dense()
    kept = [(owner, hook.name, hook.mask(owner).clone()) for owner, hook in masked_tensors(module)]
    release(module)
    first, second = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (plain, module))
    step(plain, first)
    second.load_state_dict(first.state_dict())
    step(module, second)
    assert all((owner.get_parameter(name)[~mask] != 0).any() for owner, name, mask in kept)
    assert not [name for name, _ in module.named_buffers()]
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in module.modules())


@torch.no_grad()
def langevin(module: nn.Module) -> None:
    for p in module.parameters():
        p.add_(torch.randn_like(p))


def langevin_on_data(module: nn.Module) -> None:
    for p in module.parameters():
        p.data.add_(torch.randn_like(p))


@pytest.mark.parametrize("edit", [langevin, langevin_on_data])
@pytest.mark.parametrize(
    "read", [lambda m: m(X), lambda m: m.state_dict(), lambda m: [m[0](X), m[2](X @ torch.ones(6, 8))]]
)
def test_edits_in_place_are_gone_at_the_next_use(edit: Edit, read: Callable[[nn.Module], object]) -> None:
    module = sparse()
    edit(module)
    assert revived(module)  # the control: torch tells nobody of the edit
    state_before = {name: p.detach().clone() for name, p in module.named_parameters()}
    read(module)
    assert revived(module) == 0
    kept = masks_of(module)
    for name, p in module.named_parameters():  # and kept weights are as the edit left them
        mask = kept.get(name, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(p[mask], state_before[name][mask])


class Unusual(nn.Module):
    """Attention, whose output layer is never called; a recurrent cell; a tied head; a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell = nn.GRU(8, 8, batch_first=True)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.words(ids)
        h = self.cell(self.attention(h, h, h)[0])[0]
        return self.head(self.twice(self.twice(h).tanh()))


def test_layers_that_are_not_called_themselves_tied_and_used_twice() -> None:
    module = Unusual()
    ids = torch.arange(12).reshape(2, 6) % 9
    keep_sparse(module, masks_of(module))
    langevin_on_data(module)
    module(ids).sum().backward()
    assert revived(module) == 0
    assert all(not owner.get_parameter(h.name).grad[~h.mask(owner)].any() for owner, h in masked_tensors(module))
    dense_state = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    by_loading = copy.deepcopy(module)
    by_loading.load_state_dict(dense_state, strict=False)
    without_cell = {n: t for n, t in dense_state.items() if not n.startswith("cell.")}  # torch calls it by its own list
    by_loading.cell.load_state_dict(module.cell.state_dict())
    assert torch.allclose(torch.func.functional_call(module, without_cell, (ids,)), by_loading(ids), atol=1e-6)


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.5)])
def test_averaged_models_stay_sparse(average) -> None:
    module = sparse()
    averaged = AveragedModel(module, multi_avg_fn=average)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        step(module, optimizer)
        langevin_on_data(module)
        averaged.update_parameters(module)
    averaged(X)
    assert revived(averaged) == 0
    assert {name for name in averaged.state_dict() if "mask" in name} == set()


def test_functional_calls_compute_with_masked_values_of_the_callers_tensors() -> None:
    module, given = sparse(), {name: torch.randn_like(p) for name, p in dense().named_parameters()}
    before = {name: tensor.clone() for name, tensor in given.items()}
    expected = copy.deepcopy(module)
    expected.load_state_dict(given)
    kept = dict(module.named_parameters())
    assert torch.equal(torch.func.functional_call(module, given, (X,)), expected(X))
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in kept.items()}

    def loss(state: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(module, state, (X,)), Y)

    gradients = torch.func.grad(loss)(given)
    assert all(not gradients[name][~mask].any() for name, mask in masks_of(module).items())
    with pytest.raises(RuntimeError):  # a call that fails leaves the module as it was
        torch.func.functional_call(module, given, (X[:, :2],))
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in kept.items()}
    langevin_on_data(module)
    assert torch.func.vmap(module)(X).shape == (16, 3)
    assert torch.func.grad(lambda x: module(x).sum())(X).shape == X.shape
    assert revived(module) == 0


def test_torch_compile_in_one_graph() -> None:
    torch._dynamo.reset()
    module = sparse()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        step(compiled, optimizer)  # pyright: ignore[reportArgumentType]
    langevin_on_data(module)
    outputs = compiled(X)
    assert revived(module) == 0
    assert torch.allclose(outputs, module(X), atol=1e-6)


def test_pickled_exported_and_observed_modules() -> None:
    module = sparse()
    langevin(module)
    module(X)
    program = torch.export.export(module, (X,))
    assert set(program.state_dict) == set(dense().state_dict())
    assert torch.allclose(program.module()(X), module(X))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)  # our own file
    langevin(again)
    with FlopCounterMode(display=False):
        again(X)
    assert revived(again) == 0


def test_masks_can_be_replaced_and_count_once() -> None:
    module = sparse()
    fewer = {name: mask & (torch.arange(mask.shape[1]) > 2) for name, mask in masks_of(module).items()}
    keep_sparse(module, fewer)
    assert [len(m._forward_pre_hooks) for m in module.modules()] == [1, 1, 0, 1]
    assert all(not p[~fewer[name]].any() for name, p in module.named_parameters() if name in fewer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_zero_means_zero_in_every_type(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False, True, False, False]])
    values = torch.tensor([[-1.5, torch.nan, -0.0, -torch.inf, 3.0]], dtype=dtype)
    zero_pruned(values.T, mask.T)  # not contiguous
    assert values.tolist() == [[-1.5, 0.0, 0.0, 0.0, 0.0]]
    assert values.signbit().tolist() == [[True, False, True, False, False]]

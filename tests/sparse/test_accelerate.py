"""The fastest form of each layer is measured, checked and chosen."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import weightspace as ws
from tests.kernels.test_compiled import needs_compiler
from tests.sparse.examples import measure_as_fastest, sparse_linear, ticket
from weightspace import sparse
from weightspace.sparse.bench import two_four_blocks
from weightspace.sparse.forms import CompiledCSRLinear, CSRLinear, other_forms
from weightspace.sparse.measuring import relative_error


@pytest.mark.usefixtures("brief")
def test_accelerated_is_the_same_function_and_says_what_it_chose() -> None:
    module = ticket()
    x = torch.randn(256, 784)
    fast = sparse.accelerate(module, x)
    assert relative_error(fast, module, x) < 1e-5
    assert [choice.layer for choice in fast.choices] == ["1", "3", "5"]
    for choice in fast.choices:
        layer = fast.module.get_submodule(choice.layer)
        assert isinstance(layer, CSRLinear) == (choice.form != "dense")
        assert isinstance(layer, CompiledCSRLinear) == (choice.form == "compiled rows")
        assert set(choice.seconds) | {"compiled rows"} == {"dense", "rows", "compiled rows"}
    assert isinstance(module[1], nn.Linear)  # the module itself is as it was


@pytest.mark.parametrize("fastest", ["dense", "rows", "compiled rows"])
def test_the_measured_choice_is_honoured(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fastest == "compiled rows":
        needs_compiler()
    measure_as_fastest(fastest, monkeypatch)
    module, x = ticket(), torch.randn(8, 784)
    fast = sparse.accelerate(module, x)
    assert {choice.form for choice in fast.choices} == {fastest}
    assert ("measured fastest" in str(fast)) == (fastest != "dense")
    assert isinstance(fast.module.get_submodule("1"), nn.Linear if fastest == "dense" else CSRLinear)
    torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-5)
    asked = sparse.accelerate(module, x, forms=[sparse.Form.CSR])
    assert set(asked.choices[0].seconds) == {"dense", "rows"}
    assert {choice.form for choice in asked.choices} == {fastest if fastest == "rows" else "dense"}
    none = sparse.accelerate(module, x, forms=[])
    assert [choice.reason for choice in none.choices] == ["only dense was asked for"] * 3
    elsewhere = sparse.accelerate(module, x, forms=[sparse.Form.CUTLASS])
    assert [choice.reason for choice in elsewhere.choices] == ["none of the forms asked for fits it here: cutlass"] * 3


def test_forms_that_cannot_be_chosen_are_refused() -> None:
    allowed = sys.modules["weightspace.sparse.accelerate"]._allowed.__wrapped__  # without type checks, as users call it
    for forms, said in (("rows", "a list of forms"), (["row"], "compiled rows"), ([sparse.Form.INT8], "int8=True")):
        with pytest.raises(ws.InputError, match=said):
            allowed(forms, False)
    assert allowed(["rows", sparse.Form.INT8], True) == {sparse.Form.CSR, sparse.Form.INT8}


def test_layers_of_many_weights_are_not_compiled() -> None:
    assert set(other_forms(sparse_linear(40, 30, 0.9), "cpu", torch.float32, False)[0]) == {"rows"}
    assert set(other_forms(sparse_linear(40, 30, 0.1), "cpu", torch.float32, False)[0]) == {"rows", "compiled rows"}


def test_layers_without_a_faster_form_stay_dense() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2)).double().eval()
    fast = sparse.accelerate(module, torch.randn(2, 4, 3, 3, dtype=torch.float64))
    assert [choice.form for choice in fast.choices] == ["dense", "dense"]
    assert "grouped" in fast.choices[0].reason
    assert "float32" in fast.choices[1].reason
    with pytest.raises(ws.InputError, match="does not run"):
        sparse.accelerate(ticket(), torch.randn(3, 5))
    with pytest.raises(ws.InputError, match="at least one input"):
        sparse.accelerate(ticket(), torch.randn(0, 784))
    with pytest.raises(ws.InputError, match="all finite"):
        sparse.accelerate(ticket(), torch.full((3, 784), torch.nan))
    with pytest.raises(ws.InputError, match="needs CUDA"):
        sparse.accelerate(ticket(), torch.randn(3, 784), strict=True)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = sparse_linear(600, 600)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.inner(x).relu(), self.inner.weight.t())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = sparse_linear(600, 600)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.b(input=x).relu())


@pytest.mark.usefixtures("rows_win")
def test_a_layer_by_itself_is_replaced() -> None:
    layer, x = sparse_linear(1000, 1000), torch.randn(200, 1000)
    fast = sparse.accelerate(layer, x)
    assert isinstance(fast.module, CSRLinear)
    assert torch.allclose(fast(x), layer(x), atol=1e-4)
    assert fast.nbytes < 0.2 * layer.weight.nbytes


@pytest.mark.usefixtures("rows_win")
def test_a_shared_layer_is_replaced_under_all_its_names() -> None:
    module, x = Shared().eval(), torch.randn(200, 600)
    fast = sparse.accelerate(module, x)
    assert isinstance(fast.module.b, CSRLinear)
    assert fast.module.a is fast.module.b
    assert torch.allclose(fast(x), module(x), atol=1e-4)


@pytest.mark.usefixtures("rows_win")
@pytest.mark.parametrize("kind", ["tied", "transformer"])
def test_networks_that_read_their_layers_weights_stay_dense(kind: str) -> None:
    if kind == "tied":
        module, x = Tied().eval(), torch.randn(200, 600)
    else:
        module, x = nn.TransformerEncoderLayer(64, 4, 2048, batch_first=True).eval(), torch.randn(8, 16, 64)
        with torch.no_grad():
            for layer in (module.linear1, module.linear2):
                layer.weight *= torch.rand(layer.weight.shape) < 0.01
    fast = sparse.accelerate(module, x)
    with torch.no_grad():
        assert torch.allclose(fast(x), module(x), atol=1e-4)
    assert {choice.form for choice in fast.choices} == {"dense"}
    assert any("does not run" in choice.reason for choice in fast.choices)


@pytest.mark.usefixtures("rows_win")
def test_layers_with_hooks_of_a_user_stay() -> None:
    layer = sparse_linear(800, 800)
    layer.register_forward_pre_hook(lambda _layer, inputs: (inputs[0].clamp(min=0),))
    module, x = nn.Sequential(layer).eval(), torch.randn(200, 800)
    fast = sparse.accelerate(module, x)
    assert not fast.choices
    assert torch.allclose(fast(x), module(x))


def test_a_module_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ws.InputError, match="no parameters"):
        sparse.accelerate(nn.ReLU(), torch.randn(3, 5))
    module = nn.Sequential(nn.Linear(5, 4))
    prune.l1_unstructured(module[0], "weight", 0.5)
    module(torch.randn(2, 5))
    with pytest.raises(ws.InputError, match=r"prune\.remove"):
        sparse.accelerate(module, torch.randn(3, 5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_accelerated_on_a_card_is_never_wrong() -> None:
    for module, length in list(two_four_blocks(torch.bfloat16).values())[:1]:
        fast = sparse.accelerate(module, torch.randn(512, length), device="cuda", dtype=torch.bfloat16)
        assert relative_error(fast, module, torch.randn(64, length).cuda().bfloat16()) < 2e-2
        assert {"dense", "cusparselt"} <= set(fast.choices[0].seconds)

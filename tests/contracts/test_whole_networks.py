"""Operations on whole networks take and return what the module takes and returns."""

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace import sparse
from weightspace.networks.calling import call
from weightspace.runtime import trees
from weightspace.runtime.outputs import difference, tensors_within
from weightspace.sparse.forms import Form
from weightspace.symmetry import Symmetry


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.last((self.first(x) + self.other(context)).relu())


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.value = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x).relu()
        return self.last(h), self.value(h)


class Named(TwoOutputs):
    """Takes a mapping as its only input, and returns one."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, value = super().forward(batch["x"] * batch["scale"][:, None])
        return {"logits": logits, "value": value}


class Casts(nn.Module):
    """Bytes in, as of every policy on images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("centre", torch.full((6,), 0.5, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() / 255 - torch.zeros(6, dtype=torch.float32) - self.centre
        return self.last(self.first(x.to(self.centre.dtype)).relu()).float()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.first, self.last = nn.Embedding(9, 4), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.first(self.embedding(ids)).relu() * mask[..., None]
        return self.last(h.sum(1) if mask.all() else h.sum(1) / mask.sum(1, keepdim=True))


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    settings = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8}
    config = transformers.BertConfig(vocab_size=9, hidden_size=8, intermediate_size=16, **settings)
    return transformers.BertForSequenceClassification(config)


def vision() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    module = VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    nn.init.normal_(module.heads.head.weight)  # zero from the start
    return module


IDS = torch.arange(24).reshape(4, 6) % 9
PADDING = torch.arange(6) < torch.tensor([6, 3, 4, 6])[:, None]
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "two inputs": (TwoInputs, (X, X[:, :4].flip(0))),
    "two inputs by name": (TwoInputs, {"context": X[:, :4].flip(0), "x": X}),
    "two outputs": (TwoOutputs, X),
    "mapping in and out": (Named, ({"x": X, "scale": X[:, 0]},)),
    "bytes": (Casts, (X * 80).clamp(0, 255).byte()),
    "float64": (lambda: TwoOutputs().double(), X.double()),
    "bfloat16": (lambda: Casts().bfloat16(), X),
    "tokens and mask": (Tokens, {"ids": IDS, "mask": PADDING}),
    "bert": (bert, {"input_ids": IDS, "attention_mask": PADDING.long()}),
    "torchvision": (vision, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
}
HIDDEN = {"bert": ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense")}
HIDDEN["torchvision"] = ("encoder.layers.encoder_layer_0.mlp.0", "encoder.layers.encoder_layer_0.mlp.3")


@pytest.fixture(scope="module", params=list(KINDS))
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Any, Symmetry]:
    """A module of which nothing reads half of the hidden units, its inputs, and its symmetry."""
    build, x = KINDS[request.param]
    torch.manual_seed(0)
    module = build().eval()
    _, last = hidden(request.param, module)
    readers = [last, module.value] if isinstance(module, TwoOutputs) else [last]
    for reader in readers:
        reader.weight.data[:, :8] = 0
        reader.weight.data[:, 8:] = torch.randn_like(reader.weight.data[:, 8:])
    return request.param, module, x, ws.symmetry.trace(module, x)


def hidden(kind: str, module: nn.Module) -> list[Any]:
    return [module.get_submodule(name) for name in HIDDEN.get(kind, ("first", "last"))]


def test_the_units_are_traced_and_the_function_stays(case: tuple[str, nn.Module, Any, Symmetry]) -> None:
    kind, module, x, symmetry = case
    group = next(g for g in symmetry.groups if HIDDEN.get(kind, ("first",))[0] == g.name)
    assert group.size == 16
    moved = copy.deepcopy(module)
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    permutations = symmetry.identity() | {group.name: torch.arange(16).roll(3)}
    moved.load_state_dict(state | symmetry.move(state, permutations))
    assert difference(call(moved, x), call(module, x)) < (2e-2 if kind == "bfloat16" else 1e-5)
    moved.load_state_dict(state | symmetry.move({n: state[n] for n in state if "last" not in n}, permutations))
    if "last" in dict(module.named_children()):
        assert difference(call(moved, x), call(module, x)) > 0.1, "one side alone changes the outputs"


def test_compact(case: tuple[str, nn.Module, Any, Symmetry]) -> None:
    kind, module, x, symmetry = case
    small = ws.compact(module, x, symmetry=symmetry)
    first, last = hidden(kind, small)
    assert first.weight.shape[0] == last.weight.shape[1] == 8
    found, expected = call(small, x), call(module, x)
    assert type(found) is type(expected)
    assert difference(found, expected) < (1e-2 if kind == "bfloat16" else 1e-5)
    assert {n: t.dtype for n, t in small.state_dict().items()} == {n: t.dtype for n, t in module.state_dict().items()}


def test_accelerate(case: tuple[str, nn.Module, Any, Symmetry], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, module, x, _ = case

    def seconds(work: Mapping[Any, Callable[[], Any]], *, cuda: bool) -> dict[Any, Sequence[float]]:
        assert not cuda
        return {name: [2.0 if name == "dense" else 1.0] for name in work}

    monkeypatch.setattr(importlib.import_module("weightspace.sparse.accelerate"), "call_seconds", seconds)
    fast = sparse.accelerate(module, x)
    x = trees.cast(x, next(module.parameters()).dtype)
    forms = {choice.form for choice in fast.choices}
    assert forms == {Form.DENSE if kind in ("float64", "bfloat16") else Form.CSR}
    assert type(fast(x)) is type(call(module, x))
    assert difference(fast(x), call(module, x)) < 1e-5
    assert fast.batch_size == trees.samples(x)


def test_reorder(case: tuple[str, nn.Module, Any, Symmetry]) -> None:
    kind, module, x, symmetry = case
    moved = copy.deepcopy(module)
    orders = sparse.reorder_module(moved, x, symmetry=symmetry, restarts=0)
    assert orders
    assert difference(call(moved, x), call(module, x)) < (2e-2 if kind == "bfloat16" else 1e-5)


def error(module: nn.Module, dense: nn.Module, x: Any) -> float:
    pairs = zip(trees.tensors(call(module, x)), trees.tensors(call(dense, x)), strict=True)
    return sum((a - b).detach().float().square().mean().item() for a, b in pairs)


def test_refit(case: tuple[str, nn.Module, Any, Symmetry]) -> None:
    kind, dense, x, _ = case
    module = copy.deepcopy(dense)
    first, _ = hidden(kind, module)
    first.weight.data[:, 1] = 0
    before = error(module, dense, x)
    sparse.refit_module(module, dense, x, ridge=1e-3)
    assert not first.weight[:, 1].any()
    assert error(module, dense, x) < 0.8 * before
    with pytest.raises(ws.InputError, match="at least one input"):
        sparse.refit_module(module, dense, trees.take(x, slice(0)))


@pytest.mark.parametrize("kind", ["two inputs by name", "mapping in and out", "bytes", "bert"])
def test_onnx_with_another_batch_size(kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    build, x = KINDS[kind]
    module, x = build().eval(), trees.take(x, slice(4))
    path = tmp_path / "m.onnx"
    sparse.to_onnx(module, x, path)
    session = onnxruntime.InferenceSession(str(path))
    other = trees.take(x, torch.tensor([1, 1, 0, 3, 2, 1]))
    named = {name: tensor.numpy() for name, tensor in trees.leaves(other)}
    names = [one.name for one in session.get_inputs()]
    given = named if set(names) == set(named) else dict(zip(names, named.values(), strict=True))
    found = [torch.as_tensor(one) for one in session.run(None, given)]
    assert difference(found, tensors_within(call(module, other))) < 1e-4
    if kind == "bert":
        assert [one.name for one in session.get_outputs()] == ["logits"]


class Fixed(nn.Module):
    """A module whose code holds the batch size."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.last = how, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.last(x)
        return {
            "reshapes": lambda: h.reshape(4, 3) * 2,
            "asks": lambda: h * (2 if len(x) == 4 else 3),
            "holds more": lambda: {"h": h, "past": Cache(h)},
        }[self.how]()


class Cache:
    """As of transformers: tensors, and where they are."""

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.device, self.dtype, self.rope = keys, keys.device, keys.dtype, torch.relu


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("reshapes", r"batch of 4, but not on one of 5 .*dynamic_batch=False"),
        ("asks", r"onnxruntime does not run.*dynamic_batch=False"),
        ("holds more", r"returns a dict that holds other things than tensors.*use_cache"),
    ],
)
def test_what_onnx_cannot_do_is_refused_before_writing(how: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with pytest.raises(ws.InputError, match=message):
        sparse.to_onnx(Fixed(how), X[:4], tmp_path / "m.onnx")
    with pytest.raises(ws.InputError, match=r"no bfloat16.*module.float\(\)"):
        sparse.to_onnx(Fixed(how).bfloat16(), X[:4].bfloat16(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    if how == "reshapes":
        sparse.to_onnx(Fixed(how), X[:4], tmp_path / "m.onnx", dynamic_batch=False)
        assert (tmp_path / "m.onnx").exists()


def test_an_output_that_holds_tensors_beside_other_things_is_traced() -> None:
    class WithCache(TwoOutputs):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x)[0], "past": Cache(x)}

    symmetry = ws.symmetry.trace(WithCache(), X[:4])
    assert [group.size for group in symmetry.groups] == [16]

    class HiddenCache(TwoOutputs):
        def forward(self, x: Tensor) -> Any:
            return self.last(self.first(x)), Cache(self.first(x))

    assert ws.symmetry.trace(HiddenCache(), X[:4]).groups == (), "the units in the cache keep their order"


def test_a_causal_language_model_with_its_cache_is_traced() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    settings = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=16, **settings)
    module = transformers.LlamaForCausalLM(config)
    assert call(module, IDS).past_key_values is not None
    groups = {group.name: group.size for group in ws.symmetry.trace(module, IDS).groups}
    heads = {"model.layers.0.self_attn.q_proj blocks": 2, "model.layers.0.self_attn.v_proj": 4}
    assert groups == {"model.embed_tokens": 8, "model.layers.0.mlp.gate_proj": 16} | heads


def test_compact_refuses_control_flow_unless_the_symmetry_is_given() -> None:
    class Gated(TwoInputs):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return super().forward(x, context) * (2 if x.sum().item() > 0 else 1)

    module, x = Gated().eval(), KINDS["two inputs"][1]
    module.last.weight.data[:, 1] = 0
    with pytest.raises(ws.InputError, match=r"control flow.*by hand \(symmetry=\)"):
        ws.compact(module, x)
    symmetry = ws.symmetry.trace(TwoInputs(), x)
    small = ws.compact(module, x, symmetry=symmetry)
    assert small.first.out_features == 15
    assert difference(call(small, x), call(module, x)) < 1e-5
    wrong = ws.symmetry.trace(TwoInputs(), x)
    wrong = type(wrong)(wrong.layout, (type(wrong.groups[0])("first", 16, wrong.groups[0].incoming, ()),))
    with pytest.raises(ws.InputError, match="does not fit"):
        ws.compact(module, x, symmetry=wrong)

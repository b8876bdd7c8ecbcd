"""Whatever another program has made of a state dict, the network that is read is the plain one."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch, StorageError


class Tied(nn.Module):
    """Two names of one tensor, a buffer of floating point and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)))


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def plain() -> dict[str, Tensor]:
    """Numbers that bfloat16 holds exactly, so that no dtype changes them."""
    state = ws.Architecture.of(Tied).build_seeded(1).state_dict()
    return {name: t.bfloat16().float() if t.is_floating_point() else t for name, t in state.items()}


@dataclass(frozen=True)
class Decoration:
    """What is done to a state dict."""

    tied: tuple[str, ...]
    pruned: frozenset[str]
    dtype: torch.dtype
    prefix: str
    wrapped: str
    entry: str
    extra: frozenset[str]

    def of(self, state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Any:
        decorated: dict[str, Any] = {}
        for name, tensor in state.items():
            if name in ("embed.weight", "head.weight") and name not in self.tied:
                continue
            tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            full = self.prefix + name.replace("body.", f"body.{self.wrapped}")
            if masked(name) in self.pruned:
                mask = masks[masked(name)]
                decorated[f"{full}_orig"] = torch.where(mask, tensor, 7.0)
                decorated[f"{full}_mask"] = mask.to(self.dtype)
            else:
                decorated[full] = tensor
        decorated |= {name: torch.arange(3) for name in self.extra}
        if not self.entry:
            return decorated
        content: Any = decorated
        for key in reversed(self.entry.split(".")):
            content = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 0.1}, key: content}
        return content


def masked(name: str) -> str:
    return "embed.weight" if name == "head.weight" else name


decorations = st.builds(
    Decoration,
    tied=st.sampled_from([("embed.weight",), ("head.weight",), ("embed.weight", "head.weight")]),
    pruned=st.frozensets(st.sampled_from(["embed.weight", "body.0.weight"])),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    prefix=st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "my.own.", "embed."]),
    wrapped=st.sampled_from(["", "_orig_mod.", "module."]),
    entry=st.sampled_from(["", "state_dict", "model", "model_state", "ema", "checkpoint.model"]),
    extra=st.frozensets(st.sampled_from(["n_averaged", "embeddings.position_ids"])),
)


@settings(max_examples=50)
@given(decorations, st.integers(0, 2**20))
def test_the_imported_network_is_the_plain_one(decoration: Decoration, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    state = plain()
    masks = {name: torch.rand(state[name].shape, generator=random) < 0.5 for name in decoration.pruned}
    for name in state:
        if masked(name) in masks:
            state[name] = torch.where(masks[masked(name)], state[name], 0.0)
    content = decoration.of(state, masks)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        networks = ws.from_state_dict(content, Tied)
    for name, tensor in networks.module(0).state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert networks.dense == (not masks)
    kept = networks.layout.unpack(networks.masks[0])
    for name, mask in masks.items():
        assert torch.equal(kept[name], mask)
    lines = [str(one.message) for one in said]
    assert any("read without" in line for line in lines) == bool(decoration.prefix or decoration.wrapped)
    assert any(repr(decoration.entry) in line for line in lines) == bool(decoration.entry)
    assert sum("left out" in line for line in lines) == bool(decoration.extra)
    assert not any("rounded" in line for line in lines)


@settings(max_examples=20)
@given(decorations)
def test_a_network_that_lacks_a_tensor_is_another_one(decoration: Decoration) -> None:
    state = {name: tensor for name, tensor in plain().items() if name != "body.0.bias"}
    masks = {name: torch.ones_like(state[name], dtype=torch.bool) for name in decoration.pruned}
    content = decoration.of(state, masks)
    with pytest.raises(LayoutMismatch, match=r"missing \['body\.0\.bias'\]"):
        ws.from_state_dict(content, Tied)


def test_what_torch_itself_makes_of_modules() -> None:
    module = build()
    expected = ws.from_state_dict(module, build)
    with pytest.warns(UserWarning, match="without the prefix 'module.'"):
        found = ws.from_state_dict(nn.DataParallel(module), build)
    assert torch.equal(found.weights, expected.weights)
    with pytest.warns(UserWarning, match="without the prefix 'module.'|'n_averaged'"):
        found = ws.from_state_dict(AveragedModel(module), build)
    assert torch.equal(found.weights, expected.weights)
    for layer in (module[0], module[2]):
        prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(module[2], "bias", 1)
    with pytest.warns(UserWarning, match="the masks of torch.nn.utils.prune are kept|mask of '2.bias' is not kept"):
        found = ws.from_state_dict(module, build)
    assert found.densities.tolist() == [0.5]
    assert torch.equal(found[0].state_dict()["2.bias"], module[2].bias)
    x = torch.randn(5, 4)
    assert torch.equal(found.module(0)(x), module(x))


def test_a_factory_of_a_wrapped_network_reads_plain_files() -> None:
    state = build().state_dict()
    with pytest.warns(UserWarning, match="without the wrappers"):
        found = ws.from_state_dict(state, lambda: nn.DataParallel(build()))
    assert torch.equal(found.weights[0], torch.cat([tensor.flatten() for tensor in state.values()]))


def test_what_cannot_be_guessed_is_asked() -> None:
    one, other = build().state_dict(), build().state_dict()
    twice = {"student.": one, "teacher.": other}
    both = {prefix + name: tensor for prefix, state in twice.items() for name, tensor in state.items()}
    with pytest.raises(InputError, match=r"several prefixes \('student\.', 'teacher\.'\).*prefix="):
        ws.from_state_dict(both, build)
    second = ws.from_state_dict(other, build).weights
    assert torch.equal(ws.from_state_dict(both, build, prefix="teacher.").weights, second)
    with pytest.raises(InputError, match=r"prefix 'nobody\.'; there are 'student\.0\.weight'"):
        ws.from_state_dict(both, build, prefix="nobody.")
    gan = {"generator": one, "critic": other}
    with pytest.raises(InputError, match=r"any of the entries 'generator', 'critic'.*key="):
        ws.from_state_dict(gan, build)
    assert torch.equal(ws.from_state_dict(gan, build, key="critic").weights, second)
    nested = ws.from_state_dict({"models": gan}, build, key="models.critic")
    assert torch.equal(nested.weights, second)
    with pytest.raises(StorageError, match=r"no entry 'net'; there are 'generator', 'critic'"):
        ws.from_state_dict(gan, build, key="net")
    with pytest.warns(UserWarning, match="entry 'model'"):
        usual = ws.from_state_dict({"ema": one, "model": other}, build)
    assert torch.equal(usual.weights, second)


def test_names_can_be_given_by_a_function() -> None:
    state = build().state_dict()
    old = {name.replace("0.", "first/").replace("2.", "second/"): tensor for name, tensor in state.items()}
    with pytest.raises(LayoutMismatch, match=r"missing \['0\.weight'.*names: 'first/weight'.*rename="):
        ws.from_state_dict(old, build)

    def rename(name: str) -> str | None:
        return None if name == "junk" else name.replace("first/", "0.").replace("second/", "2.")

    found = ws.from_state_dict(old | {"junk": torch.ones(3)}, build, rename=rename)
    assert torch.equal(found.weights, ws.from_state_dict(state, build).weights)
    with pytest.raises(InputError, match="two tensors the name '0.weight'"):
        ws.from_state_dict(state, build, rename=lambda _: "0.weight")


def test_without_strict_a_new_head_is_as_the_factory_makes_it() -> None:
    state = build().state_dict()
    body = {name: tensor for name, tensor in state.items() if name.startswith("0.")} | {"old.weight": torch.ones(2, 2)}
    with pytest.raises(LayoutMismatch, match=r"missing \['2\.weight', '2\.bias'\], unknown \['old\.weight'\]"):
        ws.from_state_dict(body, build)
    with pytest.warns(UserWarning, match=r"left out.*old\.weight|'2\.(weight|bias)' is not in it") as said:
        found = ws.from_state_dict(body, build, strict=False)
    assert len(said) == 3
    fresh = ws.Architecture.of(build).build_seeded(found.records[0].seed).state_dict()
    assert torch.equal(found[0].state_dict()["0.weight"], state["0.weight"])
    assert torch.equal(found[0].state_dict()["2.weight"], fresh["2.weight"])
    with pytest.raises(LayoutMismatch, match="unknown"):
        ws.from_state_dict(state | {"old.weight": torch.ones(2, 2)}, build)
    with pytest.raises(LayoutMismatch, match="missing"):  # nothing of the network is there
        ws.from_state_dict({"old.weight": torch.ones(2, 2)}, build, strict=False)


def test_counters_that_a_file_lacks_are_those_of_a_new_network() -> None:
    state = plain()
    del state["body.1.num_batches_tracked"]
    with pytest.warns(UserWarning, match="num_batches_tracked' is not in it"):
        found = ws.from_state_dict(state, Tied)
    assert found.buffers["body.1.num_batches_tracked"].tolist() == [0]
    del state["body.1.running_mean"]
    with pytest.raises(LayoutMismatch, match=r"buffer 'body\.1\.running_mean' is missing"):
        ws.from_state_dict(state, Tied)


@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (lambda t: t.to(torch.int8), "int8"),
        (lambda t: t > 0, "bool"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*")
def test_weights_that_are_no_real_numbers_are_refused_by_name(convert: Any, kind: str) -> None:
    state = build().state_dict()
    state["2.weight"] = convert(state["2.weight"])
    with pytest.raises(InputError, match=rf"tensor '2\.weight' is {kind}"):
        ws.from_state_dict(state, build)


def test_a_parameter_that_is_no_real_number_is_refused_by_name() -> None:
    module = build()
    module.codes = nn.Parameter(torch.arange(4), requires_grad=False)
    with pytest.raises(InputError, match=r"parameter 'codes' is int64.*register_buffer"):
        ws.Layout.of(module)


def test_rounding_is_said_and_overflow_refused() -> None:
    state = {name: tensor.double() / 3 for name, tensor in build().state_dict().items()}
    with pytest.warns(UserWarning, match="rounded from float64 to float32, the network's dtype"):
        assert ws.from_state_dict(state, build).weights.dtype == torch.float32
    assert ws.from_state_dict(state, lambda: build().double()).weights.dtype == torch.float64
    state["0.bias"][0] = 1e30
    with pytest.raises(InputError, match=r"tensor '0\.bias' holds numbers that float16 cannot.*float64"):
        ws.from_state_dict(state, lambda: build().half())


def test_what_is_no_mask_is_no_mask() -> None:
    state = build().state_dict()
    weight = state.pop("0.weight")
    with pytest.raises(LayoutMismatch, match="'0.weight_mask' is not a mask of '0.weight_orig'"):
        ws.from_state_dict(state | {"0.weight_orig": weight, "0.weight_mask": torch.full((8, 4), 0.5)}, build)


def test_what_is_no_state_dict_says_what_it_is() -> None:
    with pytest.raises(StorageError, match=r"the state dict: it does not hold a state dict but a dict.*'epoch'.*key="):
        ws.from_state_dict({"epoch": 3}, build)
    tied = plain()
    tied["head.weight"] = tied["head.weight"] + 1
    with pytest.raises(LayoutMismatch, match="tied"):
        ws.from_state_dict(tied, Tied)


def test_sparse_tensors_are_read() -> None:
    state = build().state_dict()
    coo = {name: tensor.to_sparse() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    assert torch.equal(ws.from_state_dict(coo, build).weights, ws.from_state_dict(state, build).weights)

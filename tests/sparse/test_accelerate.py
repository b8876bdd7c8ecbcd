"""2:4 checks, padding and packing on the CPU; compressed rows equal dense; the probe's choice is honoured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import weightspace as ws
from weightspace import sparse
from weightspace.errors import StorageError
from weightspace.sparse import MatrixConv
from weightspace.sparse.bench import bench, two_four_blocks
from weightspace.sparse.forms import CSRLinear
from weightspace.sparse.measuring import relative_error
from weightspace.sparse.two_four import padded, require_two_four


def two_of_four(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    weights = torch.randn(rows, -(-columns // 4) * 4, generator=torch.Generator().manual_seed(seed))
    groups = weights.unflatten(1, (-1, 4))
    groups *= torch.zeros_like(groups).scatter_(2, groups.abs().topk(2, dim=2).indices, 1.0)
    return weights[:, :columns].contiguous()


@given(
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from([torch.float16, torch.bfloat16, torch.int8]),
    st.integers(0, 9),
)
def test_packing_is_exact_at_every_shape(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    weights = (10 * two_of_four(rows, columns, seed)).to(dtype)
    packed = sparse.PackedTwoFour.of(weights)
    assert torch.equal(packed.dense(), weights)
    whole = padded(weights, "cutlass")
    assert packed.nbytes == whole.nbytes * (0.625 if dtype is torch.int8 else 0.5625)


def test_padding_adds_zeros_alone() -> None:
    weights = two_of_four(300, 784).bfloat16()
    for backend, shape in (("cutlass", (320, 832)), ("cusparselt", (304, 784))):
        whole = padded(weights, backend)  # pyright: ignore[reportArgumentType]
        assert tuple(whole.shape) == shape
        assert torch.equal(whole[:300, :784], weights)
        assert not whole[300:].any()
        assert not whole[:, 784:].any()
    assert tuple(padded(two_of_four(10, 100).half(), "cusparselt").shape) == (16, 112)


def test_what_torch_would_corrupt_is_refused() -> None:
    weights = two_of_four(8, 16)
    require_two_four(weights, torch.bfloat16)
    with pytest.raises(ws.InputError, match=r"float32.*1:2.*drop weights"):
        sparse.PackedTwoFour.of(weights)
    full = weights.clone()
    full[3, 8:12] = 1.0
    with pytest.raises(ws.InputError, match=r"layer: fc is not 2:4: row 3 has 4 weights in columns 8 to 11"):
        sparse.PackedTwoFour.of(full.half(), "layer: fc")
    assert sparse.is_two_four(weights)
    assert not sparse.is_two_four(full)
    assert sparse.is_two_four(torch.tensor([[1.0, 0, 0, 1, 1, 1]]))  # a shorter last group
    assert not sparse.is_two_four(torch.tensor([[1.0, 1, 0, 1]]))
    with pytest.raises(ws.InputError, match="on CUDA"):
        sparse.TwoFourLinear(weights.half(), None, "cutlass")


def measure_as_fastest(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layer becomes must not depend on how busy this machine is."""

    def measured(work: dict[str, Callable[[], object]], *, cuda: bool = False) -> dict[str, list[float]]:
        assert not cuda
        return {name: [1.0, 9.0, 1.0] if name in (form, "fast") else [2.0, 2.0, 0.1] for name in work}

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["weightspace.sparse.accelerate"], "call_seconds", measured)


@pytest.fixture
def rows_win(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as_fastest("rows", monkeypatch)


def ticket(density: float = 0.02) -> nn.Module:
    module = ws.Architecture("LeNet300").build_seeded(0)
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())
    mask = ws.Unstructured(density, "layer").mask(weights.abs(), layout)
    module.load_state_dict(layout.unpack(weights * mask))
    return module.eval()


@given(st.integers(1, 20), st.integers(1, 30), st.floats(0, 1), st.integers(1, 9), st.booleans())
def test_rows_equal_dense(outputs: int, inputs: int, density: float, batch: int, bias: bool) -> None:
    random = torch.Generator().manual_seed(outputs * 31 + inputs)
    weights = torch.randn(outputs, inputs, generator=random) * (torch.rand(outputs, inputs, generator=random) < density)
    shift = torch.randn(outputs, generator=random) if bias else None
    layer = CSRLinear(weights, shift)
    for x in (torch.randn(batch, inputs, generator=random), torch.randn(2, batch, inputs, generator=random)):
        assert torch.allclose(layer(x), nn.functional.linear(x, weights, shift), atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), 2)], ids=["plain", "strided", "odd"]
)
def test_convolutions_through_a_matrix(stride: int, padding: int, dilation: int) -> None:
    conv = nn.Conv2d(8, 6, (3, 2), stride, padding, dilation).eval()
    x = torch.randn(3, 8, 9, 10)
    dense: Callable[[torch.Tensor, torch.Tensor | None], nn.Module] = lambda w, b: CSRLinear(w, b)  # noqa: E731
    assert torch.allclose(MatrixConv(conv, dense)(x), conv(x), atol=1e-5)
    layout = ws.Layout.of(conv)
    mask = ws.NM(2, 4).mask(layout.pack(conv.state_dict()).abs(), layout)[: conv.weight.numel()]
    conv.weight.data *= mask.reshape(conv.weight.shape)
    product = MatrixConv(conv, dense).product
    assert isinstance(product, CSRLinear)
    whole = torch.zeros(product.structure.shape)
    whole[conv.weight.detach().permute(0, 2, 3, 1).flatten(1) != 0] = product.values
    assert sparse.is_two_four(whole)  # N:M along channels is N:M along the rows of the matrix


def test_accelerated_is_the_same_function_and_says_what_it_chose() -> None:
    module = ticket()
    x = torch.randn(256, 784)
    fast = sparse.accelerate(module, x)
    assert relative_error(fast, module, x) < 1e-5
    assert [choice.layer for choice in fast.choices] == ["1", "3", "5"]
    for choice in fast.choices:
        layer = fast.module.get_submodule(choice.layer)
        assert isinstance(layer, CSRLinear) == (choice.form == "rows")
        assert set(choice.seconds) == {"dense", "rows"}
    assert isinstance(module[1], nn.Linear)  # the module itself is as it was


@pytest.mark.parametrize("fastest", ["dense", "rows"])
def test_the_measured_choice_is_honoured(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as_fastest(fastest, monkeypatch)
    fast = sparse.accelerate(ticket(), torch.randn(8, 784))
    assert {choice.form for choice in fast.choices} == {fastest}
    assert ("measured fastest" in str(fast)) == (fastest == "rows")
    assert isinstance(fast.module.get_submodule("1"), CSRLinear if fastest == "rows" else nn.Linear)


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


def sparse_linear(inputs: int, outputs: int, density: float = 0.01) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    layer.weight.data *= torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(0)) < density
    return layer


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


def test_outputs_in_more_dimensions_can_be_viewed() -> None:
    x = torch.randn(16, 8, 512)
    assert CSRLinear(sparse_linear(512, 300).weight.detach(), None)(x).view(16, -1).shape == (16, 2400)
    conv = nn.Conv2d(8, 6, 3).eval()
    assert MatrixConv(conv, lambda w, b: CSRLinear(w, b))(torch.randn(2, 8, 5, 5)).view(2, -1).shape == (2, 54)


def test_a_module_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ws.InputError, match="no parameters"):
        sparse.accelerate(nn.ReLU(), torch.randn(3, 5))
    module = nn.Sequential(nn.Linear(5, 4))
    prune.l1_unstructured(module[0], "weight", 0.5)
    module(torch.randn(2, 5))
    with pytest.raises(ws.InputError, match=r"prune\.remove"):
        sparse.accelerate(module, torch.randn(3, 5))


def test_bench_leaves_the_module_as_it_is() -> None:
    module = ticket().train()
    bench("small", module, lambda n: torch.randn(n, 784), (4,), compiled=False, dtype=torch.bfloat16)
    assert module.training
    assert next(module.parameters()).dtype is torch.float32
    assert next(module.parameters()).requires_grad


def test_bench_measures_what_it_says() -> None:
    rows, made = bench("small", ticket(), lambda n: torch.randn(n, 784), (4, 32), compiled=False)
    whole = [row for row in rows if row.part == "network"]
    assert [(row.batch, row.form) for row in whole] == [
        (4, "dense"),
        (4, "accelerated"),
        (32, "dense"),
        (32, "accelerated"),
    ]
    assert all(row.error < 1e-5 and 0 < row.lower <= row.milliseconds <= row.upper for row in whole)
    assert all(row.speedup == 1 for row in whole if row.form == "dense")
    for row, one in zip((row for row in whole if row.form == "accelerated"), made, strict=True):
        stays = {choice.form for choice in one.choices} == {"dense"}
        assert (row.megabytes == whole[0].megabytes) == stays  # compressed rows take less or more, not the same
    assert len(made) == 2
    for row, one in zip((row for row in whole if row.form == "accelerated"), made, strict=True):
        limit = 1.0 if {choice.form for choice in one.choices} == {"dense"} else 1 / row.density
        assert row.to_json()["share_of_limit"] == pytest.approx(row.speedup / limit)
    small = two_four_blocks(torch.bfloat16)["LeNet-300-100"][0]
    assert all(sparse.is_two_four(layer.weight) for layer in small.modules() if isinstance(layer, nn.Linear))


def test_a_ticket_on_its_own(tickets: ws.Collection, tmp_path: Path) -> None:
    path = sparse.save_ticket(tickets[1], tmp_path / "t.safetensors")
    back = sparse.load_ticket(path)
    assert torch.equal(back.weights, tickets[1].weights)
    assert torch.equal(back.mask, tickets[1].mask)
    assert back.record == tickets[1].record
    x = torch.randn(3, 64)
    assert torch.equal(back.module()(x), tickets.module(1)(x))
    data = bytearray(path.read_bytes())
    (tmp_path / "short").write_bytes(data[:-50])
    with pytest.raises(StorageError, match="cannot be read"):
        sparse.load_ticket(tmp_path / "short")
    with pytest.raises(StorageError, match="cannot be read"):
        sparse.load_ticket(tmp_path / "absent")
    shard = next(tickets.save(tmp_path / "c").glob("*.safetensors"))
    with pytest.raises(StorageError, match=r"not a ticket that weightspace wrote$"):  # no copy would mend that
        sparse.load_ticket(shard)
    with pytest.raises(StorageError, match="is a folder"):
        sparse.load_ticket(tmp_path)
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {"values": tensors["values"] * torch.nan}, tmp_path / "nan", header)
    with pytest.raises(StorageError, match="not finite"):
        sparse.load_ticket(tmp_path / "nan")
    other = json.dumps(json.loads(header["weightspace"]) | {"architecture": {"name": "LeNet300", "arguments": {}}})
    save_file(tensors, tmp_path / "foreign", {"weightspace": other})
    with pytest.raises(StorageError, match="not those of a LeNet300"):
        sparse.load_ticket(tmp_path / "foreign")


def test_the_file_of_a_ticket_takes_the_bytes_of_its_weights(tmp_path: Path) -> None:
    module = ticket(0.05)
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())
    mask = (weights != 0) | ~layout.prunable
    one = ws.Collection(layout, weights[None], architecture=ws.Architecture("LeNet300"), masks=mask[None])
    size = sparse.save_ticket(one[0], tmp_path / "t").stat().st_size
    assert size <= 4 * int(mask.sum()) + layout.size / 8 + 2500
    assert size < 0.1 * 4 * layout.size


def test_onnx_computes_the_same(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    small = ws.compact(tickets.module(0), task.train.x[:4])
    path = sparse.to_onnx(small, task.train.x[:4], tmp_path / "t.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {session.get_inputs()[0].name: task.test.x[:7].numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), small(task.test.x[:7]), atol=1e-4)
    module = tickets.module(0).train()
    sparse.to_onnx(module, task.train.x[:4], tmp_path / "u.onnx")
    assert module.training  # as it was
    with pytest.raises(ws.InputError, match=r"does not run on an example of shape \(4, 7\)"):
        sparse.to_onnx(small, torch.ones(4, 7), tmp_path / "v.onnx")
    with pytest.raises(ws.InputError, match="not finite"):
        sparse.to_onnx(small, torch.full_like(task.train.x[:4], torch.nan), tmp_path / "v.onnx")
    with pytest.raises(ws.InputError, match="one tensor can be exported"):
        sparse.to_onnx(nn.LSTM(4, 2), torch.ones(4, 3, 4), tmp_path / "v.onnx")
    assert not (tmp_path / "v.onnx").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["cutlass", "cusparselt"])
def test_2_4_on_a_card_equals_dense(backend: str) -> None:
    if backend == "cutlass" and torch.cuda.get_device_capability()[0] != 8:
        pytest.skip("torch's CUTLASS products are for compute capability 8")
    for rows, columns in ((512, 1024), (300, 784), (10, 100)):
        weights = two_of_four(rows, columns).bfloat16().cuda()
        bias = torch.randn(rows, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(60, columns, device="cuda", dtype=torch.bfloat16)
        layer = sparse.TwoFourLinear(weights, bias, backend)  # pyright: ignore[reportArgumentType]
        expected = nn.functional.linear(x.double(), weights.double(), bias.double())
        assert ((layer(x) - expected).abs().max() / expected.abs().max()).item() < 2e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_accelerated_on_a_card_is_never_wrong() -> None:
    for module, length in list(two_four_blocks(torch.bfloat16).values())[:1]:
        fast = sparse.accelerate(module, torch.randn(512, length), device="cuda", dtype=torch.bfloat16)
        assert relative_error(fast, module, torch.randn(64, length).cuda().bfloat16()) < 2e-2
        assert {"dense", "cusparselt"} <= set(fast.choices[0].seconds)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 28)])
def test_inputs_held_by_columns_are_read_without_a_copy(shape: tuple[int, ...]) -> None:
    module = ticket()
    layer = CSRLinear(module[1].weight, module[1].bias)
    held = torch.randn(*shape, 32).movedim(-1, 0)  # (32, *shape), images last in memory
    flat = held.flatten(1)
    assert flat.data_ptr() == held.data_ptr()
    assert flat.t().is_contiguous()  # what the product reads
    torch.testing.assert_close(layer(flat), module[1](flat), rtol=1e-4, atol=1e-5)
    assert not torch.randn(32, *shape).flatten(1).t().is_contiguous()

"""Tickets in files of their own, and ONNX."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import weightspace as ws
from tests.sparse.examples import ticket
from weightspace import sparse
from weightspace.errors import LayoutMismatch, StorageError


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
    with pytest.raises(StorageError, match="absent is missing"):
        sparse.load_ticket(tmp_path / "absent")
    shard = next(tickets.save(tmp_path / "c").glob("*.safetensors"))
    with pytest.raises(
        StorageError, match=r"not a ticket that weightspace wrote: give a file of `weightspace export`$"
    ):  # no copy would mend that
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
    with pytest.raises(StorageError, match="not those of LeNet300"):
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
    with pytest.raises(ws.InputError, match=r"does not run on inputs of shape \(4, 7\)"):
        sparse.to_onnx(small, torch.ones(4, 7), tmp_path / "v.onnx")
    with pytest.raises(ws.InputError, match="not finite"):
        sparse.to_onnx(small, torch.full_like(task.train.x[:4], torch.nan), tmp_path / "v.onnx")
    assert not (tmp_path / "v.onnx").exists()


def test_a_ticket_of_a_user_s_own_network(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    path = sparse.save_ticket(ws.from_state_dict(build(), build)[0], tmp_path / "t.safetensors")
    alone = sparse.load_ticket(path)
    with pytest.raises(ws.InputError, match="pass factory="):
        alone.module()
    ticket = sparse.load_ticket(path, factory=build)
    x = torch.randn(3, 4)
    module = build()
    module.load_state_dict(alone.state_dict())
    assert torch.equal(ticket.module()(x), module(x))
    with pytest.raises(LayoutMismatch, match="the network of the given factory"):
        sparse.load_ticket(path, factory=lambda: nn.Linear(4, 3))

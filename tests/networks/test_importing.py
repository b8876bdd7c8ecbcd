from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import weightspace as ws
from weightspace.errors import LayoutMismatch, StorageError


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, module in enumerate([build(), build(), build()]):
        module[1].running_mean.fill_(i)
        if i == 1:
            save_file(module.state_dict(), tmp_path / f"net{i}.safetensors")
        else:
            torch.save(module.state_dict(), tmp_path / f"net{i}.pt")
    (tmp_path / "notes.txt").write_text("not a network")
    return tmp_path


def test_a_folder_of_any_module_becomes_a_collection(folder: Path, tmp_path: Path) -> None:
    networks = ws.from_state_dicts(folder, build)
    assert len(networks) == 3
    assert networks.dense
    assert [r["file"] for r in networks.records] == ["net0.pt", "net1.safetensors", "net2.pt"]
    original = torch.load(folder / "net2.pt", weights_only=True)
    for name, tensor in networks.module(2).state_dict().items():
        assert torch.equal(tensor, original[name])
    again = ws.Collection.load(networks.save(tmp_path / "zoo"), factory=build)
    assert again.buffers["1.running_mean"][:, 0].tolist() == [0, 1, 2]


def test_zeros_become_masks_on_request(folder: Path) -> None:
    state = torch.load(folder / "net0.pt", weights_only=True)
    state["3.weight"][0] = 0
    state["3.bias"][0] = 0
    torch.save(state, folder / "net0.pt")
    networks = ws.from_state_dicts(folder, build, zeros_are_pruned=True)
    assert (~networks.masks[0]).sum() == 8  # the weights, not the bias
    assert networks.masks[1].all()


def test_files_of_another_network_are_named(folder: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "other.pt")
    with pytest.raises(LayoutMismatch, match=r"other\.pt does not fit build.*missing"):
        ws.from_state_dicts(folder, build)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path("pwned").touch, ())


def test_unreadable_and_dangerous_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match=r"holds no .*\.safetensors"):
        ws.from_state_dicts(tmp_path / "a", build)
    with pytest.raises(StorageError, match="not a folder"):
        ws.from_state_dicts(tmp_path / "absent", build)
    torch.save({"w": Evil()}, tmp_path / "a" / "evil.pt")
    with pytest.raises(StorageError, match=r"evil\.pt cannot be read.*weights_only=True"):
        ws.from_state_dicts(tmp_path / "a", build)
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "a" / "evil.pt").unlink()
    torch.save([1, 2], tmp_path / "a" / "list.pt")
    with pytest.raises(StorageError, match="does not hold a state dict"):
        ws.from_state_dicts(tmp_path / "a", build)
    (tmp_path / "a" / "list.pt").unlink()
    (tmp_path / "a" / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(StorageError, match=r"cut\.safetensors cannot be read"):
        ws.from_state_dicts(tmp_path / "a", build)


def test_networks_that_are_not_finite_are_refused(folder: Path) -> None:
    state = torch.load(folder / "net0.pt", weights_only=True)
    state["0.weight"][0] = torch.nan
    torch.save(state, folder / "net0.pt")
    with pytest.raises(ws.InputError, match=r"network 0 holds NaN.*0\.weight"):
        ws.from_state_dicts(folder, build)


def test_a_folder_is_sparse_if_one_file_is(tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "a.pt")
    pruned = build()
    prune.l1_unstructured(pruned[3], "weight", 0.5)
    torch.save(pruned.state_dict(), tmp_path / "b.pt")
    with pytest.warns(UserWarning, match=r"^b\.pt: the masks"):
        networks = ws.from_state_dicts(tmp_path, build)
    assert networks.masks[0].all()
    assert (~networks.masks[1]).sum() == 12
    assert torch.equal(networks.module(1)[3].weight, pruned[3].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_every_precision_go_the_whole_way(dtype: torch.dtype, tmp_path: Path) -> None:
    def small() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)

    (tmp_path / "files").mkdir()
    for i in range(3):
        torch.save(small().state_dict(), tmp_path / "files" / f"{i}.pt")
    networks = ws.from_state_dicts(tmp_path / "files", small)
    again = ws.Collection.load(networks.save(tmp_path / "zoo"), factory=small)
    assert torch.equal(again.weights, networks.weights)
    assert networks.fingerprint() == ws.from_state_dicts(tmp_path / "files", small).fingerprint()
    assert networks.fingerprint() != networks.replace(weights=networks.weights * 2).fingerprint()
    two = ws.Step(iterations=2)
    x, y = torch.randn(24, 4).to(dtype), torch.arange(24) % 3
    task = ws.tasks.from_tensors("t", x, y, small, recipe=ws.Recipe(two, batch_size=8))
    assert ws.collect(task, 2, folder=tmp_path / "dense").weights.dtype == dtype
    tickets = ws.tickets.GradualPruning(0.5, length=two, every=1, ramp=1.0).find(networks, task, folder=tmp_path / "t")
    path = ws.sparse.save_ticket(tickets[0], tmp_path / "ticket.safetensors")
    assert torch.equal(ws.sparse.load_ticket(path, factory=small).weights, tickets.weights[0])
    model = ws.TicketGenerator(ws.WeightMatching(), compress=ws.PCA(1), generate=ws.FlowMatching(width=4, steps=2))
    model.fit(tickets, folder=tmp_path / "model")
    sampled = ws.FittedGenerator.load(tmp_path / "model", factory=small).sample(2, density=0.5, seed=0)
    assert sampled.weights.dtype == dtype
    assert sampled.densities.tolist() == [0.5, 0.5]

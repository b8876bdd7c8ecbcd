"""Which files of a folder are networks, and how they are read: shards, hubs' folders, other programs' checkpoints."""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import weightspace as ws
from weightspace.errors import LayoutMismatch, StorageError


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def seeded(i: int) -> dict[str, Tensor]:
    return ws.Architecture.of(build).build_seeded(i).state_dict()


def vector(i: int) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in seeded(i).values()])


def sharded(folder: Path, i: int, kind: str = "safetensors") -> Path:
    """A network in two files and an index, as the hub has large ones."""
    folder.mkdir(exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{k}-of-00002.{kind}" for k in (1, 2)]
    state = seeded(i)
    parts = {name: files[name.startswith("2")] for name in state}
    for file in files:
        part = {name: tensor for name, tensor in state.items() if parts[name] == file}
        if kind == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": parts}))
    return index


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "pytorch_model.bin", "a.ckpt", "checkpoint.pth.tar"])
def test_checkpoints_of_every_name(name: str, tmp_path: Path) -> None:
    torch.save(seeded(0), tmp_path / name)
    for beside in ("training_args.bin", "optimizer.pt", "rng_state_0.pth", "notes.tar"):
        (tmp_path / beside).write_bytes(b"no network")
    networks = ws.from_state_dicts(tmp_path, build)
    assert torch.equal(networks.weights[0], vector(0))
    assert networks.records[0]["file"] == name
    assert torch.equal(ws.from_state_dict(tmp_path / name, build).weights, networks.weights)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_with_an_index_are_one_network(kind: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, 3, kind)
    for networks in (
        ws.from_state_dicts(tmp_path, build),
        ws.from_state_dict(tmp_path, build),
        ws.from_state_dict(index, build),
    ):
        assert torch.equal(networks.weights, vector(3)[None])


def test_sub_folders_are_networks_where_there_are_no_files(tmp_path: Path) -> None:
    sharded(tmp_path / "b", 1)
    (tmp_path / "a").mkdir()
    save_file(seeded(0), tmp_path / "a" / "model.safetensors")
    torch.save(seeded(0), tmp_path / "a" / "pytorch_model.bin")
    (tmp_path / "logs").mkdir()
    with pytest.warns(UserWarning, match=r"model\.safetensors is read, pytorch_model\.bin beside it is left out"):
        networks = ws.from_state_dicts(tmp_path, build)
    assert torch.equal(networks.weights, torch.stack([vector(0), vector(1)]))
    assert [record["file"] for record in networks.records] == ["a", "b"]
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(StorageError, match="holds 2 networks: use from_state_dicts"),
    ):
        ws.from_state_dict(tmp_path, build)
    torch.save(seeded(2), tmp_path / "c.pt")
    with pytest.warns(UserWarning, match="sub-folders were left out: a, b"):
        networks = ws.from_state_dicts(tmp_path, build)
    assert torch.equal(networks.weights, vector(2)[None])
    (tmp_path / "c.pt").unlink()
    torch.save(seeded(2), tmp_path / "b" / "last.ckpt")
    with pytest.raises(StorageError, match=r"b holds 2 files that may each be its network \(last\.ckpt, model"):
        ws.from_state_dicts(tmp_path, build)


@pytest.mark.parametrize(
    "name", ["../secret.bin", "/etc/secret.bin", "a/b.bin", "..", "c:\\secret.bin", 3, "..\\x.bin"]
)
def test_an_index_names_no_file_elsewhere(name: Any, tmp_path: Path) -> None:
    torch.save(seeded(0), tmp_path / "s.bin")
    index = sharded(tmp_path / "net", 0, "bin")
    data = json.loads(index.read_text())
    data["weight_map"]["0.weight"] = name
    index.write_text(json.dumps(data))
    with pytest.raises(StorageError, match="shards lie beside their index|no index of shards"):
        ws.from_state_dict(index, build)
    with pytest.raises(StorageError, match="shards lie beside their index|no index of shards"):
        ws.from_state_dicts(tmp_path / "net", build)


def test_damaged_indexes_are_named(tmp_path: Path) -> None:
    index = sharded(tmp_path, 0)
    whole = index.read_text()
    index.write_text(whole.replace("0.bias", "0.gain"))
    with pytest.raises(StorageError, match=r"lists tensor '0\.gain' in model-00001-of-00002\.safetensors, which does"):
        ws.from_state_dict(index, build)
    index.write_text(whole[:40])
    with pytest.raises(StorageError, match="is no index of shards"):
        ws.from_state_dict(index, build)
    index.write_text(whole)
    save_file(seeded(0), tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(StorageError, match=r"tensor '0\.bias' is in two files"):
        ws.from_state_dict(index, build)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(StorageError, match=r"lists model-00002-of-00002\.safetensors, which is not there"):
        ws.from_state_dict(index, build)
    index.unlink()
    with pytest.raises(StorageError, match=r"one of several parts of a network, but no index"):
        ws.from_state_dicts(tmp_path, build)


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (build(), r"a pickled object \(torch\.nn\..*Sequential\).*torch\.save\(module\.state_dict\(\), path\)$"),
        (
            {"state_dict": seeded(0), "hparams": argparse.Namespace(lr=0.1)},
            r"settings of argparse\.Namesp.*add_safe",
        ),
        ({"state_dict": seeded(0), "x": Evil()}, r"a pickled object \(print\).*state_dict\(\), path\)$"),
    ],
)
def test_objects_beside_tensors_are_named_with_a_remedy(content: Any, message: str, tmp_path: Path, capsys) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(StorageError, match=message) as caught:
        ws.from_state_dicts(tmp_path, build)
    assert "\x1b" not in str(caught.value)
    assert "False" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_settings_that_a_user_allows_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": seeded(0), "hparams": argparse.Namespace(lr=0.1)}, tmp_path / "a.ckpt")
    with torch.serialization.safe_globals([argparse.Namespace]), pytest.warns(UserWarning, match="entry 'state_dict'"):
        assert torch.equal(ws.from_state_dicts(tmp_path, build).weights[0], vector(0))


def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors"):
        path = tmp_path / name
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
        with pytest.raises(StorageError, match="pointer of Git LFS.*git lfs pull"):
            ws.from_state_dict(path, build)
    for junk in (b"", b"hello hello", b"PK\x03\x04"):
        (tmp_path / "a.pt").write_bytes(junk)
        with pytest.raises(StorageError, match=r"a\.pt cannot be read.*Save it again"):
            ws.from_state_dict(tmp_path / "a.pt", build)
    with pytest.raises(StorageError, match="there is no file"):
        ws.from_state_dict(tmp_path / "absent.pt", build)


def test_an_archive_that_says_it_has_two_parts_is_damaged(tmp_path: Path) -> None:
    torch.save(seeded(0), tmp_path / "0.pt")
    data = bytearray((tmp_path / "0.pt").read_bytes())
    data[data.rindex(b"PK\x06\x07") + 16] = 2
    (tmp_path / "0.pt").write_bytes(data)
    # Python 3.14 leaves it to torch to find.
    told = r"0\.pt (is damaged .*multiple disks|cannot be read .*multidisk).*[Ss]ave it again"
    with pytest.raises(StorageError, match=told):
        ws.from_state_dicts(tmp_path, build)


def test_what_was_done_is_said_once_for_a_folder(tmp_path: Path) -> None:
    for i in range(3):
        prefix = "module." if i else ""
        torch.save({prefix + name: tensor for name, tensor in seeded(i).items()}, tmp_path / f"{i}.pt")
    with pytest.warns(UserWarning, match=r"^1\.pt and 1 other: names were read without the prefix 'module\.'$") as said:
        networks = ws.from_state_dicts(tmp_path, build)
    assert len(said) == 1
    assert torch.equal(networks.weights, torch.stack([vector(i) for i in range(3)]))
    torch.save({"w": torch.ones(2)}, tmp_path / "9.pt")
    with pytest.raises(LayoutMismatch, match=r"9\.pt does not fit build: missing .*The file's names: 'w'"):
        ws.from_state_dicts(tmp_path, build)

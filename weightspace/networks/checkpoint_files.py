"""Checkpoint files, read without running code: which files of a folder are networks, and what each holds."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.storage.reading import parse_json, read_text, require_file
from weightspace.storage.system_errors import exists, storage_error, told

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar", ".ckpt.tar")
"""Ends of the names of files that are taken for checkpoints."""
_INDEXES = (".safetensors.index.json", ".bin.index.json")
_SAVED = "torch.save(module.state_dict(), path)"
# What trainers write beside the network.
_BESIDE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|sampler)(_\d+)*\.\w+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")
_RATIO = 20  # how much larger than its file an archive may be
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_GLOBAL = re.compile(r"(?:GLOBAL|unsupported class) ([\w.]+)")
# Classes that checkpoints carry beside tensors, and that only hold values.
_SETTINGS = ("argparse.Namespace", "omegaconf.", "lightning.fabric.utilities.data.", "pytorch_lightning.utilities.")


@dataclass(frozen=True)
class NetworkFile:
    """One network on disk.

    Args:
        path: File, or the index of its shards.
        name: What records and messages call it: the name of the file, or of the network's own folder.
    """

    path: Path
    name: str

    def read(self) -> object:
        """What the file holds; of shards, all their tensors by name.

        Raises:
            StorageError: The file or a shard cannot be read, or the index is damaged or names a file elsewhere.
        """
        return _read_shards(self.path) if self.path.name.endswith(_INDEXES) else _read(self.path)


def network_files(folder: Path) -> tuple[list[NetworkFile], list[str]]:
    """The networks of a folder in order of name, and what is to be said of the choice.

    Each checkpoint file is a network, and so are all shards of an index together. Without such files, each sub-folder
    with one of the two is a network.

    Args:
        folder: Folder to look in.

    Raises:
        StorageError: There are none, or a sub-folder holds several.
    """
    with told("read", folder):
        return _network_files(folder)


def _network_files(folder: Path) -> tuple[list["NetworkFile"], list[str]]:
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: give a folder of state-dict files")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and _checkpoints(path))
    paths, remarks = _networks(folder)
    if paths:
        if folders:
            names = ", ".join(path.name for path in folders)
            remarks.append(f"{folder} has files of networks, so that its sub-folders were left out: {names}")
        return [NetworkFile(path, path.name) for path in paths], remarks
    found: list[NetworkFile] = []
    for one in folders:
        paths, more = _networks(one)
        found += [NetworkFile(path, one.name) for path in paths]
        remarks += more
        if len(paths) > 1:
            raise StorageError(
                f"{one} holds {len(paths)} files that may each be its network ({', '.join(p.name for p in paths)}): "
                "keep one in each sub-folder, or give that folder itself"
            )
    if not found:
        if any((path / "params.json").is_file() for path in folder.iterdir()):
            raise StorageError(
                f"{folder} looks like a model zoo, a folder for each training run: read it with from_zoo "
                "(weightspace import --zoo)"
            )
        kinds = ", ".join(sorted(SUFFIXES))
        raise StorageError(f"{folder} holds no {kinds} files, nothing to read: give a folder of these")
    return found, remarks


def network_file(path: Path) -> tuple[NetworkFile, list[str]]:
    """The one network at a path: a file, an index of shards, or a folder with one of them.

    Args:
        path: File or folder.

    Raises:
        StorageError: There is nothing there, or a folder of several networks.
    """
    with told("read", path):
        is_folder = path.is_dir()
    if not is_folder:
        if not exists(path):
            raise StorageError(f"there is no file {path}: give the file of a state dict")
        return NetworkFile(path, path.name), []
    files, remarks = network_files(path)
    if len(files) > 1:
        raise StorageError(f"{path} holds {len(files)} networks: use from_state_dicts for all, or give one file")
    return files[0], remarks


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, shards among them."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(SUFFIXES) and path.is_file() and path.name[0] != "." and not _BESIDE.fullmatch(path.name)
    )


def _networks(folder: Path) -> tuple[list[Path], list[str]]:
    """The files and indexes of a folder that are a network each, and what was left out."""
    indexes = sorted(path for path in folder.iterdir() if path.name.endswith(_INDEXES))
    shards = {name for index in indexes for name in _weight_map(index).values()}
    paths = sorted([*indexes, *(path for path in _checkpoints(folder) if path.name not in shards)])
    lone = [path for path in paths if _SHARD.search(path.name)]
    if lone:
        raise StorageError(
            f"{lone[0]} is one of several parts of a network, but no index (*.index.json) in {folder} lists it: "
            "copy the index there too"
        )
    safe = [path for path in paths if path.name.startswith("model.safetensors")]
    pickled = [path for path in paths if path.name.startswith("pytorch_model.bin")]
    if safe and pickled:  # a hub's folder has the same network in both forms
        paths = [path for path in paths if path not in pickled]
        return paths, [f"{safe[0].name} is read, {pickled[0].name} beside it is left out as the same network"]
    return paths, []


def _weight_map(index: Path) -> Mapping[str, str]:
    """The file of each tensor, as an index of shards says; plain names of files beside it."""
    try:
        parts = parse_json(read_text(index), str(index))["weight_map"]
        names = set(parts.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f'{index} is no index of shards ({error!r}): it lacks a "weight_map" of names') from error
    for name in names:
        if not isinstance(name, str) or PureWindowsPath(name).name != name or name in ("", ".", ".."):
            raise StorageError(f"{index} names the file {name!r}: shards lie beside their index, nowhere else")
    return parts


def _read_shards(index: Path) -> dict[str, Tensor]:
    parts = _weight_map(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(parts.values())):
        with told("read", index.parent / name):
            there = (index.parent / name).is_file()
        if not there:
            raise StorageError(f"{index} lists {name}, which is not there: copy all parts of the network")
        shard = _read(index.parent / name)
        if not isinstance(shard, Mapping):
            raise StorageError(f"{index.parent / name} holds a {type(shard).__name__}, not tensors by name")
        twice = sorted(set(state) & set(shard))
        if twice:
            raise StorageError(f"{index}: tensor {twice[0]!r} is in two files, {name} is one of them")
        state |= shard
    absent = sorted(set(parts) - set(state))
    if absent:
        raise StorageError(f"{index} lists tensor {absent[0]!r} in {parts[absent[0]]}, which does not hold it")
    return state


def _read(path: Path) -> Any:
    require_file(path)
    if path.name.endswith(".safetensors"):
        try:
            return load_file(path)
        except OSError as error:
            raise storage_error("read", path, error) from error
        except SafetensorError as error:
            why = _pointer(path) or f"{error}; restore it from a copy"
            raise StorageError(f"{path} cannot be read as safetensors: {why}") from error
    _require_not_inflated(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise storage_error("read", path, error) from error
    except Exception as error:  # torch.load raises pickle, zip, EOF and runtime errors alike
        raise StorageError(
            f"{path} cannot be read as a state dict with weights_only=True: {_pointer(path) or _why(error)}"
        ) from error


def _require_not_inflated(path: Path) -> None:
    """Refuse an archive that would be far larger in memory than on disk; torch.save does not compress."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            inside = sum(one.file_size for one in archive.infolist())
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        raise StorageError(f"{path} is damaged ({error}): save it again with {_SAVED}") from error
    if inside > _RATIO * path.stat().st_size + 2**20:
        raise StorageError(
            f"{path} has {path.stat().st_size:,} bytes that would become {inside:,} in memory: it is compressed as "
            f"torch.save never does; save it again with {_SAVED}"
        )


def _pointer(path: Path) -> str | None:
    """What is wrong with a file that Git LFS left in place of the real one."""
    with path.open("rb") as file:
        if not file.read(40).startswith(b"version https://git-lfs"):
            return None
    return "it is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"


def _why(error: Exception) -> str:
    """The cause in plain words, without torch's colours and without its advice to run the file's code."""
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: save the state_dict() of torch.jit.load(path) instead"
    text = _COLOURS.sub("", str(error)).rpartition("WeightsUnpickler error:")[2].strip()
    named = _GLOBAL.search(text)
    if named is None:
        cause = (
            text.splitlines()[0] if isinstance(error, pickle.UnpicklingError | RuntimeError) and text else repr(error)
        )
        return f"{cause}. Save it again with {_SAVED}"
    name = named[1].rstrip(".")
    if name.startswith(_SETTINGS):
        return (
            f"beside tensors it holds settings of {name}, which torch unpickles only on request: call "
            f"torch.serialization.add_safe_globals([{name}]) first, or save the file again with {_SAVED}"
        )
    return f"it holds a pickled object ({name}), not only tensors. Where it was made, save it again with {_SAVED}"

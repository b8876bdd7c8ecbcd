"""State dicts from elsewhere become a collection: a folder of files, one file, or one state dict."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.networks.architecture import Architecture
from weightspace.networks.checkpoint_files import network_file, network_files
from weightspace.networks.collection import Collection
from weightspace.networks.foreign_state import ForeignState, Reading
from weightspace.runtime import checks, seeds
from weightspace.runtime.progress import progress


def from_state_dicts(
    folder: str | Path,
    factory: Callable[[], nn.Module] | Architecture,
    *,
    zeros_are_pruned: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    rename: Callable[[str], str | None] | None = None,
) -> Collection:
    """Read one network per file of a folder, in order of name.

    Files are `.safetensors`, `.pt`, `.pth`, `.bin`, `.ckpt` or `.pth.tar`; parts of a network beside their
    `*.index.json` are one network. Where there are only sub-folders, each of them is a network. Pickled files are read
    with `weights_only=True`, so that they cannot run code.

    What other programs add is found and taken off: the entry that holds the state dict, prefixes and wrappers of names,
    the masks of `torch.nn.utils.prune` (which are kept: the networks are sparse), buffers that the network does not
    have. A warning says what was done, once for all files.

    Args:
        folder: Folder with one file a network, or one sub-folder a network.
        factory: Function that returns a fresh module that the state dicts fit, or a built-in architecture.
        zeros_are_pruned: Whether prunable weights that are exactly zero count as pruned, for networks that
            were sparsified elsewhere.
        key: Entry of each file that holds the state dict, such as "model_ema"; None finds it.
        prefix: Prefix of the network's names, such as "encoder."; other names are left out. None finds it.
        strict: Whether it is an error that tensors are missing, or are not the network's. Otherwise they stay as the
            factory makes them, and are left out.
        rename: Function from a name in a file to the network's, or to None for what is to be left out.

    Raises:
        StorageError: The folder has no such files, or one that cannot be read.
        LayoutMismatch: A file is of another network; the message names the file and the keys that it has.
        InputError: It is not clear which tensors are the network's, or they are no floating-point numbers.
    """
    checks.path(folder, "folder")
    check_reading(factory, zeros_are_pruned, key, prefix, strict, rename)
    files, remarks = network_files(Path(folder))
    contents = ((file.name, file.read()) for file in progress(files, "reading state dicts"))
    reading = Reading(key, prefix, strict, rename)
    records = [{"kind": "imported", "index": i, "file": file.name} for i, file in enumerate(files)]
    return collection_of(contents, records, factory, reading, zeros_are_pruned=zeros_are_pruned, remarks=remarks)


def from_state_dict(
    state: Mapping[str, Any] | nn.Module | str | Path,
    factory: Callable[[], nn.Module] | Architecture,
    *,
    zeros_are_pruned: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    rename: Callable[[str], str | None] | None = None,
) -> Collection:
    """A collection of one network: a state dict, or the file or folder that holds it.

    Everything else is as for `from_state_dicts`. `starts(networks[[0] * n], seed=0)` makes n starts of it.

    Args:
        state: Tensors by name, a module, or the path of a file, of an index of parts, or of a folder with one network.
        factory: Function that returns a fresh module that the state dict fits, or a built-in architecture.
        zeros_are_pruned: Whether prunable weights that are exactly zero count as pruned.
        key: Entry that holds the state dict; None finds it.
        prefix: Prefix of the network's names; other names are left out. None finds it.
        strict: Whether it is an error that tensors are missing, or are not the network's.
        rename: Function from a name in the file to the network's, or to None for what is to be left out.

    Raises:
        StorageError: There is no such file, or it cannot be read.
        LayoutMismatch: The tensors are of another network; the message names the keys.
        InputError: It is not clear which tensors are the network's, or they are no floating-point numbers.
    """
    if not isinstance(state, Mapping | nn.Module | str | Path):
        raise checks.refuse("state", "a state dict, a module, or the path of a file or folder", state)
    if isinstance(state, str | Path):
        checks.path(state, "state")
    check_reading(factory, zeros_are_pruned, key, prefix, strict, rename)
    record: dict[str, Any] = {"kind": "imported", "index": 0}
    content, name, remarks = state, "the state dict", []
    if isinstance(state, nn.Module | Mapping):
        record["start"] = "given"
    if isinstance(state, nn.Module):
        content = state.state_dict()
    elif not isinstance(state, Mapping):
        file, remarks = network_file(Path(state))
        content, name = file.read(), file.name
        record["file"] = name
    reading = Reading(key, prefix, strict, rename)
    return collection_of(
        [(name, content)], [record], factory, reading, zeros_are_pruned=zeros_are_pruned, remarks=remarks
    )


def check_reading(factory: Any, zeros_are_pruned: Any, key: Any, prefix: Any, strict: Any, rename: Any) -> None:
    """Raise InputError for options of another kind; they are those of `from_state_dicts`."""
    if not isinstance(factory, Architecture):
        checks.function(factory, "factory", "that returns a fresh module")
    checks.flag(zeros_are_pruned, "zeros_are_pruned")
    checks.given(key, "key", checks.text)
    if prefix is not None and not isinstance(prefix, str):
        raise checks.refuse("prefix", "the beginning of names, such as 'encoder.'", prefix)
    checks.flag(strict, "strict")
    checks.given(rename, "rename", checks.function, what="of a name that returns a name or None")


def collection_of(
    contents: Iterable[tuple[str, object]],
    records: list[dict[str, Any]],
    factory: Callable[[], nn.Module] | Architecture,
    reading: Reading,
    *,
    zeros_are_pruned: bool,
    remarks: list[str],
) -> Collection:
    """The networks of contents of files, with warnings of what was guessed.

    Args:
        contents: Name and content of each file.
        records: What is known of each network.
        factory: Function that returns a fresh module, or a built-in architecture.
        reading: How the contents are read.
        zeros_are_pruned: Whether prunable weights that are exactly zero count as pruned.
        remarks: What is to be said first.
    """
    architecture = factory if isinstance(factory, Architecture) else Architecture.of(factory)
    layout = architecture.layout()
    records = [record | {"seed": seeds.derive(0, "imported", i)} for i, record in enumerate(records)]
    said: dict[str, list[str]] = {}
    weights: list[Tensor] = []
    masks: list[Tensor] = []
    buffers: dict[str, list[Tensor]] = {entry.name: [] for entry in layout.buffers}
    sparse = zeros_are_pruned
    for (name, content), record in zip(contents, records, strict=True):
        try:
            found = _filled(reading.state(content, layout), architecture, record["seed"])
            weights.append(layout.pack(found.tensors))
        except InputError as error:
            kind = next(k for k in (StorageError, LayoutMismatch, InputError) if isinstance(error, k))
            fits = f"{name}: " if kind is not LayoutMismatch else f"{name} does not fit {architecture.name}: "
            raise kind(f"{fits}{error}") from error
        for entry in layout.buffers:
            buffers[entry.name].append(found.tensors[entry.name])
        kept = {entry.name: found.masks.get(entry.name, torch.tensor(True)) for entry in layout.parameters}
        masks.append(torch.cat([kept[e.name].expand(e.shape).flatten() for e in layout.parameters]))
        sparse |= bool(found.masks)
        for remark in found.remarks:
            said.setdefault(remark, []).append(name)
    stacked = torch.stack(weights)
    mask = torch.stack(masks) if sparse else None
    if mask is not None and zeros_are_pruned:
        mask &= (stacked != 0) | ~layout.prunable
    networks = Collection(
        layout,
        stacked,
        architecture=architecture,
        masks=mask,
        buffers={name: torch.stack(parts) for name, parts in buffers.items()},
        records=records,
    )
    for remark in [*remarks, *(f"{_files(names)}: {remark}" for remark, names in said.items())]:
        warnings.warn(remark, stacklevel=3)
    return networks


def _filled(state: ForeignState, architecture: Architecture, seed: int) -> ForeignState:
    """The state with what the file lacks as a fresh module has it."""
    if state.absent:
        fresh = architecture.build_seeded(seed).state_dict()
        state.tensors |= {name: fresh[name] for name in state.absent}
    return state


def _files(names: list[str]) -> str:
    others = len(names) - 1
    return names[0] if not others else f"{names[0]} and {others} other{'s' if others > 1 else ''}"

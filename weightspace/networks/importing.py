"""A folder of state-dict files becomes a collection."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from weightspace.errors import LayoutMismatch, StorageError
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress

_SUFFIXES = {".safetensors", ".pt", ".pth"}


def from_state_dicts(
    folder: str | Path, factory: Callable[[], nn.Module] | Architecture, *, zeros_are_pruned: bool = False
) -> Collection:
    """Read one network per `.safetensors`, `.pt` or `.pth` file of a folder, in order of name.

    Pickled files are read with `weights_only=True`, so that they cannot run code.

    Args:
        folder: Folder with one file a network.
        factory: Function that returns a fresh module that the state dicts fit, or a built-in architecture.
        zeros_are_pruned: Whether prunable weights that are exactly zero count as pruned, for networks that
            were sparsified elsewhere.

    Raises:
        StorageError: The folder has no such files, or one that cannot be read.
        LayoutMismatch: A file is of another network; the message names the file.
    """
    folder = Path(folder)
    architecture = factory if isinstance(factory, Architecture) else Architecture.of(factory)
    layout = architecture.layout()
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: give a folder of state-dict files")
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise StorageError(f"{folder} holds no {', '.join(sorted(_SUFFIXES))} files: nothing to read")
    weights: list[Tensor] = []
    buffers: dict[str, list[Tensor]] = {entry.name: [] for entry in layout.buffers}
    for path in progress(files, "reading state dicts"):
        state = _read(path)
        try:
            weights.append(layout.pack(state).to(layout.dtype))
            for entry in layout.buffers:
                if entry.name not in state or tuple(state[entry.name].shape) != entry.shape:
                    raise LayoutMismatch(f"buffer {entry.name!r} is missing or not of shape {entry.shape}")
                buffers[entry.name].append(state[entry.name])
        except LayoutMismatch as error:
            raise LayoutMismatch(f"{path.name} does not fit {architecture.name}: {error}") from error
    stacked = torch.stack(weights)
    return Collection(
        layout,
        stacked,
        architecture=architecture,
        masks=(stacked != 0) | ~layout.prunable if zeros_are_pruned else None,
        buffers={name: torch.stack(parts) for name, parts in buffers.items()},
        records=[
            {"kind": "imported", "index": i, "file": path.name, "seed": seeds.derive(0, "imported", i)}
            for i, path in enumerate(files)
        ],
    )


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise StorageError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, EOF and runtime errors alike
        raise StorageError(
            f"{path} cannot be read as a state dict with weights_only=True: {error}. "
            "Save it again with torch.save(module.state_dict(), path)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StorageError(f"{path} does not hold a state dict: save it with torch.save(module.state_dict(), path)")
    return state

"""A ticket on its own: one file with packed masks and values, or ONNX."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from weightspace.errors import InputError, StorageError
from weightspace.networks.architecture import Architecture
from weightspace.networks.layout import Layout
from weightspace.networks.network import Network
from weightspace.networks.record import Record
from weightspace.storage.files import atomic_file, dump_json

FORMAT, VERSION = "weightspace.ticket", 1


def save_ticket(network: Network, path: str | Path) -> Path:
    """Write one network to one safetensors file: the kept weights and a bit for each weight.

    Anyone can read it: tensor "values" holds the kept weights in the order of the mask's ones, "mask" is the mask
    (bits, most significant first, over all parameters in order), "buffer.*" are statistics. The metadata give layout
    and record as JSON.

    Args:
        network: One network of a collection, `tickets[0]`.
        path: File to write; an existing one is replaced when the new one is complete.

    Raises:
        StorageError: The file cannot be written.
    """
    path = Path(path)
    tensors = {"values": network.weights[network.mask], "mask": torch.from_numpy(np.packbits(network.mask.numpy()))}
    tensors |= {f"buffer.{name}": buffer.contiguous() for name, buffer in network.buffers.items()}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "layout": network.layout.to_json(),
        "architecture": network.architecture.to_json(),
        "record": network.record.to_json(),
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, {"weightspace": dump_json(header, "the ticket's record")})
    return path


def load_ticket(path: str | Path, *, factory: Callable[[], nn.Module] | None = None) -> Network:
    """Read a file that `save_ticket` wrote.

    Args:
        path: File to read.
        factory: Function that builds the network; needed for modules where the architecture is not built in.

    Raises:
        StorageError: The file is absent, damaged, not a ticket, or of another version.
        LayoutMismatch: The factory's network has another layout.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError(f"{path} is a folder: a ticket is one file, a collection is read by Collection.load")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("weightspace", "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise StorageError(f"{path} is not a ticket that weightspace wrote")
            if header.get("version") != VERSION:
                raise StorageError(
                    f"{path} has version {header.get('version')}, this weightspace reads version {VERSION}"
                )
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except StorageError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}): restore it from a copy") from error
    try:
        layout = Layout.from_json(header["layout"])
        bits, values = tensors["mask"].numpy(), tensors["values"]
        if len(bits) != -(-layout.size // 8):
            raise StorageError(f"{path} is damaged: a mask of {len(bits)} bytes for {layout.size} weights")
        mask = torch.from_numpy(np.unpackbits(bits, count=layout.size)).bool()
        if int(mask.sum()) != len(values):
            raise StorageError(f"{path} is damaged: {len(values)} values for {int(mask.sum())} kept weights")
        if not values.isfinite().all():
            raise StorageError(f"{path} is damaged: {int((~values.isfinite()).sum())} values are not finite")
        buffers = {b.name: tensors[f"buffer.{b.name}"] for b in layout.buffers}
        architecture = Architecture.from_json(header["architecture"]).following(layout)
        record = Record(header["record"])
        if factory is None and architecture.known and architecture.layout() != layout:
            raise StorageError(f"{path} is damaged: its weights are not those of a {architecture.name}")
        weights = torch.zeros(layout.size, dtype=layout.dtype).masked_scatter(mask, values)
    except StorageError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} is damaged ({error!r}): restore it from a copy") from error
    if factory is not None:
        architecture = Architecture.of(factory).following(layout)
        layout.require(architecture.layout(), "the network of the given factory")
    return Network(layout, architecture, weights, mask, buffers, record)


def to_onnx(module: nn.Module, example: Tensor, path: str | Path) -> Path:
    """Export a module to ONNX with a free batch size, checked with onnxruntime against the module.

    Compact it first (`weightspace.compact`): ONNX has no masks, so that only a smaller module is faster. Needs
    the extra `onnx`.

    Args:
        module: Module to export; it is left as it is.
        example: A batch of at least two inputs.
        path: File to write.

    Raises:
        InputError: The extra is not installed, the module does not run on the example, gives more than one tensor,
            cannot be exported, or the exported one computes something else.
        StorageError: The file cannot be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError(f"export to ONNX needs the extra: pip install 'weightspace[onnx]' ({error})") from error
    path = Path(path)
    module = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            expected = module(example)
    except (RuntimeError, TypeError, IndexError) as error:
        raise InputError(f"the module does not run on an example of shape {tuple(example.shape)}: {error}") from error
    if not isinstance(expected, Tensor):
        raise InputError(f"{type(module).__name__} gives {type(expected).__name__}: one tensor can be exported")
    if not expected.isfinite().all():
        raise InputError("the outputs on the example are not finite: nothing could be checked against them")
    batch = torch.export.Dim("batch")
    try:
        program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    except Exception as error:  # whatever the exporter raises
        raise InputError(f"{type(module).__name__} cannot be exported to ONNX: {_cause(error)}") from error
    assert program is not None
    with atomic_file(path) as temporary:
        program.save(str(temporary))
        session: Any = onnxruntime.InferenceSession(str(temporary))
        (name,) = [one.name for one in session.get_inputs()]
        for x in (example, example[:1]):
            (outputs,) = session.run(None, {name: x.numpy()})
            if not torch.allclose(torch.from_numpy(outputs), expected[: len(x)], rtol=1e-3, atol=1e-4):
                raise InputError("what ONNX computes is not what the module does: nothing was written")
    return path


def _cause(error: BaseException) -> str:
    """What was wrong in the first place, in one line without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", next(iter(str(error).splitlines()), type(error).__name__))

"""A ticket on its own: one file with packed masks and values, or ONNX."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from weightspace.errors import InputError, StorageError
from weightspace.networks import calling
from weightspace.networks.architecture import Architecture
from weightspace.networks.arguments import check_inputs, check_module
from weightspace.networks.layout import Layout
from weightspace.networks.network import Network
from weightspace.networks.record import Record
from weightspace.runtime import checks, trees
from weightspace.runtime.copies import copied
from weightspace.runtime.outputs import difference, tensors_within
from weightspace.runtime.trees import Tree
from weightspace.storage.files import atomic_file, dump_json
from weightspace.storage.reading import parse_json
from weightspace.storage.tensors import open_tensors

FORMAT, VERSION = "weightspace.ticket", 1
_MOST_BYTES = 2**31
_ROUNDING, _HALF = 1e-3, 2e-2  # of the largest output
_FIXED = ". Try dynamic_batch=False, which exports it for batches of the example's size alone"

_COPY = ": restore it from a copy"


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
    checks.instance(network, "network", Network, "a network of a collection, such as tickets[0]")
    checks.path(path, "path")
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
    checks.path(path, "path")
    checks.given(factory, "factory", checks.function, what="that builds the network")
    path = Path(path)
    if path.is_dir():
        raise StorageError(f"{path} is a folder: a ticket is one file, a collection is read by Collection.load")
    try:
        with open_tensors(path) as file:
            header = parse_json((file.metadata() or {}).get("weightspace", "null"), str(path))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise StorageError(
                    f"{path} is not a ticket that weightspace wrote: give a file of `weightspace export`"
                )
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
            raise StorageError(f"{path} is damaged: a mask of {len(bits)} bytes for {layout.size} weights{_COPY}")
        mask = torch.from_numpy(np.unpackbits(bits, count=layout.size)).bool()
        if int(mask.sum()) != len(values):
            raise StorageError(f"{path} is damaged: {len(values)} values for {int(mask.sum())} kept weights{_COPY}")
        if not values.isfinite().all():
            raise StorageError(f"{path} is damaged: {int((~values.isfinite()).sum())} values are not finite{_COPY}")
        buffers = {b.name: tensors[f"buffer.{b.name}"] for b in layout.buffers}
        architecture = Architecture.from_json(header["architecture"]).following(layout)
        record = Record(header["record"])
        if factory is None:
            architecture.require(layout, str(path))
        if factory is None and architecture.known and architecture.layout() != layout:
            raise StorageError(f"{path} is damaged: its weights are not those of a {architecture.name}{_COPY}")
        weights = torch.zeros(layout.size, dtype=layout.dtype).masked_scatter(mask, values)
    except StorageError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} is damaged ({error!r}): restore it from a copy") from error
    if factory is not None:
        architecture = Architecture.of(factory).following(layout)
        layout.require(architecture.layout(), "the network of the given factory")
    return Network(layout, architecture, weights, mask, buffers, record)


def to_onnx(module: nn.Module, example: Tree, path: str | Path, *, dynamic_batch: bool = True) -> Path:
    """Export a module to ONNX with a free batch size, checked with onnxruntime against the module.

    Compact it first (`weightspace.compact`): ONNX has no masks, so that only a smaller module is faster. Needs
    the extra `onnx`.

    Args:
        module: Module to export; it is left as it is.
        example: A batch of at least two inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        path: File to write.
        dynamic_batch: Whether the batch size stays free, which is tried with other sizes before the file is written.
            Else the file is for batches of the example's size.

    Raises:
        InputError: The extra is not installed, the module does not run on the example, returns something other than
            tensors, cannot be exported (with a free batch size), or the exported one computes something else.
        StorageError: The file cannot be written.
    """
    check_module(module)
    check_inputs(example, "example")
    checks.path(path, "path")
    checks.flag(dynamic_batch, "dynamic_batch")
    onnxruntime = _onnxruntime()
    path, module = Path(path), copied(module).eval()
    expected = _outputs(module, example)
    size = len(trees.first(example))
    trials = [(example, trees.tensors(expected))]
    trials += [_trial(module, example, size, other) for other in ((size + 1, 1) if dynamic_batch else ())]
    remedy = _FIXED if dynamic_batch else ""
    args, named = calling.arguments(example)
    shapes = trees.apply(lambda t: {0: torch.export.Dim("batch")} if _batched(t, size) else None, (args, named))
    names = [name.replace(".", "_") for name, _ in trees.leaves(expected)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name")  # all inputs share the axis
            program = torch.onnx.export(
                module,
                args if named else (*args, {}),  # the exporter takes a mapping at the end for inputs by name
                kwargs=named,
                dynamo=True,
                verbose=False,
                dynamic_shapes=(shapes[1] or shapes[0]) if dynamic_batch else None,
                output_names=[f"output_{name}" if name.isdigit() else name for name in names] if any(names) else None,
            )
    except Exception as error:  # whatever the exporter raises
        raise InputError(f"{type(module).__name__} cannot be exported to ONNX: {_cause(error)}{remedy}") from error
    assert program is not None
    with atomic_file(path) as temporary:
        program.save(str(temporary))
        try:
            session = onnxruntime.InferenceSession(str(temporary))
            errors = [difference(_run(session, x), outputs) for x, outputs in trials]
        except InputError:
            raise
        except Exception as error:  # whatever onnxruntime raises
            raise InputError(f"onnxruntime does not run what was exported: {_cause(error)}{remedy}") from error
        half = any(tensor.dtype is torch.float16 for tensor in trials[0][1])
        for (x, _), error in zip(trials, errors, strict=True):
            if error > (_HALF if half else _ROUNDING):
                raise InputError(
                    f"what ONNX computes for inputs of shape {trees.shapes(x)} is not what the module does: nothing "
                    f"was written{remedy}"
                )
    return path


def _onnxruntime() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError(f"export to ONNX needs the extra: pip install 'weightspace[onnx]' ({error})") from error
    return onnxruntime


def _outputs(module: nn.Module, example: Tree) -> Tree:
    """What a module returns for the example, if ONNX can hold it."""
    used = [*trees.tensors(example), *module.parameters()]
    if any(tensor.dtype is torch.bfloat16 for tensor in used):
        raise InputError("onnxruntime has no bfloat16 on the CPU: export module.float() and inputs in float32")
    if sum(tensor.nbytes for tensor in used) >= _MOST_BYTES:
        raise InputError("a file of ONNX holds less than 2 GB: this module is larger")
    with torch.no_grad():
        expected = calling.run(module, example)
    found = trees.tensors(expected)
    if not found or len(found) != len(tensors_within(expected)):
        raise InputError(
            f"{type(module).__name__} returns a {type(expected).__name__} that holds other things than tensors, and "
            "mappings and tuples of them: export a module around it that returns those (transformers do so "
            "with config.use_cache=False)"
        )
    if not trees.finite([tensor for tensor in found if tensor.is_floating_point()]):
        raise InputError("the outputs on the example are not finite: nothing could be checked against them")
    return expected


def _batched(tensor: Tensor, size: int) -> bool:
    return tensor.ndim > 0 and len(tensor) == size


def _trial(module: nn.Module, example: Tree, size: int, other: int) -> tuple[Tree, list[Tensor]]:
    """Inputs of another batch size, and what the module computes for them."""
    rows = torch.arange(other) % size
    x = trees.apply(lambda tensor: tensor[rows] if _batched(tensor, size) else tensor, example)
    try:
        with torch.no_grad():
            return x, trees.tensors(calling.call(module, x))
    except Exception as error:  # a user's module can raise anything
        raise InputError(
            f"{type(module).__name__} runs on a batch of {size}, but not on one of {other} ({error}), so that its "
            f"batch size is not free{_FIXED}"
        ) from error


def _run(session: Any, x: Tree) -> list[Tensor]:
    """What onnxruntime computes."""
    names = [one.name for one in session.get_inputs()]
    given = {name.replace(".", "_"): tensor for name, tensor in trees.leaves(x)}
    if not set(names) <= set(given):  # inputs by position
        if len(names) != len(given):
            raise InputError(f"ONNX takes {len(names)} of {len(given)} inputs: export a module that uses all of them")
        given = dict(zip(names, given.values(), strict=True))
    outputs = session.run(None, {name: given[name].detach().cpu().numpy() for name in names})
    return [torch.as_tensor(np.asarray(output)) for output in outputs]


def _cause(error: BaseException) -> str:
    """What was wrong in the first place, in one line without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", next(iter(str(error).splitlines()), type(error).__name__))

"""The files of a generator: generator.json and generator.safetensors, no pickle."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from torch import Tensor, nn

from weightspace.align import FittedMatching
from weightspace.compress import FittedPCA
from weightspace.errors import InputError, StorageError
from weightspace.flow import FittedFlow
from weightspace.generator.conditions import Conditions
from weightspace.generator.fitted_refinement import FittedRefinement
from weightspace.generator.mask_rules import load_mask_rule
from weightspace.generator.measured import read_measured
from weightspace.networks.architecture import Architecture
from weightspace.networks.layout import Layout
from weightspace.runtime.hashing import raw_bytes
from weightspace.storage.fitted import FittedFormat, require_tensor
from weightspace.storage.typed import from_json
from weightspace.symmetry import Symmetry

VERSION = 4  # refined generators of version 3 leave their codes as the flow makes them
_KEYS = ("layout", "architecture", "align", "masks", "compress", "flow", "conditions", "refined", "trained_on")
GENERATOR = FittedFormat("generator", VERSION, (3, VERSION), _KEYS)
MANIFEST = GENERATOR.manifest
TENSORS = GENERATOR.tensors


class TrainedOn(TypedDict):
    """What a generator was fitted to, as it is written."""

    networks: int
    fingerprint: str
    tasks: list[str]
    density: list[float]
    basin: str | None
    seed: int
    refined: NotRequired[dict[str, Any] | None]  # the first refined generators do not say how they were
    records: NotRequired[dict[str, Any]]  # what records of samples say of their outputs


@dataclass(frozen=True)
class _Refined:
    """How a refinement is written."""

    length: float | None


def digest_of(*tensors: Tensor, text: str = "") -> str:
    """Identifies tensors by their bytes, and a text.

    Args:
        tensors: Tensors in memory.
        text: A text that counts too.
    """
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()[:16]


def joined(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of several parts in one mapping, in their order.

    Args:
        parts: Tensors of each part, by name.

    Raises:
        InputError: Two parts have tensors of the same name.
    """
    named: dict[str, Tensor] = {}
    for part in parts:
        if twice := sorted(set(named) & set(part)):
            raise InputError(f"two parts of the generator have a tensor {twice[0]!r}: register the mask rule otherwise")
        named |= part
    return named


def read_parts(folder: Path, factory: Callable[[], nn.Module] | None) -> dict[str, Any]:
    """The fields of a saved generator.

    Args:
        folder: Folder of the generator.
        factory: Builds the network, for architectures that are not built in.

    Raises:
        StorageError: A file is missing or damaged, or the mask rule is not registered.
        LayoutMismatch: The factory's network has another layout.
    """
    manifest, tensors = GENERATOR.load(folder)
    layout = Layout.from_json(manifest["layout"])
    architecture = Architecture.from_json(manifest["architecture"])
    if factory is None:
        architecture.require(layout, str(folder / MANIFEST))
    else:
        architecture = Architecture.of(factory)
        layout.require_tensors(architecture.layout(), "the network of the factory")
    compress = None if manifest["compress"] is None else FittedPCA.from_json(manifest["compress"], tensors)
    trained_on = manifest["trained_on"]
    from_json(TrainedOn, trained_on, f"{folder / MANIFEST}, trained_on,")
    parts = {
        "layout": layout,
        "architecture": architecture.following(layout),
        "align": _read_alignment(manifest["align"], layout, tensors),
        "masks": load_mask_rule(manifest["masks"], tensors, layout),
        "compress": compress,
        "flow": FittedFlow.from_json(manifest["flow"], tensors),
        "trained_on": trained_on,
        "buffers": [require_tensor(tensors, f"buffer.{b.name}", "the generator") for b in layout.buffers],
        "refined": _read_refinement(manifest, tensors),
        "conditions": Conditions.from_json(manifest["conditions"]),
    }
    measured = read_measured(folder)
    parts |= {"knowledge": measured.knowledge, "temperatures": measured.temperatures}
    _require_sizes(parts, folder)
    return parts


def _require_sizes(parts: Mapping[str, Any], folder: Path) -> None:
    """Raise StorageError unless the parts of a generator are of the same networks."""
    layout, flow, compress, refined = (parts[name] for name in ("layout", "flow", "compress", "refined"))
    low_high = parts["trained_on"]["density"]
    decoded = flow.codes if compress is None else len(compress.mean)
    shapes = {buffer.name: tuple(tensor.shape) for buffer, tensor in zip(layout.buffers, parts["buffers"], strict=True)}
    wrong = {
        "the flow makes codes of another length than the PCA": compress is not None
        and len(compress.components) != flow.codes,
        "decoded networks are smaller than the layout": decoded < layout.size,
        "the refined decoder has another shape": refined is not None
        and tuple(refined.components.shape) != (flow.codes, len(refined.mean)),
        "the flow knows other conditions": sum(parts["conditions"].widths) != flow.conditions,
        "trained_on has no least and greatest density": len(low_high) != 2 or not 0 <= low_high[0] <= low_high[1] <= 1,
        "a buffer has another shape": shapes != {buffer.name: buffer.shape for buffer in layout.buffers},
    }
    if found := [what for what, is_wrong in wrong.items() if is_wrong]:
        raise StorageError(f"{folder / MANIFEST} is damaged ({found[0]}): restore it from a copy")


def _read_alignment(saved: Any, layout: Layout, tensors: Mapping[str, Tensor]) -> FittedMatching | None:
    if saved is None:
        return None
    if not isinstance(saved, Mapping) or "symmetry" not in saved:
        raise StorageError(f"the generator is damaged (align is {saved!r:.200}): restore it from a copy")
    return FittedMatching.from_json(saved, Symmetry.from_json(saved["symmetry"], layout), tensors)


def _read_refinement(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedRefinement | None:
    saved = manifest["refined"]
    if not saved:
        return None
    what = "the generator's refined"
    length = from_json(_Refined, saved, what).length if manifest["version"] > 3 else None
    mean, components = (require_tensor(tensors, f"refined.{part}", "the generator") for part in ("mean", "components"))
    return FittedRefinement(mean, components, length)

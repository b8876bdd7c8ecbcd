"""What a fitted generator is made of, and its files: safetensors and JSON, no pickle."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightspace.align import FittedMatching
from weightspace.compress import FittedPCA
from weightspace.errors import StorageError
from weightspace.flow import DeepWeightFlow, FittedFlow, FlowMatching
from weightspace.generator.conditions import Conditions
from weightspace.generator.mask_rules import FittedMaskRule, load_mask_rule
from weightspace.generator.refinement import Refined
from weightspace.networks.architecture import Architecture
from weightspace.networks.layout import Layout
from weightspace.storage.files import (
    atomic_file,
    check_file,
    dump_json,
    file_hash,
    new_folder,
    read_manifest,
    write_text,
)
from weightspace.storage.spelling import spelled, spelling_of
from weightspace.symmetry import Symmetry

FORMAT = "weightspace.generator"
VERSION = 4
_READABLE = (3, VERSION)  # refined generators of version 3 leave their codes as the flow makes them
MANIFEST = "generator.json"
TENSORS = "generator.safetensors"
_KEYS = (
    "layout", "architecture", "align", "masks", "compress", "flow", "conditions", "refined", "trained_on", "tensors",
)  # fmt: skip


def digest_of(*tensors: Tensor, text: str = "") -> str:
    """Identifies tensors by their bytes, and a text."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]


Own = TypeVar("Own", bound="Parts")


@dataclass(frozen=True)
class Parts:
    """The fitted stages of a generator.

    Args:
        align: None if it was fitted to networks that were aligned before.
        masks: how the mask of a sample is decided.
        compress: None if the flow carries raw weights.
        trained_on: what the generator was fitted to.
        buffers: of the first ticket, in the layout's order: samples start from them before their BatchNorm
            statistics are estimated.
        refined: the decoder of samples, if the generator was refined through a task. `encode`, `decode`,
            `reconstruct`, `interpolate` and `log_prob` always use the components of the tickets.
        conditions: what samples can be asked to be like.
    """

    layout: Layout
    architecture: Architecture
    align: FittedMatching | None
    masks: FittedMaskRule
    compress: FittedPCA | None
    flow: FittedFlow
    trained_on: dict[str, Any]
    buffers: Sequence[Tensor] = ()
    refined: Refined | None = None
    conditions: Conditions = Conditions()

    def fingerprint(self) -> str:
        """Identifies the generator by its tensors and settings."""
        settings = dump_json(self._settings(), "the generator")
        return digest_of(*self.tensors().values(), text=settings + " ".join(self.tensors()))

    def _settings(self) -> dict[str, Any]:
        return {
            "layout": self.layout.to_json(), "architecture": self.architecture.to_json(),
            "align": self.align.to_json() if self.align else None,
            "masks": self.masks.to_json(),
            "compress": self.compress.to_json() if self.compress else None,
            "flow": {
                "method": spelling_of(self.flow.config).name, "config": spelled(self.flow.config), **self.flow.to_json(),
            },
            "conditions": self.conditions.to_json(),
            "refined": None if self.refined is None else {"length": self.refined.length},
            "trained_on": self.trained_on,
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """All that was fitted, by name."""
        found = {f"buffer.{b.name}": t for b, t in zip(self.layout.buffers, self.buffers, strict=True)}
        for part in (self.compress, self.flow, self.masks, self.align, self.refined):
            found |= part.tensors() if part is not None else {}
        return found

    def save(self, folder: str | Path) -> Path:
        """Write to a new or empty folder, as safetensors and JSON.

        Raises:
            StorageError: the folder is not empty or cannot be written.
        """
        folder = Path(folder)
        with new_folder(folder) as temporary:
            self.write(temporary)
        return folder

    def write(self, folder: Path) -> None:
        """Write the tensors, then the manifest that makes the folder a generator."""
        path = folder / TENSORS
        with atomic_file(path) as temporary:
            save_file({name: t.contiguous() for name, t in self.tensors().items()}, temporary)
        manifest = {"format": FORMAT, "version": VERSION} | self._settings()
        manifest["tensors"] = {"size": path.stat().st_size, "sha256": file_hash(path)}
        write_text(folder / MANIFEST, dump_json(manifest, "the generator", indent=1))

    @classmethod
    def load(cls: type[Own], folder: str | Path, *, factory: Callable[[], nn.Module] | None = None) -> Own:
        """Open a saved generator.

        Args:
            factory: builds the network, for architectures that are not built in.

        Raises:
            StorageError: the folder holds no generator, or a damaged one.
            LayoutMismatch: the factory's network has another layout.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            raise StorageError(
                f"{folder} has no {MANIFEST}: it is not a generator, or its fit was interrupted (run it again)"
            )
        manifest = read_manifest(folder / MANIFEST, FORMAT, _READABLE, _KEYS)
        check_file(folder / TENSORS, **manifest["tensors"])
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
        layout = Layout.from_json(manifest["layout"])
        architecture = Architecture.from_json(manifest["architecture"])
        if factory is not None:
            architecture = Architecture.of(factory)
            layout.require(architecture.layout(), "the network of the given factory")
        align = None
        if manifest["align"] is not None:
            symmetry = Symmetry.from_json(manifest["align"]["symmetry"], layout)
            align = FittedMatching.from_json(manifest["align"], symmetry, tensors)
        compress = None
        if manifest["compress"] is not None:
            saved = manifest["compress"]
            compress = FittedPCA(
                tensors["pca.mean"], tensors["pca.components"], tensors["pca.variances"], saved["total_variance"],
                saved["networks"],
            )  # fmt: skip
        flow = manifest["flow"]
        method = {"FlowMatching": FlowMatching, "DeepWeightFlow": DeepWeightFlow}.get(flow["method"])
        if method is None:
            raise StorageError(f"unknown flow {flow['method']!r} in {folder}: was it written by a newer version?")
        named = {old: new for new, old in spelling_of(method).fields.items()}
        config = method(
            **{named.get(key, key): value for key, value in flow["config"].items()}
            | {"betas": tuple(flow["config"]["betas"])}
        )
        fitted = FittedFlow(config, tensors["flow.weights"], flow["scale"], flow["codes"], flow["conditions"])
        refined = None
        if manifest["refined"]:
            length = manifest["refined"]["length"] if manifest["version"] > 3 else None
            refined = Refined(tensors["refined.mean"], tensors["refined.components"], length)
        return cls(
            layout, architecture, align, load_mask_rule(manifest["masks"], tensors, layout), compress, fitted,
            manifest["trained_on"], [tensors[f"buffer.{b.name}"] for b in layout.buffers], refined,
            Conditions.from_json(manifest["conditions"]),
        )  # fmt: skip

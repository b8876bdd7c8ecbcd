"""GeneratorParts: what a fitted generator is made of, and how it is written and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from weightspace.align import FittedMatching
from weightspace.compress import FittedPCA
from weightspace.flow import FittedFlow
from weightspace.generator.conditions import Conditions
from weightspace.generator.files import GENERATOR, digest_of, joined
from weightspace.generator.fitted_refinement import FittedRefinement
from weightspace.generator.mask_rules import FittedMaskRule, rule_tensors, rule_to_json
from weightspace.generator.measured import Measured, Temperature, write_measured
from weightspace.generator.projection import sparse_networks
from weightspace.masks.patterns import Pattern
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import TASK_VECTOR
from weightspace.report.knowledge import FlowKnowledge
from weightspace.runtime import checks
from weightspace.storage.files import dump_json, new_folder
from weightspace.tasks.data import Data
from weightspace.training.batchnorm import recalibrated

_ALL_CHANGED = 0.999  # of the weights: where all are trained, a few in a million come back to where they began


@dataclass(frozen=True, repr=False)
class GeneratorParts:
    """What a trained generator is made of, on disk and in memory; `FittedGenerator` explains what it does.

    Args:
        layout: Layout of the networks.
        architecture: Architecture of the networks.
        align: Alignment of the tickets; None if they were aligned before.
        masks: Rule for the mask of a sample.
        compress: Compression; None if the flow carries raw weights.
        flow: Flow that makes codes.
        trained_on: What the generator was fitted to: "networks", "fingerprint", "tasks", "density" (least and
            greatest), "basin", "seed" and "refined".
        buffers: Buffers of the first ticket, in the layout's order: samples start from them before their BatchNorm
            statistics are estimated.
        refined: Decoder of samples, if the generator was refined through a task. `encode`, `decode`, `reconstruct`,
            `interpolate` and `log_prob` always use the components of the tickets.
        conditions: Conditions that samples can be drawn under.
        knowledge: What the flow knows beyond a Gaussian, on networks that it was not trained on; None where none were
            held out, and in generators from before this was measured.
        temperatures: Temperatures of ensembles of samples, fitted on validation data.
    """

    layout: Layout
    architecture: Architecture
    align: FittedMatching | None
    masks: FittedMaskRule
    compress: FittedPCA | None
    flow: FittedFlow
    trained_on: dict[str, Any]
    buffers: Sequence[Tensor] = ()
    refined: FittedRefinement | None = None
    conditions: Conditions = Conditions()
    knowledge: FlowKnowledge | None = None
    temperatures: Sequence[Temperature] = ()

    def __repr__(self) -> str:
        networks = f"{self.trained_on['networks']:,} {self.architecture.name} networks"
        conditions = (
            f", conditions: {', '.join(each.name for each in self.conditions.each)}" if self.conditions.each else ""
        )
        refined = "" if self.refined is None else ", refined through a task"
        return f"{type(self).__name__}(trained on {networks}, D = {self.layout.size:,}{refined}{conditions})"

    @property
    def of_changes(self) -> bool:
        """Whether it was fitted to task vectors, so that its samples are changes of networks."""
        return self.trained_on.get("records", {}).get("of") == TASK_VECTOR

    def fingerprint(self) -> str:
        """Identifies the generator by its tensors and settings; what was measured of it does not count."""
        settings, tensors = dump_json(self._settings(), "the generator"), self.tensors()
        return digest_of(*tensors.values(), text=settings + " ".join(tensors))

    def tensors(self) -> dict[str, Tensor]:
        """All that was fitted, by its names in a file."""
        buffers = {f"buffer.{b.name}": t for b, t in zip(self.layout.buffers, self.buffers, strict=True)}
        return joined(  # in this order since version 0.1: the fingerprint depends on it
            buffers,
            self.compress.tensors() if self.compress else {},
            self.flow.tensors(),
            rule_tensors(self.masks),
            self.align.tensors() if self.align else {},
            self.refined.tensors() if self.refined else {},
        )

    def _settings(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        return {
            "layout": self.layout.to_json(),
            "architecture": self.architecture.to_json(),
            "align": self.align.to_json() if self.align else None,
            "masks": rule_to_json(self.masks),
            "compress": self.compress.to_json() if self.compress else None,
            "flow": self.flow.to_json(),
            "conditions": self.conditions.to_json(),
            "refined": None if self.refined is None else {"length": self.refined.length},
            "trained_on": self.trained_on,
        }

    def save(self, folder: str | Path) -> Path:
        """Write to a new or empty folder, as safetensors and JSON.

        Args:
            folder: Folder to write.

        Raises:
            StorageError: The folder is not empty or cannot be written.
            InputError: The mask rule or the cost of the alignment is not registered.
        """
        checks.path(folder, "folder")
        with new_folder(Path(folder)) as temporary:
            self.write(temporary)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write into a folder that exists, for runs and the hub; `save` is for everything else.

        Args:
            folder: Folder to write to.
        """
        GENERATOR.write(folder, self._settings(), self.tensors())
        write_measured(folder, Measured(self.knowledge, tuple(self.temperatures)))

    def _vectors(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
        """Codes decoded by the components of the tickets, before masks are chosen."""
        return (
            codes.to(self.layout.dtype, copy=True) if self.compress is None else self.compress.inverse_transform(codes)
        )

    def _project(
        self, vectors: Float[Tensor, "n m"], pattern: Pattern, records: Sequence[Mapping[str, Any]]
    ) -> Collection:
        """Sparse networks of decoded vectors."""
        at = (self.masks, self.architecture, self.layout, self.buffers, records)
        least = self.trained_on["density"][0]
        return sparse_networks(vectors, pattern, *at, dense=least == 1 or (self.of_changes and least > _ALL_CHANGED))

    def _with_statistics(self, networks: Collection, data: Data | None, device: str) -> Collection:
        return networks if data is None else recalibrated(networks, data, device=device)

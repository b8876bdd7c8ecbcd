"""TicketGenerator: learn from sparse networks, sample new ones, mask and weights together."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightspace import seeds
from weightspace.align import FittedMatching, WeightMatching
from weightspace.architecture import Architecture
from weightspace.collection import Collection
from weightspace.compress import PCA, FittedPCA
from weightspace.errors import InputError, StorageError
from weightspace.flow import FittedFlow, FlowMatching
from weightspace.layout import Layout
from weightspace.pattern import Pattern, Unstructured
from weightspace.runs import open_run
from weightspace.storage import atomic_file, check_file, dump_json, file_hash, new_folder, read_manifest, write_text
from weightspace.symmetry import Symmetry
from weightspace.training.blocks import in_blocks

FORMAT = "weightspace.generator"
VERSION = 2
MANIFEST = "generator.json"
TENSORS = "generator.safetensors"
_KEYS = ("layout", "architecture", "align", "compress", "flow", "trained_on", "tensors")


@dataclass(frozen=True)
class TicketGenerator:
    """Align, compress, and learn the distribution of the codes.

    Args:
        align: brings the tickets into one basin; None takes them as they are.
        compress: turns networks into codes.
        generate: learns the distribution of the codes.
    """

    align: WeightMatching | None = field(default_factory=WeightMatching)
    compress: PCA = field(default_factory=PCA)
    generate: FlowMatching = field(default_factory=FlowMatching)

    def fit(self, tickets: Collection, *, seed: int = 0, folder: str | Path | None = None) -> "FittedGenerator":
        """Learn from a collection of trained sparse networks.

        Args:
            tickets: aligned by this stage unless their records say that all were aligned to one reference.
            folder: write the fitted generator there, as a run that can be interrupted and resumed.

        Raises:
            InputError: too few networks for the components, no known symmetry, or networks with
                normalisation statistics.
            StorageError: the folder holds another run.
        """
        if tickets.layout.buffers:
            raise InputError(
                f"{tickets.architecture.name} has buffers ({tickets.layout.buffers[0].name}, ...): the statistics of "
                "a sampled network would have to be estimated on training data, which this version does not do. "
                "Use a network without BatchNorm"
            )
        self.compress.check(len(tickets), tickets.layout.size)
        if folder is None:
            return self._fit(tickets, seed, None)
        folder = Path(folder)
        symmetry = self.align.symmetry if self.align else None
        config = {
            "align": None if self.align is None else {
                "balance": self.align.balance, "cost": repr(self.align.cost),
                "population": repr(self.align.population), "fix_unknown": self.align.fix_unknown,
            },
            "symmetry": None if symmetry is None else symmetry.to_json(),
            "compress": asdict(self.compress), "generate": asdict(self.generate), "seed": seed,
        }  # fmt: skip
        with open_run(folder, "fit", config, {"tickets": tickets.fingerprint()}) as run:
            if not run.complete:
                checkpoint = folder / "flow.checkpoint.safetensors"
                self._fit(tickets, seed, checkpoint).write(folder)
                run.finish()
                checkpoint.unlink(missing_ok=True)
        return FittedGenerator.load(folder, factory=tickets.architecture.factory)

    def _fit(self, tickets: Collection, seed: int, checkpoint: Path | None) -> "FittedGenerator":
        basins = {record.get("aligned") for record in tickets.records}
        together = len(basins) == 1 and None not in basins
        matching = None if self.align is None or together else self.align.fit(tickets)
        aligned = tickets if matching is None else matching.transform(tickets)
        compression = self.compress.fit(aligned.weights)
        flow = self.generate.fit(compression.transform(aligned.weights), seed=seed, checkpoint=checkpoint)
        densities = tickets.densities
        trained_on = {
            "networks": len(tickets),
            "fingerprint": tickets.fingerprint(),
            "tasks": sorted({record.get("task", "unknown") for record in tickets.records}),
            "density": [densities.min().item(), densities.max().item()],
            "basin": matching.fingerprint() if matching else basins.pop() if together else None,
        }
        return FittedGenerator(tickets.layout, tickets.architecture, matching, compression, flow, trained_on)


@dataclass(frozen=True)
class FittedGenerator:
    """A trained generator of sparse networks."""

    layout: Layout
    architecture: Architecture
    align: FittedMatching | None
    compress: FittedPCA
    flow: FittedFlow
    trained_on: dict[str, Any]

    def sample(
        self,
        n: int,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> Collection:
        """New sparse networks: codes from the flow, decoded, the largest weights kept.

        Args:
            n: number of networks; network i depends on (seed, i) alone.
            density: fraction of prunable weights kept over the whole network; every sample has
                exactly round(density * prunable) non-zero prunable weights.
            pattern: another rule for the mask, instead of a density.
            folder: write to this folder as a run.

        Raises:
            InputError: neither or both of density and pattern, or more weights asked for than the
                decoded networks have.
            StorageError: the folder holds another run.
        """
        if n < 1:
            raise InputError(f"ask for at least one network, got n = {n}")
        if (density is None) == (pattern is None):
            raise InputError("give either density= or pattern=: the density of the training tickets was "
                             f"{self.trained_on['density'][0]:g}")  # fmt: skip
        rule = pattern if pattern is not None else Unstructured(density if density is not None else 1.0)
        if isinstance(rule, Unstructured):
            rule.count(self.layout)

        def make(_rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            weights = self.compress.inverse_transform(self.flow.sample(n, seed=seed))
            masks = rule.mask(weights.abs(), self.layout, within=(weights != 0) | ~self.layout.prunable)
            tick(1)
            return Collection(
                self.layout,
                weights * masks,
                architecture=self.architecture,
                masks=masks,
                records=[
                    {
                        "kind": "sample", "index": i, "seed": seeds.derive(seed, "sample", i), "sample_seed": seed,
                        "pattern": repr(rule), "aligned": self.trained_on["basin"],
                        "task": ", ".join(self.trained_on["tasks"]), "generator": self.trained_on["fingerprint"],
                    }
                    for i in range(n)
                ],
            )  # fmt: skip

        return in_blocks(
            make, architecture=self.architecture, count=n, block=n, ticks=1, what=f"sampling {n} networks",
            folder=folder, stage="sample", config={"n": n, "pattern": repr(rule), "seed": seed},
            inputs={"generator": self.fingerprint()} if folder else None,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Identifies the generator by its tensors."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, Tensor]:
        return self.compress.tensors() | self.flow.tensors() | (self.align.tensors() if self.align else {})

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
            save_file({name: t.contiguous() for name, t in self._tensors().items()}, temporary)
        manifest = {
            "format": FORMAT, "version": VERSION,
            "layout": self.layout.to_json(), "architecture": self.architecture.to_json(),
            "align": self.align.to_json() if self.align else None,
            "compress": self.compress.to_json(),
            "flow": {"config": asdict(self.flow.config), **self.flow.to_json()},
            "trained_on": self.trained_on,
            "tensors": {"size": path.stat().st_size, "sha256": file_hash(path)},
        }  # fmt: skip
        write_text(folder / MANIFEST, dump_json(manifest, "the generator", indent=1))

    @classmethod
    def load(cls, folder: str | Path, *, factory: Callable[[], nn.Module] | None = None) -> "FittedGenerator":
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
        manifest = read_manifest(folder / MANIFEST, FORMAT, VERSION, _KEYS)
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
        compress = FittedPCA(
            tensors["pca.mean"], tensors["pca.components"], tensors["pca.variances"],
            manifest["compress"]["total_variance"], manifest["compress"]["networks"],
        )  # fmt: skip
        flow = manifest["flow"]
        fitted = FittedFlow(FlowMatching(**flow["config"]), tensors["flow.weights"], flow["scale"], flow["codes"])
        return cls(layout, architecture, align, compress, fitted, manifest["trained_on"])

"""TicketGenerator: learn from sparse networks, sample new ones, mask and weights together."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightspace import seeds
from weightspace.align import FittedMatching, WeightMatching
from weightspace.architecture import Architecture
from weightspace.batchnorm import recalibrated
from weightspace.collection import Collection
from weightspace.compress import PCA, FittedPCA
from weightspace.errors import InputError, StorageError
from weightspace.flow import FittedFlow, FlowMatching, Refined, TaskRefinement
from weightspace.functional import blocks
from weightspace.layout import Layout
from weightspace.pattern import Pattern, Unstructured
from weightspace.runs import open_run
from weightspace.storage import (
    Record,
    atomic_file,
    check_file,
    dump_json,
    file_hash,
    new_folder,
    read_manifest,
    write_text,
)
from weightspace.symmetry import Symmetry
from weightspace.task import Split
from weightspace.training.blocks import in_blocks

FORMAT = "weightspace.generator"
VERSION = 2
MANIFEST = "generator.json"
TENSORS = "generator.safetensors"
_MASKED = 16  # networks whose masks are chosen at once: what they need stays in the cache
_REFINEMENT = "refinement.checkpoint.safetensors"
_KEYS = ("layout", "architecture", "align", "compress", "flow", "refined", "trained_on", "tensors")


@dataclass(frozen=True)
class TicketGenerator:
    """Align, compress, and learn the distribution of the codes.

    Args:
        align: brings the tickets into one basin; None takes them as they are.
        compress: turns networks into codes.
        generate: learns the distribution of the codes.
        refine: trains the generator on through the task; None leaves it as flow matching made it.
    """

    align: WeightMatching | None = field(default_factory=WeightMatching)
    compress: PCA = field(default_factory=PCA)
    generate: FlowMatching = field(default_factory=FlowMatching)
    refine: TaskRefinement | None = None

    def fit(self, tickets: Collection, *, seed: int = 0, folder: str | Path | None = None) -> "FittedGenerator":
        """Learn from a collection of trained sparse networks.

        Args:
            tickets: aligned by this stage unless their records say that all were aligned to one reference.
            folder: write the fitted generator there, as a run that can be interrupted and resumed.

        Raises:
            InputError: too few networks for the components, or no known symmetry.
            StorageError: the folder holds another run.
        """
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
        if self.refine is not None:
            settings = {k: v for k, v in vars(self.refine).items() if k != "task"}
            config["refine"] = settings | {"task": self.refine.task.to_json()}
        with open_run(folder, "fit", config, {"tickets": tickets.fingerprint()}) as run:
            if not run.complete:
                checkpoint = folder / "flow.checkpoint.safetensors"
                self._fit(tickets, seed, checkpoint).write(folder)
                run.finish()
                for left in (checkpoint, checkpoint.with_name(_REFINEMENT)):
                    left.unlink(missing_ok=True)
        return FittedGenerator.load(folder, factory=tickets.architecture.factory)

    def _fit(self, tickets: Collection, seed: int, checkpoint: Path | None) -> "FittedGenerator":
        basins = {record.get("aligned") for record in tickets.records}
        together = len(basins) == 1 and None not in basins
        matching = None if self.align is None or together else self.align.fit(tickets)
        aligned = tickets if matching is None else matching.transform(tickets)
        compression = self.compress.fit(aligned.weights)
        flow = self.generate.fit(compression.transform(aligned.weights), seed=seed, checkpoint=checkpoint)
        refined = None
        if self.refine is not None:
            kept = None if checkpoint is None else checkpoint.with_name(_REFINEMENT)
            refined = self.refine.fit(aligned, compression, flow, seed=seed, checkpoint=kept)
        densities = tickets.densities
        trained_on = {
            "networks": len(tickets),
            "fingerprint": tickets.fingerprint(),
            "tasks": sorted({record.get("task", "unknown") for record in tickets.records}),
            "density": [densities.min().item(), densities.max().item()],
            "basin": matching.fingerprint() if matching else basins.pop() if together else None,
        }
        buffers = [tickets[:1].buffers[b.name][0].clone() for b in tickets.layout.buffers]
        return FittedGenerator(
            tickets.layout, tickets.architecture, matching, compression, flow, trained_on, buffers, refined
        )


@dataclass(frozen=True)
class FittedGenerator:
    """A trained generator of sparse networks.

    Args:
        buffers: of the first ticket, in the layout's order: samples start from them before their BatchNorm
            statistics are estimated.
        refined: the decoder of samples, if the generator was refined through a task. `encode`, `decode`,
            `reconstruct` and `interpolate` always use the components of the tickets.
    """

    layout: Layout
    architecture: Architecture
    align: FittedMatching | None
    compress: FittedPCA
    flow: FittedFlow
    trained_on: dict[str, Any]
    buffers: Sequence[Tensor] = ()
    refined: Refined | None = None

    def sample(
        self,
        n: int,
        *,
        density: float | Sequence[float] | None = None,
        pattern: Pattern | None = None,
        nested: bool = True,
        data: Split | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> Collection:
        """New sparse networks: codes from the flow, decoded, the largest weights kept.

        Args:
            n: number of networks; network i depends on (seed, i) alone.
            density: fraction of prunable weights kept over the whole network; every sample has
                exactly round(density * prunable) non-zero prunable weights. Several densities give n
                networks of each, in their order.
            pattern: another rule for the mask, instead of a density.
            nested: with several densities, take the same n networks for each, so that masks of a lower
                density are part of those of a higher; otherwise other networks for each.
            data: training samples, from which BatchNorm statistics are estimated; needed for networks
                that have them.
            folder: write to this folder as a run.

        Raises:
            InputError: neither or both of density and pattern, more weights asked for than the
                decoded networks have, or no data for BatchNorm.
            StorageError: the folder holds another run.
        """
        if n < 1:
            raise InputError(f"ask for at least one network, got n = {n}")
        rules = self._rules(density, pattern)
        self._require_data(data)
        count = n * len(rules)

        def make(_rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            parts: list[Collection] = []
            for i, rule in enumerate(rules):
                own = seed if nested else seeds.derive(seed, "densities", i)
                record = {
                    "kind": "sample", "sample_seed": own, "pattern": repr(rule), "aligned": self.trained_on["basin"],
                    "task": ", ".join(self.trained_on["tasks"]), "generator": self.trained_on["fingerprint"],
                }  # fmt: skip
                records = [record | {"index": i * n + k, "seed": seeds.derive(own, "sample", k)} for k in range(n)]
                parts.append(self._project(self._vectors(n, own), rule, records))
            tick(1)
            return self._with_statistics(parts[0] if len(parts) == 1 else Collection.concatenate(parts), data)

        config = {"n": n, "pattern": repr(rules[0]) if len(rules) == 1 else repr(rules), "seed": seed}
        if len(rules) > 1:
            config["nested"] = nested
        return in_blocks(
            make, architecture=self.architecture, count=count, block=count, ticks=1,
            what=f"sampling {count} networks", folder=folder, stage="sample", config=config,
            inputs={"generator": self.fingerprint()} if folder else None,
        )  # fmt: skip

    def encode(self, networks: Collection) -> Float[Tensor, "n k"]:
        """Codes of networks: aligned to the generator's reference unless their records say that they are, compressed."""
        self.layout.require(networks.layout, "the networks to encode")
        basins = {record.get("aligned") for record in networks.records}
        known = basins == {self.trained_on["basin"]} and None not in basins
        if self.align is None and not known:
            raise InputError(
                "the generator was fitted to networks that were aligned before, and does not know how: align these "
                "with the same fitted matching first"
            )
        return self.compress.transform(networks if known or self.align is None else self.align.transform(networks))

    def decode(
        self, codes: Float[Tensor, "n k"], *, density: float | None = None, pattern: Pattern | None = None,
        data: Split | None = None,
    ) -> Collection:  # fmt: skip
        """Sparse networks of codes; see :meth:`sample` for the mask."""
        (rule,) = self._rules(density, pattern)
        self._require_data(data)
        record = {"kind": "decoded", "pattern": repr(rule), "aligned": self.trained_on["basin"]}
        records = [record | {"index": i} for i in range(len(codes))]
        return self._with_statistics(self._project(self.compress.inverse_transform(codes), rule, records), data)

    def reconstruct(
        self, networks: Collection, *, density: float | None = None, pattern: Pattern | None = None,
        data: Split | None = None,
    ) -> Collection:  # fmt: skip
        """What is left of networks after encoding and decoding: aligned networks, near the given ones."""
        return self.decode(self.encode(networks), density=density, pattern=pattern, data=data)

    def interpolate(
        self, ends: Collection, steps: int, *, density: float | None = None, pattern: Pattern | None = None,
        data: Split | None = None,
    ) -> Collection:  # fmt: skip
        """Networks on the way from one network to another, through the flow.

        Both ends are carried back to the noise that generates them; the way between is an arc (spherical
        interpolation), as Gaussian noise lies near a sphere.

        Args:
            ends: two networks.
            steps: networks on the way, the two reconstructed ends included.
        """
        if len(ends) != 2 or steps < 2:
            raise InputError(f"interpolate between 2 networks in at least 2 steps, got {len(ends)} and {steps}")
        a, b = self.flow.encode(self.encode(ends))
        angle = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1 + 1e-6, 1 - 1e-6))
        t = torch.linspace(0, 1, steps)[:, None]
        between = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
        return self.decode(self.flow.carry(between), density=density, pattern=pattern, data=data)

    def log_prob(self, networks: Collection) -> Float[Tensor, " n"]:
        """How typical networks are: exact log-density of their codes under the flow, in nats.

        A density in the space of codes; what a network has outside the components does not count. Compare
        networks with each other, not with numbers from elsewhere.
        """
        return self.flow.log_prob(self.encode(networks))

    def _rules(self, density: float | Sequence[float] | None, pattern: Pattern | None) -> list[Pattern]:
        if (density is None) == (pattern is None):
            raise InputError("give either density= or pattern=: the density of the training tickets was "
                             f"{self.trained_on['density'][0]:g}")  # fmt: skip
        if pattern is not None:
            return [pattern]
        asked = [density] if isinstance(density, int | float) else list(density or [])
        if not asked:
            raise InputError("give at least one density")
        rules = [Unstructured(one) for one in asked]
        for rule in rules:
            rule.count(self.layout)
        return list(rules)

    def _require_data(self, data: Split | None) -> None:
        if self.layout.buffers and data is None:
            raise InputError(
                f"{self.architecture.name} has buffers ({self.layout.buffers[0].name}, ...), which are estimated on "
                "training data: give data=task.train"
            )

    def _vectors(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """Sampled networks before their masks are chosen."""
        codes = self.flow.sample(n, seed=seed)
        return self.compress.inverse_transform(codes) if self.refined is None else self.refined.decode(codes)

    def _project(self, weights: Float[Tensor, "n d"], rule: Pattern, records: list[Record]) -> Collection:
        masks = torch.empty(weights.shape, dtype=torch.bool)
        for rows in blocks(len(weights), _MASKED):
            part = weights[rows]
            masks[rows] = rule.mask(part.abs(), self.layout, within=(part != 0) | ~self.layout.prunable)
            part.mul_(masks[rows])
        buffers = {
            b.name: t.expand(len(weights), *b.shape).clone()
            for b, t in zip(self.layout.buffers, self.buffers, strict=True)
        }
        return Collection(
            self.layout, weights, architecture=self.architecture, masks=masks, records=records, buffers=buffers
        )

    def _with_statistics(self, networks: Collection, data: Split | None) -> Collection:
        return networks if data is None else recalibrated(networks, data)

    def fingerprint(self) -> str:
        """Identifies the generator by its tensors."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, Tensor]:
        buffers = {f"buffer.{b.name}": t for b, t in zip(self.layout.buffers, self.buffers, strict=True)}
        aligned = self.align.tensors() if self.align else {}
        refined = self.refined.tensors() if self.refined else {}
        return self.compress.tensors() | self.flow.tensors() | aligned | buffers | refined

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
            "refined": self.refined is not None,
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
        buffers = [tensors[f"buffer.{b.name}"] for b in layout.buffers]
        refined = None
        if manifest["refined"]:
            refined = Refined(tensors["refined.mean"], tensors["refined.components"])
        return cls(layout, architecture, align, compress, fitted, manifest["trained_on"], buffers, refined)

"""FittedGenerator: sample new sparse networks, mask and weights together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.align import FittedMatching
from weightspace.compress import FittedPCA
from weightspace.errors import InputError
from weightspace.flow import FittedFlow
from weightspace.flow.path import arc
from weightspace.generator.arguments import check_data, check_ends, check_sampling
from weightspace.generator.conditions import Conditions
from weightspace.generator.files import GENERATOR, digest_of, joined, read_parts
from weightspace.generator.fitted_refinement import FittedRefinement
from weightspace.generator.mask_rules import FittedMaskRule, rule_tensors, rule_to_json
from weightspace.generator.projection import Draw, draws_of, one_pattern, patterns_of, sparse_networks
from weightspace.masks.patterns import Pattern
from weightspace.networks.architecture import Architecture
from weightspace.networks.arguments import check_networks
from weightspace.networks.building import in_blocks
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.room import check_number
from weightspace.storage.files import dump_json
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.data import Data
from weightspace.training.batchnorm import recalibrated

_BLOCK_BYTES = 2**29  # weights of samples that are made at once


@dataclass(frozen=True)
class FittedGenerator:
    """A trained generator of sparse networks.

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

    def sample(
        self,
        n: int,
        *,
        density: float | Sequence[float] | None = None,
        pattern: Pattern | None = None,
        nested: bool = True,
        condition: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
        data: Data | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        device: str = "auto",
    ) -> Collection:
        """New sparse networks: codes from the flow, decoded, the largest weights kept.

        Args:
            n: Number of networks; network i depends on (seed, i) alone, up to the rounding of batched products.
            density: Fraction of prunable weights kept over the whole network; every sample has exactly
                round(density * prunable) non-zero prunable weights. Several densities give n networks of each, in
                their order.
            pattern: Another rule for the mask, instead of a density.
            nested: With several densities, whether all have the same n networks (those that the flow makes for the
                highest, if it knows the density), so that masks of a lower density are part of those of a higher;
                otherwise each density has networks of its own.
            condition: Properties of the networks, by the names of the generator's `conditions`; what is not named is
                left open, but for the density, which is that of the mask.
            guidance: Strength of the conditions; above 1 follows them more strongly than the tickets do.
            data: Training samples, from which BatchNorm statistics are estimated; needed for networks that have them.
            seed: Seed of the samples.
            folder: Folder to write the samples to, as a run that can be resumed.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: Neither or both of density and pattern are given, the decoded networks have fewer weights, the
                generator does not know a condition, there are no data for BatchNorm, or the device is not available.
            StorageError: The folder holds another run.
        """
        n = check_number(n, "n", self.layout.size, in_folder=folder is not None)
        given = check_sampling(nested, condition, guidance, seed, folder, device)
        nested, condition, guidance, seed, device = given
        patterns = patterns_of(density, pattern, self.layout, self.trained_on["density"])
        check_data(data, self.layout, self.architecture.name)
        draws = draws_of(n, patterns, self.conditions, nested, condition, guidance, seed)
        made_by = digest_of(text=dump_json(self._settings(), "the generator"))  # its tensors would take long to read
        record = {"condition": dict(condition or {}), "guidance": guidance, "generator": made_by}

        def make(rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            parts: list[Collection] = []
            for i, draw in enumerate(draws):
                first, last = max(rows.start, i * n) - i * n, min(rows.stop, (i + 1) * n) - i * n
                if first < last:
                    parts.append(self._sampled(draw, first, last, i * n, record, guidance, device))
            tick(1)
            made = parts[0] if len(parts) == 1 else Collection.concatenate(parts)
            return self._with_statistics(made, data, device)

        config: dict[str, Any] = {"n": n, "pattern": spelled_text(patterns[0] if len(patterns) == 1 else patterns)}
        config |= {"seed": seed} | ({"nested": nested} if len(patterns) > 1 else {})
        if self.conditions:
            config |= {"condition": dict(condition or {}), "guidance": guidance}
        inputs: dict[str, str] = {}
        if folder is not None:
            inputs = {"generator": self.fingerprint()}
            inputs |= {} if data is None else {"data": digest_of(data.x, data.y)}
        count = n * len(patterns)  # on disk they are written as they are made; in memory all are kept in any case
        block = count if folder is None else max(1, _BLOCK_BYTES // (4 * self.layout.size))
        samples = in_blocks(
            make,
            architecture=self.architecture,
            count=count,
            block=min(count, block),
            ticks=1,
            what=f"sampling {count} networks",
            folder=folder,
            stage="sample",
            config=config,
            inputs=inputs or None,
        )
        return warn_of_lost_layers(samples)

    def _sampled(
        self, draw: Draw, first: int, last: int, before: int, record: Mapping[str, Any], guidance: float, device: str
    ) -> Collection:
        """Samples first to last of one pattern; `before` samples of other patterns come before them."""
        common = {
            "kind": "sample",
            "sample_seed": draw.seed,
            "condition": record["condition"],
            "guidance": record["guidance"],
            "pattern": spelled_text(draw.pattern),
            "aligned": self.trained_on["basin"],
            "task": ", ".join(self.trained_on["tasks"]),
            "generator": record["generator"],
            **self.trained_on.get("records", {}),
        }
        records = [
            common | {"index": before + k, "seed": seeds.derive(draw.seed, "sample", k)} for k in range(first, last)
        ]
        x_0 = self.flow.noise(last, seed=draw.seed, start=first).to(device)
        conditions = None if draw.conditions is None else draw.conditions[first:last]
        codes = self.flow.integrate(x_0, conditions=conditions, guidance=guidance)
        vectors = self._vectors(codes) if self.refined is None else self.refined.decode(codes)
        return self._project(vectors.cpu(), draw.pattern, records)

    def ensemble(
        self,
        n: int,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        condition: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
        data: Data | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Ensemble:
        """Samples that predict together; see `sample`.

        Args:
            n: Number of networks.
            density: Fraction of prunable weights kept.
            pattern: Another rule for the mask, instead of a density.
            condition: Properties of the networks.
            guidance: Strength of the conditions.
            data: Training samples for BatchNorm statistics.
            seed: Seed of the samples.
            device: Device to compute the samples on; they predict on the CPU.
        """
        return self.sample(
            n,
            density=density,
            pattern=pattern,
            condition=condition,
            guidance=guidance,
            data=data,
            seed=seed,
            device=device,
        ).ensemble()

    def encode(self, networks: Collection, *, device: str = "auto") -> Float[Tensor, "n k"]:
        """Codes of networks, (n, K): aligned to the generator's reference unless they are already, and compressed.

        Args:
            networks: Networks of the generator's layout.
            device: Device to align and compress on.

        Raises:
            LayoutMismatch: The networks are of another layout.
            InputError: They are not aligned, and the generator does not know how; or the device is not available.
        """
        self.layout.require(check_networks(networks).layout, "the networks to encode")
        basins = {record.aligned_to for record in networks.records}
        known = basins == {self.trained_on["basin"]} and None not in basins
        if self.align is None and not known and self.trained_on["basin"] is not None:
            raise InputError(
                "the generator was fitted to networks that were aligned before, and does not know how: align these "
                "with the same fitted matching first"
            )
        aligned = networks if known or self.align is None else self.align.transform(networks, device=device)
        vectors = self.masks.vectors(aligned)
        if self.compress is not None:
            return self.compress.transform(vectors, device=device)
        return vectors.weights if isinstance(vectors, Collection) else vectors

    def decode(
        self,
        codes: Float[Tensor, "n k"],
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        data: Data | None = None,
    ) -> Collection:
        """Sparse networks of codes; see `sample` for the mask.

        Args:
            codes: Codes, (n, K).
            density: Fraction of prunable weights kept.
            pattern: Another rule for the mask, instead of a density.
            data: Training samples for BatchNorm statistics.
        """
        chosen = one_pattern(density, pattern, self.layout, self.trained_on["density"])
        check_data(data, self.layout, self.architecture.name)
        checks.tensor(codes, "codes", shape=("networks", self.flow.codes), floating=True, finite=True)
        record = {"kind": "decoded", "pattern": spelled_text(chosen), "aligned": self.trained_on["basin"]}
        records = [record | self.trained_on.get("records", {}) | {"index": i} for i in range(len(codes))]
        return self._with_statistics(self._project(self._vectors(codes).cpu(), chosen, records), data, "cpu")

    def reconstruct(
        self,
        networks: Collection,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        data: Data | None = None,
    ) -> Collection:
        """What is left of networks after encoding and decoding: aligned networks, near the originals.

        Args:
            networks: Networks of the generator's layout.
            density: Fraction of prunable weights kept.
            pattern: Another rule for the mask, instead of a density.
            data: Training samples for BatchNorm statistics.
        """
        return self.decode(self.encode(networks), density=density, pattern=pattern, data=data)

    def interpolate(
        self,
        ends: Collection,
        steps: int,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        data: Data | None = None,
    ) -> Collection:
        """Networks on the way from one network to another, through the flow.

        Both ends are carried back to the noise that generates them; the way between is an arc (spherical
        interpolation), as Gaussian noise lies near a sphere.

        Args:
            ends: Two networks.
            steps: Number of networks on the way, the two reconstructed ends included.
            density: Fraction of prunable weights kept.
            pattern: Another rule for the mask, instead of a density.
            data: Training samples for BatchNorm statistics.

        Raises:
            InputError: There are not two networks, or fewer than two steps.
        """
        a, b = self.flow.encode(self.encode(check_ends(ends, steps)))
        return self.decode(self.flow.integrate(arc(a, b, steps)), density=density, pattern=pattern, data=data)

    def log_prob(self, networks: Collection, *, device: str = "auto") -> Float[Tensor, " n"]:
        """How typical networks are: exact log-density of their codes under the flow, (n,), in nats.

        A density in the space of codes; what a network has outside the components does not count. Compare
        networks with each other, not with numbers from elsewhere.

        Args:
            networks: Networks of the generator's layout.
            device: Device to compute on.
        """
        device = devices.pick(device)
        return self.flow.log_prob(self.encode(networks, device=device).to(device)).cpu()

    def fingerprint(self) -> str:
        """Identifies the generator by its tensors and settings."""
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
        return GENERATOR.save(folder, self._settings(), self.tensors())

    def write(self, folder: Path) -> None:
        """Write into a folder that exists, for runs and the hub; `save` is for everything else.

        Args:
            folder: Folder to write to.
        """
        GENERATOR.write(folder, self._settings(), self.tensors())

    @classmethod
    def load(cls, folder: str | Path, *, factory: Callable[[], nn.Module] | None = None) -> "FittedGenerator":
        """Open a saved generator.

        Args:
            folder: Folder that `save` or `TicketGenerator.fit` wrote.
            factory: Builds the network, for architectures that are not built in.

        Raises:
            StorageError: The folder holds no generator, or a damaged one, or its mask rule is not registered.
            LayoutMismatch: The factory's network has another layout.
        """
        checks.given(factory, "factory", checks.function, what="that builds the network")
        return cls(**read_parts(Path(checks.path(folder, "folder")), factory))

    def _vectors(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
        """Codes decoded by the components of the tickets, before masks are chosen."""
        return (
            codes.to(self.layout.dtype, copy=True) if self.compress is None else self.compress.inverse_transform(codes)
        )

    def _project(
        self, vectors: Float[Tensor, "n m"], pattern: Pattern, records: Sequence[Mapping[str, Any]]
    ) -> Collection:
        """Sparse networks of decoded vectors."""
        return sparse_networks(vectors, pattern, self.masks, self.architecture, self.layout, self.buffers, records)

    def _with_statistics(self, networks: Collection, data: Data | None, device: str) -> Collection:
        return networks if data is None else recalibrated(networks, data, device=device)

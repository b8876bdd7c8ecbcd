"""FittedGenerator: sample new sparse networks, mask and weights together."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.flow import measure_knowledge
from weightspace.flow.path import arc
from weightspace.generator.arguments import check_data, check_ends, check_sampling, refused_for_changes
from weightspace.generator.calibration import NETWORKS, temperature_for, temperature_of, with_temperature
from weightspace.generator.description import Value
from weightspace.generator.files import digest_of, read_parts
from weightspace.generator.parts import GeneratorParts
from weightspace.generator.polishing import Polishing
from weightspace.generator.projection import Draw, draws_of, one_pattern, patterns_of
from weightspace.generator.sampling import block_of, draws_in, sampling_config
from weightspace.masks.patterns import Pattern
from weightspace.networks.arguments import check_networks
from weightspace.networks.building import in_blocks
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.temperature import require_temperature
from weightspace.recipes.step import Step
from weightspace.report.knowledge import FlowKnowledge
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.room import check_number
from weightspace.storage.files import dump_json
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.arguments import check_task
from weightspace.tasks.data import Data
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.training.last_layer import LastLayer


@dataclass(frozen=True, repr=False)
class FittedGenerator(GeneratorParts):
    """A trained generator of sparse networks; `weightspace.generator.parts.GeneratorParts` explains its fields."""

    def sample(
        self,
        n: int,
        *,
        density: float | Sequence[float] | None = None,
        pattern: Pattern | None = None,
        nested: bool = True,
        condition: Mapping[str, Value] | None = None,
        guidance: float = 1.0,
        data: Data | None = None,
        polish: Step | str | LastLayer | None = None,
        task: Task | None = None,
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
            condition: Properties of the networks, by the names of the generator's `conditions`: a number, a word, or a
                list of numbers where the records have one; what is not named is left open, but for the density, which
                is that of the mask.
            guidance: Strength of the conditions; above 1 follows them more strongly than the tickets do.
            data: Training samples, from which BatchNorm statistics are estimated; needed for networks that have them.
            polish: How long samples are trained on, all side by side under their masks by the task's recipe, such as
                "30it"; `LastLayer()` refits their last layers alone; None leaves them as they are drawn.
            task: Task that they are polished on; its test split is not read.
            seed: Seed of the samples.
            folder: Folder to write the samples to, as a run that can be resumed.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: Neither or both of density and pattern are given, the decoded networks have fewer weights, the
                generator does not know a condition, there are no data for BatchNorm, or the device is not available.
            StorageError: The folder holds another run.
        """
        n = check_number(n, "n", self.layout.size, in_folder=folder is not None)
        nested, condition, guidance, seed, device = check_sampling(nested, condition, guidance, seed, folder, device)
        patterns = patterns_of(density, pattern, self.layout, self.trained_on["density"])
        check_data(data, self.layout, self.architecture.name, changes=self.of_changes)
        polishing = Polishing.of(polish, task, self.layout, device, changes=self.of_changes)
        draws = draws_of(n, patterns, self.conditions, nested, condition, guidance, seed)
        made_by = digest_of(text=dump_json(self._settings(), "the generator"))  # its tensors would take long to read
        record = {"condition": condition, "guidance": guidance, "generator": made_by}

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            parts = [self._sampled(*part, record, guidance, device) for part in draws_in(draws, n, rows)]
            tick(1)
            made = parts[0] if len(parts) == 1 else Collection.concatenate(parts)
            made = self._with_statistics(made, data, device)
            return made if polishing is None else polishing(made, rows.start, checkpoint, tick, folder)

        conditions = (condition, guidance) if self.conditions else None
        inputs = {"generator": self.fingerprint()} if folder is not None else {}
        if folder is not None and data is not None:
            inputs["data"] = digest_of(data.x, data.y)
        count = n * len(patterns)
        samples = in_blocks(
            make,
            architecture=self.architecture,
            count=count,
            block=block_of(count, self.layout.size, polishing, written=folder is not None),
            ticks=1 + (0 if polishing is None else polishing.steps),
            what=f"sampling {count} networks",
            folder=folder,
            stage="sample",
            config=sampling_config(n, patterns, seed, nested, conditions, polishing),
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
        condition: Mapping[str, Value] | None = None,
        guidance: float = 1.0,
        data: Data | None = None,
        calibrated: bool = False,
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
            calibrated: Whether probabilities are at the temperature that was fitted on validation data, when the
                generator was fitted with a task or by `calibrate`.
            seed: Seed of the samples.
            device: Device to compute the samples on; they predict on the CPU.

        Raises:
            InputError: As in `sample`, or no temperature was fitted for the pattern.
        """
        temperature = 1.0
        if checks.flag(calibrated, "calibrated"):
            chosen = one_pattern(density, pattern, self.layout, self.trained_on["density"])
            temperature = temperature_for(chosen, self.temperatures)
        samples = self.sample(
            n,
            density=density,
            pattern=pattern,
            condition=condition,
            guidance=guidance,
            data=data,
            seed=seed,
            device=device,
        )
        return replace(samples.ensemble(), temperature=temperature)

    def calibrate(
        self,
        task: Task,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        networks: int = NETWORKS,
        seed: int = 0,
        device: str = "auto",
    ) -> "FittedGenerator":
        """This generator with the temperature of ensembles of its samples, fitted on a task's validation data.

        `fit` does so for the densities it was refined for, or for the tickets' median density, if it has a task.

        Args:
            task: Task of the tickets; its validation split is read, its test split never.
            density: Fraction of prunable weights kept.
            pattern: Another rule for the mask, instead of a density.
            networks: Samples in the ensemble that the temperature is fitted for.
            seed: Seed of the samples, which are not those of `sample` with this seed.
            device: Device to compute the samples on.

        Raises:
            InputError: The task has no probabilities, or each network has data of its own.
        """
        require_samples(check_task(task), "a temperature")
        if self.of_changes:
            raise refused_for_changes("task")
        require_temperature(task.output_kind)
        if task.own_data:
            raise InputError(f"each network of task {task.name!r} has data of its own: an ensemble has no temperature")
        chosen = one_pattern(density, pattern, self.layout, self.trained_on["density"])
        data = task.train if self.layout.buffers else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samples that nobody keeps
            samples = self.sample(
                networks, pattern=chosen, data=data, seed=seeds.derive(seed, "temperature"), device=device
            )
        fitted = temperature_of(samples.ensemble(task.output_kind), task.validation, chosen)
        return replace(self, temperatures=with_temperature(self.temperatures, fitted))

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
        check_data(data, self.layout, self.architecture.name, changes=self.of_changes)
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

    def knowledge_of(
        self, held_out: Collection, training: Collection, *, seed: int = 0, device: str = "auto"
    ) -> FlowKnowledge:
        """What the flow knows beyond a Gaussian, on networks that its fit has not seen at all.

        Args:
            held_out: Networks of the same recipe that the generator was not fitted to.
            training: Networks that it was fitted to, which the Gaussian is fitted to as well.
            seed: Seed of samples, resampling and permutations.
            device: Device to compute on.

        Raises:
            LayoutMismatch: The networks are of another layout.
            InputError: They are not aligned, and the generator does not know how; or a record lacks a condition.
        """
        device = devices.pick(device)
        codes, rows = zip(
            *((self.encode(one, device=device), self.conditions.encode(one)) for one in (training, held_out)),
            strict=True,
        )
        return measure_knowledge(
            self.flow,
            *codes,
            conditions=rows[0],
            held_out_conditions=rows[1],
            source="networks that the generator has not seen",
            seed=seed,
            device=device,
        )

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

"""FittedGenerator: sample new sparse networks, mask and weights together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.generator.files import Parts, digest_of
from weightspace.generator.mask_rules import MagnitudeMask
from weightspace.generator.posterior_masks import FittedPosteriorMask
from weightspace.masks.patterns import Pattern, Unstructured
from weightspace.masks.schedule import count_of, density_of, one_threshold
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.forward import blocks
from weightspace.runtime import seeds
from weightspace.storage.files import dump_json
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.task import Split
from weightspace.training.batchnorm import recalibrated

_BLOCK_BYTES = 2**29  # weights of samples that are made at once
_MASKED = 4  # networks whose masks are chosen at once: what they need stays in the cache


@dataclass(frozen=True)
class FittedGenerator(Parts):
    """A trained generator of sparse networks: see :class:`weightspace.generator.files.Parts` for its fields."""

    def sample(
        self,
        n: int,
        *,
        density: float | Sequence[float] | None = None,
        pattern: Pattern | None = None,
        nested: bool = True,
        condition: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
        data: Split | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> Collection:
        """New sparse networks: codes from the flow, decoded, the largest weights kept.

        Args:
            n: number of networks; network i depends on (seed, i) alone, up to the rounding of batched products.
            density: fraction of prunable weights kept over the whole network; every sample has
                exactly round(density * prunable) non-zero prunable weights. Several densities give n
                networks of each, in their order.
            pattern: another rule for the mask, instead of a density.
            nested: with several densities, take the same n networks for each (those that the flow makes for the
                highest, if it is told the density), so that masks of a lower density are part of those of a higher;
                otherwise other networks for each.
            condition: what the networks shall be like, for generators fitted with `conditions`; what is not named
                is left open, but for the density, which is that of the mask.
            guidance: above 1 follows the conditions more strongly.
            data: training samples, from which BatchNorm statistics are estimated; needed for networks
                that have them.
            folder: write to this folder as a run.

        Raises:
            InputError: neither or both of density and pattern, more weights asked for than the
                decoded networks have, a condition that the generator does not know, or no data for BatchNorm.
            StorageError: the folder holds another run.
        """
        if n < 1:
            raise InputError(f"ask for at least one network, got n = {n}")
        rules = self._rules(density, pattern)
        self._require_data(data)
        kept = [density_of(rule) for rule in rules]
        if nested and len(rules) > 1:
            kept = [max(one for one in kept if one is not None)] * len(rules)
        told = [self.conditions.ask(condition, n, one) for one in kept]
        if guidance != 1.0 and not self.conditions:
            raise InputError("guidance strengthens conditions, and this generator was fitted without: leave it at 1")
        together = nested or len(rules) == 1
        made_by = digest_of(text=dump_json(self._settings(), "the generator"))  # its tensors would take long to read
        count = n * len(rules)

        def make(rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            parts: list[Collection] = []
            for i, (rule, asked) in enumerate(zip(rules, told, strict=True)):
                first, last = max(rows.start, i * n) - i * n, min(rows.stop, (i + 1) * n) - i * n
                if first >= last:
                    continue
                own = seed if together else seeds.derive(seed, "densities", i)
                record = {
                    "kind": "sample", "sample_seed": own, "condition": dict(condition or {}), "guidance": guidance,
                    "pattern": spelled_text(rule), "aligned": self.trained_on["basin"],
                    "task": ", ".join(self.trained_on["tasks"]), "generator": made_by,
                }  # fmt: skip
                records = [
                    record | {"index": i * n + k, "seed": seeds.derive(own, "sample", k)} for k in range(first, last)
                ]
                x_0 = self.flow.noise(last, seed=own, start=first)
                rows_told = None if asked is None else asked[first:last]
                codes = self.flow.integrate(x_0, conditions=rows_told, guidance=guidance)
                vectors = self._vectors(codes) if self.refined is None else self.refined.decode(codes)
                parts.append(self._project(vectors, rule, records))
            tick(1)
            return self._with_statistics(parts[0] if len(parts) == 1 else Collection.concatenate(parts), data)

        config = {"n": n, "pattern": spelled_text(rules[0] if len(rules) == 1 else rules), "seed": seed}
        if len(rules) > 1:
            config["nested"] = nested
        inputs: dict[str, str] = {}
        if folder is not None:
            inputs["generator"] = self.fingerprint()
            if data is not None:
                inputs["data"] = digest_of(data.x, data.y)
        if self.conditions:
            config |= {"condition": dict(condition or {}), "guidance": guidance}
        # On disk they are written as they are made; in memory all are kept in any case.
        block = count if folder is None else max(1, _BLOCK_BYTES // (4 * self.layout.size))
        return in_blocks(
            make, architecture=self.architecture, count=count, block=min(count, block), ticks=1,
            what=f"sampling {count} networks", folder=folder, stage="sample", config=config,
            inputs=inputs or None,
        )  # fmt: skip

    def ensemble(
        self,
        n: int,
        *,
        density: float | None = None,
        pattern: Pattern | None = None,
        condition: Mapping[str, float | str] | None = None,
        guidance: float = 1.0,
        data: Split | None = None,
        seed: int = 0,
    ) -> Ensemble:
        """Sample n networks that predict together; see :meth:`sample`."""
        return self.sample(
            n, density=density, pattern=pattern, condition=condition, guidance=guidance, data=data, seed=seed
        ).ensemble()

    def encode(self, networks: Collection) -> Float[Tensor, "n k"]:
        """Codes of networks: aligned to the generator's reference unless their records say that they are, compressed."""
        self.layout.require(networks.layout, "the networks to encode")
        basins = {record.aligned_to for record in networks.records}
        known = basins == {self.trained_on["basin"]} and None not in basins
        if self.align is None and not known and self.trained_on["basin"] is not None:
            raise InputError(
                "the generator was fitted to networks that were aligned before, and does not know how: align these "
                "with the same fitted matching first"
            )
        vectors = self.masks.vectors(networks if known or self.align is None else self.align.transform(networks))
        if self.compress is not None:
            return self.compress.transform(vectors)
        return vectors.weights if isinstance(vectors, Collection) else vectors

    def decode(
        self, codes: Float[Tensor, "n k"], *, density: float | None = None, pattern: Pattern | None = None,
        data: Split | None = None,
    ) -> Collection:  # fmt: skip
        """Sparse networks of codes; see :meth:`sample` for the mask."""
        (rule,) = self._rules(density, pattern)
        self._require_data(data)
        record = {"kind": "decoded", "pattern": spelled_text(rule), "aligned": self.trained_on["basin"]}
        records = [record | {"index": i} for i in range(len(codes))]
        return self._with_statistics(self._project(self._vectors(codes), rule, records), data)

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
        return self.decode(self.flow.integrate(between), density=density, pattern=pattern, data=data)

    def log_prob(self, networks: Collection) -> Float[Tensor, " n"]:
        """How typical networks are: exact log-density of their codes under the flow, in nats.

        A density in the space of codes; what a network has outside the components does not count. Compare
        networks with each other, not with numbers from elsewhere.
        """
        return self.flow.log_prob(self.encode(networks))

    def _rules(self, density: float | Sequence[float] | None, pattern: Pattern | None) -> list[Pattern]:
        if (density is None) == (pattern is None):
            low, high = self.trained_on["density"]
            raise InputError(
                "give either density= or pattern=: the density of the training tickets was "
                f"{low:.4g}{f' to {high:.4g}' if high > low else ''}"
            )
        if pattern is not None:
            return [pattern]
        # NumPy's and torch's scalars are numbers too.
        single = isinstance(density, int | float) or not getattr(density, "shape", True)
        asked = [float(one) for one in ([density] if single else density)]  # pyright: ignore[reportArgumentType, reportOptionalIterable, reportGeneralTypeIssues]
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

    def _vectors(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
        """Codes decoded by the components of the tickets, before masks are chosen."""
        return (
            codes.to(self.layout.dtype, copy=True) if self.compress is None else self.compress.inverse_transform(codes)
        )

    def _project(
        self, vectors: Float[Tensor, "n m"], rule: Pattern, records: Sequence[Mapping[str, Any]]
    ) -> Collection:
        weights = vectors[:, : self.layout.size].contiguous()  # what `split` makes of them, in one block
        masks = torch.empty(weights.shape, dtype=torch.bool)
        for rows in blocks(len(weights), _MASKED):
            values, scores = self.masks.split(vectors[rows])
            within = None if self._zeros_rank_last(values, scores, rule) else (values != 0) | ~self.layout.prunable
            masks[rows] = rule.mask(scores, self.layout, within=within)
            torch.mul(values, masks[rows], out=weights[rows])
        buffers = {
            b.name: t.expand(len(weights), *b.shape).clone()
            for b, t in zip(self.layout.buffers, self.buffers, strict=True)
        }
        extras = self.masks.extras(vectors, masks) if isinstance(self.masks, FittedPosteriorMask) else {}
        return Collection(
            self.layout, weights, architecture=self.architecture, masks=masks, records=records, buffers=buffers,
            extras=extras,
        )  # fmt: skip

    def _zeros_rank_last(self, values: Float[Tensor, "n d"], scores: Float[Tensor, "n d"], rule: Pattern) -> bool:
        """Need zeros not be ruled out, as they rank last and every network has enough other weights?"""
        if not (isinstance(self.masks, MagnitudeMask) and one_threshold(rule)):
            return False
        count, free = count_of(rule, self.layout), self.layout.size - self.layout.num_prunable
        if count is None:
            return False
        if scores.amin() > 0:
            return True
        # Comparing first and counting booleans after is twice as fast as counting numbers.
        return all(np.count_nonzero(row) - free >= count for row in (values != 0).numpy())

    def _with_statistics(self, networks: Collection, data: Split | None) -> Collection:
        return networks if data is None else recalibrated(networks, data)

"""TicketGenerator: learn from sparse networks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weightspace.align import WeightMatching
from weightspace.align.weight_matching import Example
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.flow import FlowMatching
from weightspace.generator.conditions import Conditions
from weightspace.generator.fitted_generator import FittedGenerator
from weightspace.generator.mask_rules import DENSE, GateMask, MagnitudeMask, MaskRule
from weightspace.generator.posterior_masks import STD, PosteriorMask
from weightspace.generator.refinement import TaskRefinement
from weightspace.networks.collection import Collection
from weightspace.storage.runs import open_run
from weightspace.storage.spelling import spelled, spelled_text, spelling_of

_FLOW = "flow.checkpoint.safetensors"
_REFINEMENT = "refinement.checkpoint.safetensors"


@dataclass(frozen=True)
class TicketGenerator:
    """Align, compress, and learn the distribution of the codes.

    Args:
        align: brings the tickets into one basin; None takes them as they are.
        compress: turns networks into codes, few by default, as refined ones work best; None lets the flow carry raw weights.
        generate: learns the distribution of the codes.
        refine: trains the generator on through the task; None leaves it as flow matching made it.
        masks: how the mask of a sample is decided.
        conditions: what the flow is told about each ticket, so that samples can be asked for it: "density", or
            where it stands in the tickets' records, such as "individual.label_noise" or "metrics.validation_accuracy".
    """

    align: WeightMatching | None = field(default_factory=WeightMatching)
    compress: PCA | None = PCA(16)
    generate: FlowMatching = FlowMatching(validation_fraction=0.1)
    refine: TaskRefinement | None = None
    masks: MaskRule = field(default_factory=MagnitudeMask)
    conditions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.refine is not None and self.compress is None:
            raise InputError("refinement trains the components of a compression: give compress=PCA(...)")
        if isinstance(self.conditions, str):
            raise InputError(f"conditions is a sequence of names: write ({self.conditions!r},)")

    def fit(
        self,
        tickets: Collection,
        *,
        example: Example | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> "FittedGenerator":
        """Learn from a collection of trained sparse networks.

        Args:
            tickets: aligned by this stage unless their records say that all were aligned to one reference.
            example: A batch of inputs on which the symmetry of networks whose input is not known is traced.
            folder: write the fitted generator there, as a run that can be interrupted and resumed.

        Raises:
            InputError: too few networks for the components, or no known symmetry.
            StorageError: the folder holds another run.
        """
        self._check(tickets)
        if folder is None:
            return self._fit(tickets, example, seed, None)
        folder = Path(folder)
        symmetry = self.align.symmetry if self.align else None
        config = {
            "align": None if self.align is None else {
                "balance": self.align.balance, "cost": spelled_text(self.align.cost),
                "population": spelled_text(self.align.population), "fix_unknown": self.align.fix_unknown,
            },
            "symmetry": None if symmetry is None else symmetry.to_json(),
            "masks": spelled_text(self.masks), "compress": spelled(self.compress) if self.compress else None,
            "generate": {"method": spelling_of(self.generate).name} | spelled(self.generate), "seed": seed,
        }  # fmt: skip
        if not self.generate.validation_fraction:  # so that runs from before there was such a thing go on
            del config["generate"]["held_out"]
        if self.conditions:
            config["conditions"] = list(self.conditions)
        if self.refine is not None:
            config["refine"] = self.refine.to_json() | {"task": self.refine.task.to_json()}
        with open_run(folder, "fit", config, {"tickets": tickets.fingerprint()}) as run:
            if not run.complete:
                checkpoint = folder / _FLOW
                self._fit(tickets, example, seed, checkpoint).write(folder)
                run.finish()
                for left in (checkpoint, checkpoint.with_name(_REFINEMENT)):
                    left.unlink(missing_ok=True)
        return FittedGenerator.load(folder, factory=tickets.architecture.factory)

    def _check(self, tickets: Collection) -> None:
        """Find mistakes before the work."""
        if self.compress is not None:
            self.compress.check(len(tickets), tickets.layout.size)
        self.generate.check(len(Conditions.of(self.conditions, tickets).widths), len(tickets))
        if isinstance(self.masks, GateMask) and tickets.dense:
            raise InputError(DENSE)
        if isinstance(self.masks, PosteriorMask) and self.align is not None and STD not in self.align.cost.rescaled:
            raise InputError(
                "standard deviations must move with the means: align posteriors with "
                "align=WeightMatching(cost=align.WassersteinCost())"
            )
        if self.refine is not None:
            self.refine.check(tickets)

    def _fit(
        self, tickets: Collection, example: Example | None, seed: int, checkpoint: Path | None
    ) -> "FittedGenerator":
        basins = {record.aligned_to for record in tickets.records}
        together = len(basins) == 1 and None not in basins
        matching = None if self.align is None or together else self.align.fit(tickets, example=example)
        aligned = tickets if matching is None else matching.transform(tickets)
        conditions = Conditions.of(self.conditions, aligned)
        masks = self.masks.fit(aligned)
        vectors = masks.vectors(aligned)
        compression = None if self.compress is None else self.compress.fit(vectors)
        if compression is not None:
            codes = compression.transform(vectors)
        else:
            codes = vectors.weights if isinstance(vectors, Collection) else vectors
        told = conditions.encode(aligned)
        flow = self.generate.fit(codes, told, widths=conditions.widths, seed=seed, checkpoint=checkpoint)
        refined = None
        if self.refine is not None and compression is not None:
            kept = None if checkpoint is None else checkpoint.with_name(_REFINEMENT)
            refined = self.refine.fit(
                aligned, masks, compression, flow, conditions, seed=seed, checkpoint=kept
            )  # fmt: skip
        densities = tickets.densities
        trained_on = {
            "networks": len(tickets),
            "fingerprint": tickets.fingerprint(),
            "tasks": sorted({record.get("task", "unknown") for record in tickets.records}),
            "density": [densities.min().item(), densities.max().item()],
            "basin": matching.fingerprint() if matching else basins.pop() if together else None,
            "seed": seed,
            "refined": None if self.refine is None else self.refine.to_json() | {"task": self.refine.task.name},
        }
        buffers = [aligned[:1].buffers[b.name][0].clone() for b in tickets.layout.buffers]
        return FittedGenerator(
            tickets.layout, tickets.architecture, matching, masks, compression, flow, trained_on, buffers, refined,
            conditions,
        )  # fmt: skip

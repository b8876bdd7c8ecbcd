"""TicketGenerator: learn from sparse networks."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from weightspace.align import WeightMatching
from weightspace.align.begun import KINDS, as_begun
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.flow import FittedFlow, FlowMatching, measure_knowledge
from weightspace.generator.arguments import refused_for_changes
from weightspace.generator.calibration import takes_temperature
from weightspace.generator.conditions import Conditions
from weightspace.generator.fitted_generator import FittedGenerator
from weightspace.generator.mask_rules import MASK_RULES, MagnitudeMask, MaskRule, check_rule, rescaled_by
from weightspace.generator.refinement import TaskRefinement
from weightspace.masks.patterns import Unstructured
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.record import TASK_VECTOR, Record
from weightspace.report.knowledge import FlowKnowledge
from weightspace.runtime import checks, devices
from weightspace.runtime.trees import Tree
from weightspace.storage.leftovers import remove_leftover
from weightspace.storage.runs import open_run
from weightspace.storage.spelling import spelled, spelled_text, spelling_of
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task

_FLOW = "flow.checkpoint.safetensors"
_REFINEMENT = "refinement.checkpoint.safetensors"


@dataclass(frozen=True)
class TicketGenerator:
    """Align, compress, and learn the distribution of the codes.

    Args:
        align: Alignment that brings the tickets into one basin; None takes them as they are.
        compress: Compression that turns networks into codes, few by default, as refined ones work best; None lets the
            flow carry raw weights.
        generate: Flow that learns the distribution of the codes.
        refine: Refinement that trains the generator on through a task, which comes with `fit`; None leaves it as flow
            matching made it.
        masks: Rule for the mask of a sample.
        conditions: Properties of each ticket that the flow knows, so that samples can be drawn under them: "density",
            or a path in the tickets' records, such as "individual.label_noise" or "metrics.validation_accuracy". A
            property is a number, a word, or a list of numbers, such as a description of the ticket's task.

    Raises:
        InputError: A refinement has no compression, or conditions is a single text.
    """

    align: WeightMatching | None = field(default_factory=WeightMatching)
    compress: PCA | None = PCA(16)
    generate: FlowMatching = FlowMatching(validation_fraction=0.1)
    refine: TaskRefinement | None = None
    masks: MaskRule = field(default_factory=MagnitudeMask)
    conditions: Sequence[str] = ()

    def __post_init__(self) -> None:
        wanted = "a WeightMatching(...), or None"
        checks.settle_given(self, checks.having, "align", methods=("fit", "symmetry_of"), wanted=wanted)
        checks.settle_given(self, checks.having, "compress", methods=("fit", "check"), wanted="a PCA(...), or None")
        checks.settle(self, checks.having, "generate", methods=("fit", "check"), wanted="a FlowMatching(...)")
        wanted = "a TaskRefinement(...), or None"
        checks.settle_given(self, checks.having, "refine", methods=("fit", "check"), wanted=wanted)
        checks.settle(self, checks.having, "masks", methods=("fit",), wanted="a rule, such as MagnitudeMask()")
        if self.refine is not None and self.compress is None:
            raise InputError("refinement trains the components of a compression: give compress=PCA(...)")
        if isinstance(self.conditions, str):
            raise InputError(f"conditions is a sequence of names: write ({self.conditions!r},)")
        checks.settle(self, checks.several, "conditions", check=checks.text)

    def fit(
        self,
        tickets: Collection,
        *,
        task: Task | None = None,
        example: Tree | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        device: str = "auto",
    ) -> FittedGenerator:
        """Learn from a collection of trained sparse networks.

        Args:
            tickets: Trained sparse networks; they are aligned by this stage unless their records say that all were
                aligned to one reference.
            task: Task to refine through, with `refine`, on its training split. On its validation split the temperature
                of ensembles of samples is fitted; its test split is not read.
            example: A batch of inputs on which the symmetry of networks whose input is not known is traced; None takes
                one of the task's training split, where a task is given.
            seed: Seed of the flow and the refinement.
            folder: Folder to write the fitted generator to, as a run that can be interrupted and resumed.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
                Alignment, compression, flow and refinement compute there, on blocks of the data.

        Raises:
            InputError: The tickets do not suit a stage, they have no known symmetry, a refinement has no task, or the
                device is not available.
            LayoutMismatch: The tickets are not of the task's architecture.
            StorageError: The folder holds another run.
        """
        check_networks(tickets, "tickets")
        checks.given(task, "task", check_task)
        checks.given(example, "example", check_inputs)
        checks.given(folder, "folder", checks.path)
        seed = checks.seed(seed)
        through, device = self.check(tickets, task), devices.pick(device)
        unknown = self.align is not None and _basin(tickets) is None and tickets.architecture.example() is None
        if unknown and example is None and task is not None:
            example = task.train.head(8).x
        if folder is None:
            fitted = self._fit(tickets, through, example, seed, None, device)
            return self._calibrated(fitted, tickets, task, seed, device)
        folder = Path(folder)
        config = self._config(seed, through)
        stage = self
        if self.align is not None and _basin(tickets) is None:
            example = tickets.architecture.example() if example is None else example
            align, kinds = as_begun(self.align, tickets, example, folder)
            stage = replace(self, align=align)
            config["align"] |= {KINDS: kinds} if kinds else {}
        with open_run(folder, "fit", config, {"tickets": tickets.fingerprint()}) as run:
            if not run.complete:
                checkpoint = folder / _FLOW
                # Not kept in a variable: what is written is large, and is read again below.
                self._calibrated(
                    stage._fit(tickets, through, example, seed, checkpoint, device), tickets, task, seed, device
                ).write(folder)
                run.finish()
                for left in (checkpoint, checkpoint.with_name(_REFINEMENT)):
                    remove_leftover(left)
        return FittedGenerator.load(folder, factory=tickets.architecture.factory)

    def _config(self, seed: int, through: tuple[TaskRefinement, Task] | None) -> dict[str, Any]:
        """What identifies a run, in the spelling of version 0.1."""
        align = self.align
        alignment = (
            None
            if align is None
            else {
                "balance": align.balance,
                "cost": spelled_text(align.cost),
                "population": spelled_text(align.population),
                "fix_unknown": align.fix_unknown,
            }
            | ({"rotate": True} if align.rotate else {})
        )
        config: dict[str, Any] = {
            "align": alignment,
            "symmetry": None if align is None or align.symmetry is None else align.symmetry.to_json(),
            "masks": spelled_text(self.masks),
            "compress": spelled(self.compress) if self.compress else None,
            "generate": {"method": spelling_of(self.generate).name} | spelled(self.generate),
            "seed": seed,
        }
        if not self.generate.validation_fraction:  # so that runs from before there was such a thing go on
            del config["generate"]["held_out"]
        if self.conditions:
            config["conditions"] = list(self.conditions)
        if through is not None:
            refine, task = through
            config["refine"] = refine.to_json() | {"task": task.to_json()}
        return config

    def check(self, tickets: Collection, task: Task | None = None) -> tuple[TaskRefinement, Task] | None:
        """Find mistakes before the work.

        Args:
            tickets: Networks to learn from.
            task: Task to refine through.

        Returns:
            The refinement with its task, if there is one.

        Raises:
            InputError: The tickets do not suit a stage, or a refinement has no task.
            LayoutMismatch: The tickets are not of the task's architecture.
        """
        if self.compress is not None:
            self.compress.check(len(tickets), tickets.layout.size)
        self.generate.check(len(Conditions.of(self.conditions, tickets).widths), len(tickets))
        check_rule(self.masks, tickets)
        if self.align is not None:
            for name in rescaled_by(self.masks):
                if name not in self.align.cost.rescaled:
                    raise InputError(
                        f"the extra {name!r} must be rescaled with the weights: align with a cost that does, such as "
                        "align=WeightMatching(cost=align.WassersteinCost()) for posteriors"
                    )
        if task is not None and all(record.kind == TASK_VECTOR for record in tickets.records):
            raise refused_for_changes("task")
        if self.refine is None:
            return None
        if task is None:
            raise InputError("refinement trains through a task: give fit(tickets, task=task), or leave refine=None")
        self.refine.check(tickets, task)
        return self.refine, task

    def _fit(
        self,
        tickets: Collection,
        through: tuple[TaskRefinement, Task] | None,
        example: Tree | None,
        seed: int,
        checkpoint: Path | None,
        device: str,
    ) -> FittedGenerator:
        basin = _basin(tickets)
        matching = None if self.align is None or basin else self.align.fit(tickets, example=example, device=device)
        aligned = tickets if matching is None else matching.transform(tickets, device=device)
        conditions = Conditions.of(self.conditions, aligned)
        masks = self.masks.fit(aligned)
        MASK_RULES.name_of(masks)  # a rule that cannot be saved is found before the work
        vectors = masks.vectors(aligned)
        compression = None if self.compress is None else self.compress.fit(vectors, device=device)
        if compression is not None:
            codes = compression.transform(vectors, device=device)
        else:
            codes = vectors.weights if isinstance(vectors, Collection) else vectors
        rows = conditions.encode(aligned)
        flow = self.generate.fit(codes, rows, widths=conditions.widths, seed=seed, checkpoint=checkpoint, device=device)
        knowledge = self._measured(codes, rows, flow, seed, device)
        refined, how = None, None
        if through is not None and compression is not None:
            refine, task = through
            kept = None if checkpoint is None else checkpoint.with_name(_REFINEMENT)
            refined = refine.fit(
                aligned, task, masks, compression, flow, conditions, seed=seed, checkpoint=kept, device=device
            )
            how = refine.to_json() | {"task": task.name}
        densities = tickets.densities
        trained_on = {
            "networks": len(tickets),
            "fingerprint": tickets.fingerprint(),
            "tasks": sorted({record.get("task", "unknown") for record in tickets.records}),
            "density": [densities.min().item(), densities.max().item()],
            "basin": matching.fingerprint() if matching else basin,
            "seed": seed,
            "refined": how,
            **_said_of_all(tickets.records),
        }
        return FittedGenerator(
            tickets.layout,
            tickets.architecture,
            matching,
            masks,
            compression,
            flow,
            trained_on,
            [aligned[:1].buffers[b.name][0].clone() for b in tickets.layout.buffers],
            refined,
            conditions,
            knowledge,
        )

    def _calibrated(
        self, model: FittedGenerator, tickets: Collection, task: Task | None, seed: int, device: str
    ) -> FittedGenerator:
        """The generator with temperatures of ensembles, where the task has any."""
        if task is None or not takes_temperature(task):
            return model
        patterns = None if self.refine is None else self.refine.patterns
        for pattern in patterns or [Unstructured(tickets.densities.median().item())]:
            model = model.calibrate(task, pattern=pattern, seed=seed, device=device)
        return model

    def _measured(
        self, codes: Tensor, rows: Tensor | None, flow: FittedFlow, seed: int, device: str
    ) -> FlowKnowledge | None:
        """What the flow knows of the codes that it was not trained on; a warning where a Gaussian would do."""
        divided = getattr(self.generate, "divided", None)  # a flow of your own may hold nothing back
        unseen, seen = ([], []) if divided is None else divided(len(codes), seed)
        if len(unseen) == 0:
            return None
        both = None if rows is None else (rows[seen], rows[unseen])
        knowledge = measure_knowledge(
            flow,
            codes[seen],
            codes[unseen],
            conditions=both and both[0],
            held_out_conditions=both and both[1],
            source="which chose the flow's weights but did not train them",
            seed=seed,
            device=device,
        )
        if knowledge.verdict.outcome == "fail":
            warnings.warn(knowledge.verdict.words, stacklevel=4)  # where the user calls fit
        return knowledge


def _basin(tickets: Collection) -> str | None:
    """The reference that all tickets were aligned to; None if there is no such one."""
    basins = {record.aligned_to for record in tickets.records}
    return basins.pop() if len(basins) == 1 else None


def _said_of_all(records: Sequence[Record]) -> dict[str, Any]:
    """What records of samples say as those of the tickets: what outputs mean, their noise, how adapters are built."""
    said: dict[str, Any] = {"of": TASK_VECTOR} if all(r.kind == TASK_VECTOR for r in records) else {}
    for name in ("outputs", "adapter"):
        first = records[0].get(name)
        if first is not None and all(record.get(name) == first for record in records):
            said[name] = first
    if "outputs" in said and all("noise_std" in record for record in records):
        said["noise_std"] = statistics.fmean(record["noise_std"] for record in records)
    return {"records": said} if said else {}

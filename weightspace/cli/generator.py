"""The command line's verbs `fit` and `sample`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import AvoidSubcommands, Positional, SuppressFixed, arg

from weightspace.align import WeightMatching
from weightspace.cli.describe import describe_generator, report_done
from weightspace.cli.inputs import (
    Common,
    Folder,
    Shared,
    find_task,
    open_collection,
    open_generator,
    read_conditions,
    recorded_task,
    task_of,
)
from weightspace.cli.types import Polish
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.flow import FlowMatching
from weightspace.generator import FittedGenerator, TaskRefinement, TicketGenerator
from weightspace.generator.mask_rules import MaskRule
from weightspace.masks.patterns import Pattern
from weightspace.tasks.task import Task

_STAGES = TicketGenerator()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Train a generator on a collection of tickets.

    Args:
        tickets: Folder of tickets; add @START:STOP to take a part.
        out: Folder to write.
        seed: Seed of the flow's training.
        aligning: Whether the tickets are aligned first, unless they are aligned already.
        align: How the tickets are aligned.
        compress: How networks become codes.
        flow: How the distribution of the codes is learned.
        refining: Whether the generator is trained on through the task; any option --refine.X asks for it too.
        refine: How the generator is trained on through the task.
        masks: What decides the mask of a sample: the magnitude of its weights, one mask for all samples, or gates that
            are coded beside the weights.
        conditions: What the flow is told about each ticket, such as density, metrics.validation_accuracy, or a field
            of the records that is a list of numbers.
        task: Task to refine through, and on whose validation data the temperature of ensembles is fitted. The symmetry
            of networks with unknown inputs is traced on its data as well. None is what the tickets' records say.
        common: Options that mean the same in every verb.
    """

    tickets: Folder
    out: Path
    seed: int = 0
    aligning: Annotated[bool, arg(name="align")] = True
    align: SuppressFixed[AvoidSubcommands[WeightMatching]] = field(default_factory=WeightMatching)
    compress: PCA = field(default_factory=lambda: PCA(16))
    flow: FlowMatching = _STAGES.generate
    refining: Annotated[bool, arg(name="refine")] = False
    refine: SuppressFixed[AvoidSubcommands[TaskRefinement]] = field(default_factory=TaskRefinement)
    masks: MaskRule = _STAGES.masks
    conditions: tuple[str, ...] = ()
    task: str | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Fit the generator."""
        tickets = open_collection(self.tickets, self.common, self.task)
        if not self.refining and self.refine != TaskRefinement():
            raise InputError("options of the refinement were given together with --no-refine: leave one of them out")
        # Networks whose input is not known are traced on their task's.
        unknown = self.aligning and tickets.architecture.example() is None
        asked = self.refining or self.task is not None
        task = task_of(tickets, self.task, self.common) if unknown or asked else None
        stages = TicketGenerator(
            self.align if self.aligning else None,
            self.compress,
            self.flow,
            self.refine if self.refining else None,
            self.masks,
            self.conditions,
        )
        example = task.train.head(8).x if unknown and task is not None else None
        through = task if asked else None
        device = self.common.device
        model = stages.fit(tickets, task=through, example=example, seed=self.seed, folder=self.out, device=device)
        print(describe_generator(model))
        print(f"written to {self.out}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample new sparse networks from a fitted generator.

    Args:
        generator: Folder of a fitted generator.
        out: Folder to write.
        n: Number of networks of each density.
        density: Fraction of the prunable weights kept, in (0, 1]; several give n networks of each.
        pattern: Pattern of the masks instead of a density: N of every M weights such as 2:4, or NAME:VALUE such as
            erk:0.1.
        nested: Whether the same networks are pruned to each density, so that masks are nested; otherwise other
            networks.
        condition: Conditions that the networks shall meet, NAME=VALUE, for generators fitted with conditions; several
            numbers have commas, such as description=0.5,-1,1.
        guidance: Strength of the conditions; above 1 follows them more strongly.
        polish: How long samples are trained on under their masks, such as 30it; last-layer refits their last layers
            alone; None leaves them as they are drawn.
        task: Task that samples are polished on, and on whose training data the statistics of networks with BatchNorm
            are estimated; None is what the tickets were trained on.
        seed: Seed of the samples.
        common: Options that mean the same in every verb.
    """

    generator: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    out: Path
    n: int = 100
    density: tuple[float, ...] = ()
    pattern: Pattern | None = None
    nested: bool = True
    condition: tuple[str, ...] = ()
    guidance: float = 1.0
    polish: Polish = None
    task: str | None = None
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Sample the networks."""
        model = open_generator(Path(self.generator), self.common, self.task)
        density = None if not self.density else self.density[0] if len(self.density) == 1 else self.density
        task = self._task(model)
        networks = model.sample(
            self.n,
            density=density,
            pattern=self.pattern,
            nested=self.nested,
            condition=read_conditions(self.condition),
            guidance=self.guidance,
            data=task.train if task is not None and model.layout.buffers else None,
            polish=self.polish,
            task=None if self.polish is None else task,
            seed=self.seed,
            folder=self.out,
            device=self.common.device,
        )
        report_done(networks, self.out)

    def _task(self, model: FittedGenerator) -> Task | None:
        """The task for the statistics of BatchNorm and for polishing, if there is need of either."""
        if not model.layout.buffers and self.polish is None:
            return None
        if self.task is not None:
            return find_task(self.task, self.common)
        names = model.trained_on["tasks"]
        if len(names) > 1:
            raise InputError(
                f"the tickets were trained on {', '.join(map(str, names))}: say with --task on whose data statistics "
                "are estimated, and samples polished"
            )
        return recorded_task(names[0], self.common)

"""The command line's verbs: each a stage from folders to a folder."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from weightspace.align import WeightMatching
from weightspace.cli.describe import describe_generator, report_done
from weightspace.cli.inputs import (
    Common,
    Folder,
    Shared,
    find_factory,
    find_task,
    open_collection,
    read_conditions,
    task_of,
)
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.flow import FlowMatching
from weightspace.generator import (
    Directions,
    FittedGenerator,
    GateMask,
    MagnitudeMask,
    SharedMask,
    TaskRefinement,
    TicketGenerator,
)
from weightspace.masks.patterns import NM, Unstructured


def fit(
    tickets: Folder,
    *,
    out: Path,
    seed: int = 0,
    align: bool = True,
    balance: bool = True,
    compress: Annotated[PCA, arg(name="")] = PCA(16),
    generate: Annotated[FlowMatching, arg(name="")] = FlowMatching(validation_fraction=0.1),
    masks: Literal["magnitude", "shared", "gates"] = "magnitude",
    conditions: tuple[str, ...] = (),
    refine_steps: int = 0,
    refine_diversity: float = TaskRefinement.diversity,
    refine_mask_diversity: float = TaskRefinement.mask_diversity,
    refine_directions: Directions = TaskRefinement.directions,
    refine_lr: float = TaskRefinement.lr,
    refine_lr_mean: float | None = None,
    refine_ramp: float = TaskRefinement.ramp,
    refine_radius: float | None = TaskRefinement.radius,
    refine_densities: tuple[float, ...] = (),
    refine_nm: str | None = None,
    task: str | None = None,
    common: Shared = Common(),
) -> None:
    """Train a generator on a collection of tickets.

    Args:
        tickets: folder of tickets; add @START:STOP to take a part.
        out: folder to write.
        seed: of the flow's training.
        align: align the tickets first, unless they are aligned already.
        balance: give each unit equal incoming and outgoing norms before aligning.
        masks: how a sample's mask is decided: by the magnitude of its weights, by one support for all samples, or
            by gates that are coded beside the weights.
        conditions: what the flow is told about each ticket, such as density or metrics.validation_accuracy.
        refine_steps: train the generator on through the task for so many steps.
        refine_diversity: weight of the penalty that keeps the values of refined samples apart.
        refine_mask_diversity: weight of the penalty that keeps their masks apart.
        refine_directions: that refinement starts from: the tickets' components, or random ones, which suit large networks
            with few tickets.
        refine_lr: its learning rate; lower for larger networks.
        refine_lr_mean: learning rate of the mean, by default three times as high.
        refine_ramp: share of its steps in which samples become sparse; 0.5 helps small networks at a density of 0.05.
        refine_radius: distance from their mean at which samples start, in terms of the tickets'; None leaves it to the flow.
        refine_densities: that samples are pruned to in turn while it is refined; by default the tickets' median density.
        refine_nm: a pattern such as 2:4 that they are pruned to as well, or alone if no densities are given.
        task: to refine through, and on whose data the symmetry of networks with unknown inputs is traced; by
            default what the tickets' records say.
    """
    common.only_cpu("fit")
    collection = open_collection(tickets, common)
    # Networks whose input is not known are traced on their task's.
    unknown = align and collection.architecture.example() is None
    example = task_of(collection, task, common).train.x[:8] if unknown else None
    matching = WeightMatching(balance=balance) if align else None
    settings = {
        "diversity": refine_diversity, "mask_diversity": refine_mask_diversity, "directions": refine_directions,
        "lr": refine_lr, "lr_mean": refine_lr_mean, "ramp": refine_ramp, "radius": refine_radius,
        "patterns": [*map(Unstructured, refine_densities), *([NM.of(refine_nm)] if refine_nm else [])] or None,
    }  # fmt: skip
    refine, through = None, None
    if refine_steps:
        through = task_of(collection, task, common)
        refine = TaskRefinement(steps=refine_steps, **settings)
    elif any(value != getattr(TaskRefinement, name) for name, value in settings.items()):
        raise InputError(
            "options of the refinement were given, but no refinement: say for how many steps, for example --refine-steps 4000"
        )
    rule = {"magnitude": MagnitudeMask(), "shared": SharedMask(), "gates": GateMask()}[masks]
    stages = TicketGenerator(matching, compress, generate, refine, rule, conditions)
    model = stages.fit(collection, task=through, example=example, seed=seed, folder=out)
    print(describe_generator(model))
    print(f"written to {out}")


def sample(
    generator: Positional[Path],
    *,
    out: Path,
    n: int = 100,
    density: tuple[float, ...] = (),
    nm: str | None = None,
    nested: bool = True,
    condition: tuple[str, ...] = (),
    guidance: float = 1.0,
    task: str | None = None,
    seed: int = 0,
    common: Shared = Common(),
) -> None:
    """Sample new sparse networks from a fitted generator.

    Args:
        generator: folder of a fitted generator.
        out: folder to write.
        n: number of networks, of each density.
        density: fraction of the prunable weights kept, in (0, 1]; several give n networks of each.
        nm: instead of a density, keep N of every M weights, such as 2:4.
        nested: the same networks for each density, so that masks are nested; otherwise other networks for each.
        condition: what the networks shall be like, NAME=VALUE, for generators fitted with conditions.
        guidance: above 1 follows the conditions more strongly.
        task: for networks with BatchNorm, whose statistics are estimated on its training data; by default what
            the tickets were trained on.
        seed: of the samples.
    """
    common.only_cpu("sample")
    model = FittedGenerator.load(generator, factory=find_factory(common))
    data = None
    if model.layout.buffers:
        known = model.trained_on["tasks"]
        if task is None and len(known) > 1:
            raise InputError(f"the tickets were trained on {', '.join(known)}: say with --task on whose data "
                             "statistics are estimated")  # fmt: skip
        data = find_task(task or known[0], common).train
    asked = None if not density else density[0] if len(density) == 1 else density
    networks = model.sample(
        n, density=asked, pattern=NM.of(nm) if nm else None, nested=nested, condition=read_conditions(condition),
        guidance=guidance, data=data, seed=seed, folder=out,
    )  # fmt: skip
    report_done(networks, out)

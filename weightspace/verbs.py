"""The command line's verbs: each a stage from folders to a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from tyro.conf import Positional, arg

from weightspace import generate
from weightspace.align import WeightMatching
from weightspace.comparison import Comparison
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.evaluation import MCDropout
from weightspace.evaluation import evaluate as measure
from weightspace.flow import FlowMatching
from weightspace.generate import (
    Directions,
    FittedGenerator,
    Gates,
    Magnitude,
    SharedSupport,
    TaskRefinement,
    TicketGenerator,
)
from weightspace.naming import (
    Common,
    Folder,
    Shared,
    describe_collection,
    describe_generator,
    find_factory,
    find_task,
    named,
    open_collection,
    read_conditions,
    report_done,
    task_of,
)
from weightspace.pattern import NM, Unstructured
from weightspace.report import Report
from weightspace.runs import CONFIG, open_run
from weightspace.storage import MANIFEST

REPORT = "report.json"


def fit(
    tickets: Folder,
    *,
    out: Path,
    seed: int = 0,
    align: bool = True,
    balance: bool = True,
    compress: Annotated[PCA, arg(name="")] = PCA(16),
    generate: Annotated[FlowMatching, arg(name="")] = FlowMatching(held_out=0.1),
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
    matching = WeightMatching(balance=balance, example=example) if align else None
    settings = {
        "diversity": refine_diversity, "mask_diversity": refine_mask_diversity, "directions": refine_directions,
        "lr": refine_lr, "lr_mean": refine_lr_mean, "ramp": refine_ramp, "radius": refine_radius,
        "patterns": [*map(Unstructured, refine_densities), *([NM.of(refine_nm)] if refine_nm else [])] or None,
    }  # fmt: skip
    refine = None
    if refine_steps:
        through = task_of(collection, task, common)
        refine = TaskRefinement(through, steps=refine_steps, **settings)
    elif any(value != getattr(TaskRefinement, name) for name, value in settings.items()):
        raise InputError(
            "options of the refinement were given, but no refinement: say for how many steps, for example --refine-steps 4000"
        )
    rule = {"magnitude": Magnitude(), "shared": SharedSupport(), "gates": Gates()}[masks]
    stages = TicketGenerator(matching, compress, generate, refine, rule, conditions)
    model = stages.fit(collection, seed=seed, folder=out)
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


def evaluate(
    samples: Folder,
    *,
    reference: str,
    out: Path,
    held_out: str | None = None,
    others: tuple[str, ...] = (),
    task: str | None = None,
    align: bool = True,
    components: int | None = None,
    performing: float = 0.95,
    dropout: tuple[float, ...] = tuple(MCDropout().rates),
    memory: float = 2.0,
    seed: int = 0,
    common: Shared = Common(),
) -> None:
    """Measure networks on the test split, beside their training networks and simple baselines.

    Args:
        samples: folder of the networks to judge; add @START:STOP to take a part.
        reference: folder of the networks that the generator learned from.
        out: folder to write: report.json, report.html and figures.
        held_out: folder of networks of the same recipe that it has not seen.
        others: further collections for comparison, each as NAME=FOLDER.
        task: what the networks were trained on; by default what the reference's records say.
        align: align all networks before distances are taken.
        components: principal components of the Gaussian and KDE baselines; by default 128, or what fits.
        performing: share of the reference's median accuracy from which a network counts as performing.
        dropout: rates of the MC-dropout networks that are trained for comparison; without values none.
        memory: GiB to hold in memory at once.
        seed: of baselines, shifts and intervals.
    """
    common.only_cpu("evaluate")
    known = open_collection(reference, common)
    judged = open_collection(samples, common)
    unseen = None if held_out is None else open_collection(held_out, common)
    further = {name: open_collection(folder, common) for name, folder in map(named, others)}
    built = task_of(known, task, common)
    inputs = {"samples": judged.fingerprint(), "reference": known.fingerprint()}
    inputs |= {name: c.fingerprint() for name, c in further.items()}
    if unseen is not None:
        inputs["held_out"] = unseen.fingerprint()
    config = {
        "task": built.to_json(), "align": align, "components": components, "performing": performing,
        "dropout": list(dropout), "memory": memory, "seed": seed,
    }  # fmt: skip
    with open_run(out, "evaluate", config, inputs) as run:
        if not run.complete:
            report = measure(
                judged, built, reference=known, held_out=unseen, others=further,
                align=WeightMatching() if align else None, components=components, performing=performing,
                dropout=MCDropout(dropout) if dropout else None, memory=memory, seed=seed,
            )  # fmt: skip
            report.write(out)
            run.finish()
    print(Report.load(out / REPORT))
    print(f"written to {out / 'report.html'}")


def show(
    folders: Positional[tuple[str, ...]],
    *,
    csv: Path | None = None,
    html: Path | None = None,
    common: Shared = Common(),
) -> None:
    """Say what a folder holds: a collection, a generator or a report; several reports side by side.

    Args:
        folders: of a collection, a generator or an evaluation; of several evaluations, to compare them.
        csv: also write the collection's records to this file.
        html: also write the report, or the comparison of several, to this page.
    """
    chosen = list(folders)
    if not chosen:
        raise InputError("give a folder to show, or several evaluations to compare")
    if len(chosen) > 1:
        missing = [f for f in chosen if not (Path(f) / REPORT).exists()]
        if missing:
            raise InputError(f"several folders are compared by their reports, but {missing[0]} has no {REPORT}")
        shown = Comparison(dict(zip(_short(chosen), (Report.load(Path(f) / REPORT) for f in chosen), strict=True)))
    else:
        shown = _describe(chosen[0], csv, common)
    print(shown)
    if csv is not None and len(chosen) > 1:
        raise InputError("--csv writes the records of a collection, several reports have none")
    if html is not None:
        if isinstance(shown, str):
            raise InputError(f"--html writes reports and comparisons, {chosen[0]} is neither")
        shown.html(html)
        print(f"written to {html}")


def _describe(folder: str, csv: Path | None, common: Common) -> Report | str:
    path = Path(folder.partition("@")[0])
    if (path / REPORT).exists():
        shown: Report | str = Report.load(path / REPORT)
    elif (path / generate.MANIFEST).exists():
        shown = describe_generator(FittedGenerator.load(path, factory=find_factory(common)))
    elif (path / MANIFEST).exists() or not (path / CONFIG).exists():
        collection = open_collection(folder, common)
        shown = describe_collection(collection)
        if csv is not None:
            collection.to_csv(csv)
            shown += f"\nrecords written to {csv}"
        return shown
    else:
        config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        shown = f"an unfinished run of `weightspace {config['stage']}`: start it again and it continues"
    if csv is not None:
        raise InputError(f"--csv writes the records of a collection, {path} is none")
    return shown


def _short(folders: Sequence[str]) -> list[str]:
    """Folders' names without the parts that all share."""
    parts = [Path(f).resolve().parts for f in folders]
    if len(set(parts)) < len(parts):
        raise InputError("the same report was given twice")
    start = next(i for i in range(min(map(len, parts)) + 1) if len({p[: i + 1] for p in parts}) > 1)
    own = [p[start:] for p in parts]
    while all(len(p) > 1 for p in own) and len({p[-1] for p in own}) == 1:
        own = [p[:-1] for p in own]
    return ["/".join(p) or parts[i][-1] for i, p in enumerate(own)]

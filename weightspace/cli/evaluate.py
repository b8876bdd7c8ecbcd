"""`weightspace evaluate` and `weightspace show`."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from tyro.conf import Positional

from weightspace import generator
from weightspace.align import WeightMatching
from weightspace.cli.describe import describe_collection, describe_generator
from weightspace.cli.inputs import (
    Common,
    Folder,
    Shared,
    find_factory,
    named,
    open_collection,
    task_of,
)
from weightspace.errors import InputError
from weightspace.evaluation import MCDropout
from weightspace.evaluation import evaluate as measure
from weightspace.generator import (
    FittedGenerator,
)
from weightspace.report.comparison import Comparison
from weightspace.report.report import Report
from weightspace.storage.runs import CONFIG, open_run
from weightspace.storage.shards import MANIFEST

REPORT = "report.json"


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
                dropout=MCDropout(dropout) if dropout else None, memory_gb=memory, seed=seed,
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
    elif (path / generator.MANIFEST).exists():
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

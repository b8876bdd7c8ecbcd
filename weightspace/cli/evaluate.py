"""`weightspace evaluate` and `weightspace show`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weightspace import generator
from weightspace.align import WeightMatching
from weightspace.cli.describe import STAGES, describe_collection, describe_generator
from weightspace.cli.inputs import (
    Common,
    Folder,
    Folders,
    Shared,
    named,
    open_collection,
    open_generator,
    task_of,
)
from weightspace.cli.provenance import provenance
from weightspace.cli.verifying import verified
from weightspace.cli.workers import workers_of
from weightspace.errors import InputError
from weightspace.evaluation import CollectionPage, MCDropout, collection_page, evaluate_pictures
from weightspace.evaluation import evaluate as measure
from weightspace.evaluation.own_statistics import Statistics
from weightspace.generator import FittedGenerator
from weightspace.networks.collection import Collection
from weightspace.report.comparison import Comparison
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.opening import open_report
from weightspace.report.pictures import PictureReport, holds_pictures
from weightspace.report.report import Report
from weightspace.runtime.executor import Executor
from weightspace.storage.runs import CONFIG, DONE, open_run, read_config
from weightspace.storage.shards import MANIFEST
from weightspace.tasks.pictures import is_pictures
from weightspace.tasks.task import Task

REPORT = "report.json"
STUDY = "study.json"
_PARTS = "parts"  # what an interrupted evaluation goes on with


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure networks on the test split, beside their training networks and simple baselines.

    Args:
        samples: Folder of the networks to judge; add @START:STOP to take a part.
        training: Folder of the networks that the generator learned from.
        out: Folder to write: report.json, report.html and figures.
        held_out: Folder of networks of the same recipe that the generator has not seen.
        others: Further collections for comparison, each as NAME=FOLDER.
        task: Task that the networks were trained on; None is what the records of the training networks say.
        align: Whether all networks are aligned before distances are taken.
        components: Principal components of the Gaussian and KDE baselines; None is 128, or what fits.
        performing: Share of the training networks' median accuracy from which a network counts as performing.
        generator: Folder of the generator of the samples, for a verdict on what its flow knows; on the held-out
            networks, where there are any.
        dropout: Rates of the MC-dropout networks that are trained for comparison; without values none are.
        statistics: BatchNorm statistics of the networks in these folders: estimated "anew", their "own", or "choose",
            what is better on validation data in each row. Baselines that mix networks have none of their own.
        memory_gb: Memory budget in GiB, of every worker where there are several.
        workers: Number of processes that measure baselines and ensembles, one thread each.
        ray: Whether a Ray cluster measures them instead (RAY_ADDRESS, or one on this machine).
        seed: Seed of baselines, shifts and intervals.
        common: Options that mean the same in every verb.
    """

    samples: Folder
    training: str
    out: Path
    held_out: str | None = None
    others: tuple[str, ...] = ()
    task: str | None = None
    align: bool = True
    components: int | None = None
    performing: float = 0.95
    generator: Path | None = None
    dropout: tuple[float, ...] = tuple(MCDropout().rates)
    statistics: Statistics = "anew"
    memory_gb: float = 2.0
    workers: int = 1
    ray: bool = False
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Write the report."""
        training = open_collection(self.training, self.common, self.task)
        samples = open_collection(self.samples, self.common, self.task)
        held_out = None if self.held_out is None else open_collection(self.held_out, self.common, self.task)
        others = {name: open_collection(folder, self.common, self.task) for name, folder in map(named, self.others)}
        task = task_of(training, self.task, self.common)
        inputs = {"samples": samples.fingerprint(), "reference": training.fingerprint()}
        inputs |= {name: collection.fingerprint() for name, collection in others.items()}
        if held_out is not None:
            inputs["held_out"] = held_out.fingerprint()
        config = {
            "task": task.to_json(),
            "align": self.align,
            "components": self.components,
            "performing": self.performing,
            "dropout": list(self.dropout),
            "memory": self.memory_gb,
            "seed": self.seed,
        }
        if self.statistics != "anew":
            config["statistics"] = self.statistics
        model = None
        if self.generator is not None:
            model = open_generator(Path(self.generator), self.common, self.task)
            inputs["generator"] = model.fingerprint()
        drawn = is_pictures(task)
        if drawn:
            self._require_pictures()
            config = {"task": task.to_json(), "components": self.components, "seed": self.seed}
        with open_run(self.out, "evaluate", config, inputs) as run:
            if not run.complete:
                report: Report | PictureReport
                if drawn:
                    report = self._drawn(samples, task, training, others, model)
                else:
                    with workers_of(self.workers, self.ray, "evaluate", self.common) as executor:
                        report = self._measured(samples, task, training, held_out, others, model, executor)
                run.check()  # whoever removed the folder meanwhile does not want another one
                report.write(self.out)
                run.finish()
        print(open_report(self.out / REPORT))
        print(f"written to {self.out / 'report.html'}")

    def _measured(
        self,
        samples: Collection,
        task: Task,
        training: Collection,
        held_out: Collection | None,
        others: Mapping[str, Collection],
        model: FittedGenerator | None,
        executor: Executor | None,
    ) -> Report:
        return measure(
            samples,
            task,
            training=training,
            held_out=held_out,
            others=others,
            align=WeightMatching() if self.align else None,
            components=self.components,
            performing=self.performing,
            dropout=MCDropout(self.dropout) if self.dropout else None,
            knowledge=self._knowledge(model, held_out, training),
            statistics=self.statistics,
            memory_gb=self.memory_gb,
            seed=self.seed,
            device=self.common.device,
            folder=self.out / _PARTS,
            executor=executor,
        )

    def _drawn(
        self,
        samples: Collection,
        task: Task,
        training: Collection,
        others: Mapping[str, Collection],
        model: FittedGenerator | None,
    ) -> PictureReport:
        return evaluate_pictures(
            samples,
            task,
            training=training,
            others=others,
            components=128 if self.components is None else self.components,
            knowledge=None if model is None else model.knowledge,
            seed=self.seed,
        )

    def _require_pictures(self) -> None:
        """Refuse what networks that draw pictures are not measured by."""
        if self.held_out is not None:
            raise InputError(
                "--held-out is for networks of one task; pictures are compared with the task's unseen ones "
                "(tasks.pictures(..., unseen=)): leave --held-out out"
            )
        defaults = {
            "align": True,
            "performing": 0.95,
            "dropout": tuple(MCDropout().rates),
            "statistics": "anew",
            "workers": 1,
            "ray": False,
        }
        for option, default in defaults.items():
            if getattr(self, option) != default:
                raise InputError(f"--{option} means nothing for networks that draw pictures: leave it out")

    def _knowledge(
        self, model: FittedGenerator | None, held_out: Collection | None, training: Collection
    ) -> FlowKnowledge | None:
        """What the flow knows of the held-out networks, or of those that its fit held back."""
        if model is None or held_out is None:
            return None if model is None else model.knowledge
        return model.knowledge_of(held_out, training, seed=self.seed, device=self.common.device)


@dataclass(frozen=True, kw_only=True)
class Show:
    """Say what a folder holds: a collection, a generator, one of its stages or a report; several reports side by side.

    Args:
        folders: Folder of a collection, a generator or an evaluation; or several evaluations, to compare them.
        csv: File to write the collection's records to as well.
        html: Page to write the report to as well, the comparison of several, or the tables and figures of a collection.
        verify: Compare every file of the folders with its checksum first.
        common: Options that mean the same in every verb.
    """

    folders: Folders
    csv: Path | None = None
    html: Path | None = None
    verify: bool = False
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Print the description."""
        folders = list(self.folders)
        if not folders:
            raise InputError("give a folder to show, or several evaluations to compare")
        if self.verify:
            for folder in folders:
                print(verified(Path(folder.partition("@")[0])))
        shown = _compare(folders) if len(folders) > 1 else _describe(folders[0], self.common)
        networks = shown if isinstance(shown, Collection) else None
        if self.csv is not None and networks is None:
            raise InputError("--csv writes the records of a collection, there is none: leave --csv out")
        if self.html is not None and isinstance(shown, str):
            wanted = "collections, reports and comparisons"
            raise InputError(f"--html writes {wanted}, {folders[0]} is none: leave --html out")
        print(shown if networks is None else describe_collection(networks))
        if self.csv is not None and networks is not None:
            networks.to_csv(self.csv)
            print(f"records written to {self.csv}")
        if self.html is not None and not isinstance(shown, str):
            self._page(shown).html(self.html)
            print(f"written to {self.html}")

    def _page(
        self, shown: Comparison | Report | PictureReport | Collection
    ) -> Comparison | Report | PictureReport | CollectionPage:
        """What is written as a page."""
        if not isinstance(shown, Collection):
            return shown
        made_from = provenance(Path(self.folders[0].partition("@")[0]))
        return collection_page(shown, provenance=made_from)


def _compare(folders: list[str]) -> Comparison:
    missing = [folder for folder in folders if not (Path(folder) / REPORT).exists()]
    if missing:
        raise InputError(
            f"several folders are compared by their reports, but {missing[0]} has no {REPORT}: "
            "give one folder, or folders that `weightspace evaluate` wrote"
        )
    drawn = [folder for folder in folders if holds_pictures(Path(folder) / REPORT)]
    if drawn:
        raise InputError(f"reports of networks of one task are compared, {drawn[0]} is of pictures: show it alone")
    return Comparison(dict(zip(_short(folders), (Report.load(Path(f) / REPORT) for f in folders), strict=True)))


def _describe(folder: str, common: Common) -> Report | PictureReport | Collection | str:
    path = Path(folder.partition("@")[0])
    if (path / REPORT).exists():
        return open_report(path / REPORT)
    if (path / generator.MANIFEST).exists():
        return describe_generator(open_generator(path, common))
    if (path / STUDY).exists():
        return (
            f"a study of Bayesian tickets: its tables are in {path / 'rows.csv'}, its page is report.html beside them"
        )
    if stage := next((name for name in STAGES if (path / name).exists()), None):
        return STAGES[stage](path)
    if (path / MANIFEST).exists() or not (path / CONFIG).exists():
        _require_something(path)
        return open_collection(folder, common)
    if (path / DONE).exists():
        return f"a finished run of `weightspace {read_config(path)['stage']}`: its files are in {path}"
    return f"an unfinished run of `weightspace {read_config(path)['stage']}`: start it again and it continues"


def _require_something(path: Path) -> None:
    """Refuse a file, and a folder of folders, with what can be shown instead."""
    if path.is_file():
        raise InputError(f"{path} is a file: give a folder; `weightspace import` makes one of files of state dicts")
    if (path / MANIFEST).exists() or not path.is_dir():
        return
    known = (REPORT, generator.MANIFEST, STUDY, MANIFEST, CONFIG, *STAGES)
    inside = [str(one) for one in sorted(path.iterdir()) if any((one / name).exists() for name in known)]
    if inside:
        more = ", ..." if len(inside) > _NAMED else ""
        raise InputError(f"{path} is a folder of folders: show one of them, {', '.join(inside[:_NAMED])}{more}")


_NAMED = 8  # folders, in a message


def _short(folders: Sequence[str]) -> list[str]:
    """Folders' names without the parts that all share."""
    parts = [Path(f).resolve().parts for f in folders]
    if len(set(parts)) < len(parts):
        raise InputError("the same report was given twice: leave one out")
    start = next(i for i in range(min(map(len, parts)) + 1) if len({p[: i + 1] for p in parts}) > 1)
    own = [p[start:] for p in parts]
    while all(len(p) > 1 for p in own) and len({p[-1] for p in own}) == 1:
        own = [p[:-1] for p in own]
    return ["/".join(p) or parts[i][-1] for i, p in enumerate(own)]

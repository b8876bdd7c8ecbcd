"""A study of Bayesian tickets: every score at every density, beside its controls."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from weightspace.bayes.checks import require_likelihood
from weightspace.bayes.scores import (
    Band,
    Bound,
    Inclusion,
    KLGain,
    MeanMagnitude,
    PosteriorScore,
    RootSecondMoment,
    SignalToNoise,
    posterior_scores,
)
from weightspace.bayes.search import BayesianIMP
from weightspace.bayes.study.controls import StudyControls
from weightspace.bayes.study.evaluation import StudyEvaluation
from weightspace.bayes.study.results import MethodOverlap, Row, StudyResult
from weightspace.bayes.variational import Variational
from weightspace.errors import InputError, StorageError
from weightspace.evaluation.dropout import MCDropout
from weightspace.masks.overlap import mask_overlap
from weightspace.networks.collection import Collection
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.runtime.executor import Executor, as_worker, device_for
from weightspace.runtime.progress import progress, whole
from weightspace.storage.files import make_folder
from weightspace.storage.locks import locked
from weightspace.storage.reading import parse_object, read_text, require_file
from weightspace.storage.runs import CONFIG, DONE
from weightspace.storage.spelling import spelling_of
from weightspace.tasks.arguments import check_task
from weightspace.tasks.sending import try_workers
from weightspace.tasks.task import Task
from weightspace.tickets import IMP
from weightspace.training import collect

DETERMINISTIC = "deterministic"  # the method of deterministic tickets
STUDY_SCORES: Mapping[str, PosteriorScore] = {
    "|mu|": MeanMagnitude(),
    "|mu| / sigma": SignalToNoise(),
    "sqrt(mu^2 + sigma^2)": RootSecondMoment(),
    "|mu| - 0.5 lambda sigma": Bound(0.5),
    "|mu| + 0.5 lambda sigma": Bound(-0.5),
    "band of |mu|, then sigma": Band(0.05),
    "KL gain": KLGain(),
    "inclusion": Inclusion(),
}

Levels = Sequence[Collection]


@dataclass(frozen=True)
class Study:
    """Bayesian tickets by several scores, deterministic ones, transplants and controls, on the same seeds.

    Args:
        task: Task whose recipe trains every level.
        finder: Search whose score is replaced by each of `scores`.
        scores: Scores by the name that tables show; the others are compared with the first. A score of your own is
            registered with `@posterior_scores.register("my-score")`.
        networks: Number of networks, each with its own seed; every method gets the same.
        draws: Networks that are drawn from each posterior to predict.
        seed: Seed of all networks, draws and controls.

    Raises:
        InputError: There is no score, network or draw, or a score is not registered.
    """

    task: Task
    finder: BayesianIMP = field(default_factory=lambda: BayesianIMP(density=0.02, rate=0.5))
    scores: Mapping[str, PosteriorScore] = field(default_factory=lambda: STUDY_SCORES)
    networks: int = 3
    draws: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, check_task, "task")
        checks.settle(self, checks.instance, "finder", kinds=BayesianIMP, wanted="a BayesianIMP(...)")
        checks.settle(self, checks.mapping, "scores", what="of names to scores, such as STUDY_SCORES")
        checks.settle(self, checks.count, "networks", "draws", at_least=1)
        checks.settle(self, checks.seed, "seed")
        if not self.scores:
            raise InputError("scores must have at least one score, such as STUDY_SCORES, got none")
        for score in self.scores.values():
            posterior_scores.to_json(score)  # now, as the results are saved hours later

    def run(self, folder: str | Path, *, device: str = "auto", executor: Executor | None = None) -> StudyResult:
        """Train the levels that are missing, measure all of them, and write study.json and rows.csv.

        Args:
            folder: Folder of the study; every level is kept in it as a resumable run.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
            executor: Workers that search and train the methods at the same time, on the CPU, one thread each:
                `weightspace.processes(2)` or `OnRay()`. They must see the folder, and get the task.

        Raises:
            InputError: As `BayesianIMP.find_levels`, before anything is trained where the device is not available or
                the outputs have no likelihood; or workers are to use a card, do not see the folder, or cannot be sent
                the task.
            StorageError: The folder holds another study.
        """
        checks.path(folder, "folder")
        task, device = self.task, device_for(device, executor)
        require_likelihood(task, self.finder.variational.noise_std)
        folder = Path(folder) if executor is None else Path(folder).absolute()  # workers may be in other folders
        make_folder(folder)
        with locked(folder), whole("Bayesian study"):
            try_workers(executor, folder, task, self.finder, self.scores)
            return self._run(folder, task, device, executor)

    def _run(self, folder: Path, task: Task, device: str, executor: Executor | None) -> StudyResult:
        """All of it, in a folder that no other process works in."""
        evaluation = StudyEvaluation(task, self.draws, self.seed, device=device)
        dense = collect(task, self.networks, seed=self.seed, folder=folder / "dense", device=device)
        searches = self._searches(folder)
        if executor is not None:  # what they have done is read below
            work = partial(_searched, dense, replace(task, ood=None))
            methods = [*searches.values(), (self._imp, folder / DETERMINISTIC)]
            _wait(executor.map(work, methods), "searching in workers", len(methods))
        rows: list[Row] = []
        levels: dict[str, Levels] = {}
        for name in self.scores:
            finder, place = searches[name]
            levels[name] = finder.find_levels(dense, task, folder=place, device=device)
            for i, posteriors in enumerate(levels[name]):
                rows += _timed(evaluation.rows(name, posteriors), place / f"level-{i:02}")
        main = next(iter(levels.values()))
        plain = self._deterministic(dense, folder, evaluation, rows)
        start = self.finder.start(dense, task, folder=folder / "0-start", device=device)
        starts = partial(self._all_starts, main, plain, start, folder)  # made one by one: each has its networks
        if executor is not None:
            work = partial(_trained, self.finder.variational, replace(task, ood=None))
            _wait(executor.map(work, starts()), "training controls in workers")
        for one, place in starts():
            trained = self.finder.variational.fit(one.networks, task, after=one.after, folder=place, device=device)
            rows += _timed(evaluation.rows(one.method, trained), place)
        dropout = MCDropout().fit(task, seed=self.seed, device=device)
        rows.append(
            evaluation.predictions_row("MC dropout", lambda x: list(dropout.passes(x, self.draws, seed=self.seed)))
        )
        overlaps = method_overlaps({**levels, DETERMINISTIC: plain})
        result = StudyResult(task.name, len(task.test), rows, overlaps, self.scores, evaluation.metrics)
        result.save(folder)
        return result

    def _searches(self, folder: Path) -> dict[str, tuple[BayesianIMP, Path]]:
        """The search by every score, and its folder."""
        return {
            name: (replace(self.finder, score=score), folder / f"{i}-{spelling_of(score).name}")
            for i, (name, score) in enumerate(self.scores.items())
        }

    @property
    def _imp(self) -> IMP:
        """The search of deterministic tickets."""
        finder = self.finder
        return IMP(finder.density, finder.rate, finder.rewind, finder.scope, finder.pattern)

    def _deterministic(
        self, dense: Collection, folder: Path, evaluation: StudyEvaluation, rows: list[Row]
    ) -> list[Collection]:
        """Deterministic tickets of all levels; adds their rows."""
        plain = self._imp.find_levels(dense, self.task, folder=folder / DETERMINISTIC, device=evaluation.device)
        for level, tickets in enumerate(plain):
            place = folder / (f"deterministic/level-{level:02}" if level else "dense")
            rows += _timed(evaluation.rows(DETERMINISTIC, tickets), place)
            rows.append(evaluation.ensemble_row(f"ensemble of {self.networks} deterministic", tickets))
        return plain

    def _all_starts(
        self, main: Levels, plain: Levels, start: Collection, folder: Path
    ) -> "Iterator[tuple[_Start, Path]]":
        """Networks of all levels that posteriors are trained from, each with its folder."""
        for i in range(1, len(main)):
            with_controls = i in (len(main) // 2, len(main) - 1)
            for one in self._starts(main[i], plain[i], start, with_controls=with_controls):
                yield one, folder / one.folder / f"level-{i:02}"

    def _starts(
        self, posteriors: Collection, plain: Collection, start: Collection, *, with_controls: bool
    ) -> "list[_Start]":
        """Networks of one level that posteriors are trained from, beside those of the search itself."""
        finder = self.finder
        controls, rewind = StudyControls(self.seed, finder.variational.std, finder.goal), finder.rewind
        transplant = _Start(
            "transplant of deterministic", "transplant-of-deterministic", plain.replace(extras={}), Step()
        )
        if not with_controls:
            return [transplant]
        # A new initialisation is trained from the beginning; masks on rewound weights go on from the rewind point.
        return [
            transplant,
            _Start("mask re-initialised", "mask-re-initialised", controls.reinitialised(posteriors, start), Step()),
            _Start("mask shuffled in layers", "mask-shuffled-in-layers", controls.shuffled(posteriors, start), rewind),
            _Start("mask globally shuffled", "mask-scattered", controls.globally_shuffled(posteriors, start), rewind),
        ]


@dataclass(frozen=True)
class _Start:
    """Networks to train posteriors from: the method's name, its folder, and how long they have been trained."""

    method: str
    folder: str
    networks: Collection
    after: Step


def _searched(dense: Collection, task: Task, search: tuple[BayesianIMP | IMP, Path]) -> None:
    """Search by one method, in a worker."""
    as_worker()
    finder, folder = search
    finder.find_levels(dense, task, folder=folder, device="cpu")


def _trained(variational: Variational, task: Task, begun: tuple[_Start, Path]) -> None:
    """Train the posteriors of one control, in a worker."""
    as_worker()
    start, folder = begun
    variational.fit(start.networks, task, after=start.after, folder=folder, device="cpu")


def _wait(done: Iterable[None], what: str, total: int | None = None) -> None:
    for _ in progress(done, what, total=total):
        pass


def method_overlaps(levels: Mapping[str, Levels]) -> list[MethodOverlap]:
    """Mask overlap of the sparsest level of every two methods; see `MethodOverlap`.

    Args:
        levels: Levels of each method, the sparsest last.
    """
    overlaps: list[MethodOverlap] = []
    for first, one in levels.items():
        for second, other in levels.items():
            a, b = one[-1], other[-1]
            if first == second and len(a) < 2:
                overlaps.append(MethodOverlap(first, second, None))
                continue
            if first == second:
                pairs = torch.triu_indices(len(a), len(a), offset=1)
                a, b = a[pairs[0]], a[pairs[1]]
            shared, _ = mask_overlap(a, b)
            overlaps.append(MethodOverlap(first, second, shared.mean().item()))
    return overlaps


def _timed(rows: list[Row], folder: Path) -> list[Row]:
    """Rows with the time that their run took for all networks together; too long where it was interrupted."""
    finished = parse_object(read_text(folder / DONE), str(folder / DONE)).get("time")
    if not isinstance(finished, int | float):
        raise StorageError(f"{folder / DONE} is damaged (time is {finished!r:.80}): restore it from a copy")
    seconds = finished - require_file(folder / CONFIG).st_mtime
    return [replace(row, seconds=seconds) for row in rows]

"""A study of Bayesian tickets: every score at every density, beside its controls."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from weightspace.bayes.scores import (
    Band,
    Bound,
    Inclusion,
    KLGain,
    MeanMagnitude,
    PosteriorScore,
    RootSecondMoment,
    SignalToNoise,
)
from weightspace.bayes.search import BayesianIMP
from weightspace.bayes.study.controls import StudyControls
from weightspace.bayes.study.evaluation import Row, StudyEvaluation
from weightspace.errors import InputError
from weightspace.evaluation.dropout import MCDropout
from weightspace.networks.collection import Collection
from weightspace.recipes.step import Step
from weightspace.storage.files import write_text
from weightspace.storage.runs import CONFIG, DONE
from weightspace.storage.spelling import spelling_of
from weightspace.tasks.task import Task
from weightspace.tickets import IMP
from weightspace.training import collect

MAIN = "|mu|"
STUDY_SCORES: Mapping[str, PosteriorScore] = {
    MAIN: MeanMagnitude(),
    "|mu| / sigma": SignalToNoise(),
    "sqrt(mu^2 + sigma^2)": RootSecondMoment(),
    "|mu| - 0.5 lambda sigma": Bound(0.5),
    "|mu| + 0.5 lambda sigma": Bound(-0.5),
    "band of |mu|, then sigma": Band(0.05),
    "KL gain": KLGain(),
    "inclusion": Inclusion(),
}

_FOLDERS = {"mask globally shuffled": "mask-scattered"}  # spelled as in version 0.1, so that studies resume


@dataclass(frozen=True)
class Study:
    """Bayesian tickets by several scores, deterministic ones, transplants and controls, on the same seeds.

    Args:
        task: whose recipe trains every level.
        finder: the ladder; its score is replaced by each of `scores`.
        scores: by the name that tables show; the first is the one that others are compared with.
        networks: seeds; every method gets the same.
        draws: networks drawn from each posterior to predict.
        seed: of everything.
    """

    task: Task
    finder: BayesianIMP = field(default_factory=lambda: BayesianIMP(density=0.02, rate=0.5))
    scores: Mapping[str, PosteriorScore] = field(default_factory=lambda: STUDY_SCORES)
    networks: int = 3
    draws: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.networks, self.draws) < 1 or not self.scores:
            raise InputError(
                f"a study needs a score, a network and a draw, got {len(self.scores)}, {self.networks} and {self.draws}"
            )

    def run(self, folder: str | Path) -> "StudyResult":
        """Train what is not there yet, measure, and write rows.csv.

        Args:
            folder: every level is kept in it as a resumable run.

        Raises:
            InputError, StorageError: as :meth:`BayesianIMP.find_levels`.
        """
        folder, task, judge = Path(folder), self.task, StudyEvaluation(self.task, self.draws, self.seed)
        dense = collect(task, self.networks, seed=self.seed, folder=folder / "dense")
        rows: list[Row] = []
        ladders: dict[str, list[Collection]] = {}
        for name, score in self.scores.items():
            here = folder / f"{len(ladders)}-{spelling_of(score).name}"
            ladders[name] = replace(self.finder, score=score).find_levels(dense, task, folder=here)
            for level, posteriors in enumerate(ladders[name]):
                rows += _timed(judge.rows(name, posteriors), here / f"level-{level:02}")
        first = next(iter(ladders.values()))

        finder = self.finder
        imp = IMP(finder.density, finder.rate, finder.rewind, finder.scope, finder.pattern)
        plain = imp.find_levels(dense, task, folder=folder / "deterministic")
        for level, tickets in enumerate(plain):
            here = folder / (f"deterministic/level-{level:02}" if level else "dense")
            rows += _timed(judge.rows("deterministic", tickets), here)
            rows.append(judge.together(f"ensemble of {self.networks} deterministic", tickets))

        begun = finder.start(dense, task, folder=folder / "0-start")
        controls = StudyControls(self.seed, finder.variational.std)
        for level, posteriors in list(enumerate(first))[1:]:
            starts = {"transplant of deterministic": plain[level].replace(extras={})}
            if level in (len(first) // 2, len(first) - 1):
                starts |= {
                    "mask re-initialised": controls.reinitialised(posteriors, begun),
                    "mask shuffled in layers": controls.shuffled(posteriors, begun),
                    "mask globally shuffled": controls.globally_shuffled(posteriors, begun),
                }
            for name, start in starts.items():
                here = folder / _FOLDERS.get(name, name.replace(" ", "-")) / f"level-{level:02}"
                # What is new starts at the beginning, what was rewound goes on from there.
                after = finder.rewind if "shuffled" in name else Step()
                rows += _timed(judge.rows(name, finder.variational.fit(start, task, after=after, folder=here)), here)
        dropout = MCDropout().fit(task, seed=self.seed)
        rows.append(judge.passes("MC dropout", lambda x: list(dropout.passes(x, self.draws, seed=self.seed))))
        result = StudyResult(task.name, len(task.test), rows, overlaps(ladders, plain))
        result.save(folder)
        return result


@dataclass(frozen=True)
class StudyResult:
    """What a study measured.

    Args:
        task: its name.
        test_samples: size of the test split.
        rows: one for each method, density and network.
        overlaps: shared non-zeros over non-zeros of the sparsest masks: (method, method) -> mean over seeds; of a
            method with itself between seeds.
    """

    task: str
    test_samples: int
    rows: list[Row]
    overlaps: Mapping[tuple[str, str], float]

    def save(self, folder: Path) -> None:
        """Write rows.csv and overlaps.csv."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows)
        lines = [f'"{a}","{b}",{value:.4f}' for (a, b), value in self.overlaps.items()]
        write_text(folder / "overlaps.csv", "\n".join(["first,second,overlap", *lines]) + "\n")


def overlaps(ladders: Mapping[str, list[Collection]], plain: list[Collection]) -> dict[tuple[str, str], float]:
    """How many weights the sparsest masks of two methods share; see :class:`StudyResult`."""
    prunable = plain[-1].layout.prunable
    masks = {name: ladder[-1].masks[:, prunable] for name, ladder in {**ladders, "deterministic": plain}.items()}
    found: dict[tuple[str, str], float] = {}
    for first, one in masks.items():
        for second, other in masks.items():
            if first != second:
                shared = (one & other).sum(1) / one.sum(1)
            else:
                pairs = torch.triu_indices(len(one), len(one), offset=1)
                shared = (one[pairs[0]] & one[pairs[1]]).sum(1) / one[0].sum()
            found[first, second] = shared.mean().item() if len(shared) else math.nan
    return found


def _timed(rows: list[Row], folder: Path) -> list[Row]:
    """Rows with what their run took for all networks together, in seconds; wrong where it was interrupted."""
    took = json.loads((folder / DONE).read_text(encoding="utf-8"))["time"] - (folder / CONFIG).stat().st_mtime
    return [row | {"seconds": took} for row in rows]

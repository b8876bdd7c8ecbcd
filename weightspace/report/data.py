"""ReportData: everything that one evaluation measured, without its tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from weightspace.errors import InputError
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.metrics import ACCURACY, ReportedMetric, Scoring
from weightspace.report.results import CurveResult, FigureData, GroupResult, PredictiveResult, Verdict


@dataclass(frozen=True)
class ReportSettings:
    """How an evaluation was made, and the numbers that its verdicts rest on.

    Args:
        threshold: Value of the main metric from which a network counts as performing.
        performing: The threshold as a share of the training networks' median.
        components: Principal components of the Gaussian and KDE baselines.
        equal_error_noise: Standard deviation of the noise at which errors overlap as the samples' do.
        aligned: Whether networks were aligned before distances were taken.
        seed: Seed of baselines, shifts and intervals.
        baseline_networks: Networks in each baseline.
        made_from: Training networks that the baselines were made from.
        ood_inputs: What the out-of-distribution inputs are.
        ensemble: Members of each ensemble, where there are as many.
        memory_gb: Memory that the evaluation was allowed to use, in GiB.
        statistics: BatchNorm statistics of the networks that were passed in: "anew", "own" or "choose".
        own_statistics: Rows whose networks kept their own.
        augmented_statistics: Whether those of all others are of inputs changed as in training, not of such as they are.
    """

    threshold: float
    performing: float
    components: int
    equal_error_noise: float
    aligned: bool
    seed: int
    baseline_networks: int
    made_from: int
    ood_inputs: str
    ensemble: int
    memory_gb: float
    statistics: str = "anew"
    own_statistics: Sequence[str] = ()
    augmented_statistics: bool = False


@dataclass(frozen=True)
class ReportData:
    """What `evaluate` measured.

    Args:
        task: Name of the task.
        test_samples: Size of the test split.
        groups: One result a group of networks.
        samples: Name of the group that was judged.
        reference: Name of the group that it was learned from.
        points: Points of the baselines' curves, from close to far.
        verdicts: Verdicts on the claims that are made for generated networks.
        ensembles: Ensembles of equal numbers as predictive distributions.
        figures: What the figures show beyond the tables.
        settings: How the evaluation was made.
        scoring: How networks were scored; None for classifiers of one label a sample.
        left_out: What does not apply to such a task, a line each.
        knowledge: What the generator's flow knows beyond a Gaussian; None where it was not told.
    """

    task: str
    test_samples: int
    groups: Sequence[GroupResult]
    samples: str
    reference: str
    points: Sequence[CurveResult]
    verdicts: Sequence[Verdict]
    ensembles: Sequence[PredictiveResult]
    figures: FigureData
    settings: ReportSettings
    scoring: Scoring | None = None
    left_out: Sequence[str] = ()
    knowledge: FlowKnowledge | None = None

    @property
    def metric(self) -> ReportedMetric:
        """The main metric, that networks are judged by."""
        return ACCURACY if self.scoring is None else self.scoring.main

    @property
    def errors(self) -> str:
        """How errors of two networks are compared, such as "error IoU"."""
        return "error IoU" if self.scoring is None else self.scoring.errors

    @property
    def statistics(self) -> str:
        """Which BatchNorm statistics the rows have; empty where the same pass estimated all."""
        settings = self.settings
        if settings.statistics == "anew":
            return ""
        how = ", as validation data chose" if settings.statistics == "choose" else ""
        who = f"{', '.join(settings.own_statistics) or 'no row'} kept the networks' own{how}"
        inputs = "changed as in training" if settings.augmented_statistics else "as they are"
        return f"{who}; in all other rows they were estimated on training inputs {inputs}"

    @property
    def notes(self) -> list[str]:
        """What a reader must know of how the networks were measured, a line each."""
        return [*([f"BatchNorm statistics: {self.statistics}."] if self.statistics else []), *self.left_out]

    def __getitem__(self, name: str) -> GroupResult:
        """The group of this name.

        Raises:
            InputError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise InputError(f"the report has no row {name!r}: it has {', '.join(group.name for group in self.groups)}")

    def verdict(self, claim: str) -> Verdict:
        """The verdict on a claim, such as "not copies".

        Raises:
            InputError: There is none.
        """
        for verdict in self.verdicts:
            if verdict.claim == claim:
                return verdict
        raise InputError(f"no verdict on {claim!r}: there are {', '.join(v.claim for v in self.verdicts)}")

    def ensemble(self, name: str) -> PredictiveResult:
        """The results of an ensemble as a predictive distribution.

        Raises:
            InputError: There is none of this name.
        """
        for ensemble in self.ensembles:
            if ensemble.name == name:
                return ensemble
        raise InputError(f"no ensemble is called {name!r}: there are {', '.join(e.name for e in self.ensembles)}")

    def relative_distance(self, group: GroupResult) -> float:
        """Median distance of a group to the nearest training network, in medians among training networks."""
        return group.median("nearest_distance") / self[self.reference].median("nearest_distance")

    def relative_angle(self, group: GroupResult) -> float | None:
        """Median angle of a group to the nearest training network, in medians among training networks.

        None in reports from before angles were measured.
        """
        reference = self[self.reference]
        if group.per_network.nearest_angle is None or reference.per_network.nearest_angle is None:
            return None
        return group.median("nearest_angle") / max(reference.median("nearest_angle"), 1e-300)

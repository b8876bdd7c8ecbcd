"""Verdicts: what the figures say about each claim that is made for generated networks, and by which test.

"Pass" needs enough networks to have failed: with fewer than ten on either side a claim stays open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.measure import MeasuredGroup, TrainingReference, clustered, median_of_nearest
from weightspace.evaluation.metrics import intervals
from weightspace.evaluation.metrics.intervals import mean_difference, p_text, rank_test, welch_interval
from weightspace.evaluation.one_label import OneLabel
from weightspace.evaluation.scoring import Scorer
from weightspace.report.metrics import ReportedMetric
from weightspace.report.results import CurveResult, GroupResult, Outcome, Verdict
from weightspace.runtime import seeds

LEVEL = 0.01  # of the rank tests; intervals are 95 %
ENOUGH = 10  # networks on each side of a comparison
_AVERAGE = 0.5  # share of a deviation that 16 training networks explain
_SPREAD = 0.8  # of the training networks' spread: below it the literature raises an alarm
_CLUSTER = 0.5  # of the typical distance between two networks of a group: nearer ones are of one cluster
_FAR = 0.95  # a baseline is at a comparable distance from this share of the samples' on
_SHARE = 0.1  # of the samples must be new and perform
_EQUAL = 0.03  # errors overlap equally if they differ by less


@dataclass(frozen=True)
class Evidence:
    """What the verdicts look at.

    Args:
        samples: The networks that are judged.
        training: The networks they were learned from.
        held_out: Networks of the same recipe that the generator has not seen.
        baselines: Results of the baselines.
        points: Points of the baselines' curves.
        equal_errors: Training networks with so much noise that their errors overlap as the samples' do; None if they
            are too broken to be measured.
        reference: What every group was measured against.
        kind: What the networks are called, "tickets" or "networks".
        original_among: Distances among the samples and among the training networks before they were brought into
            canonical form, infinite to oneself: matching parts near copies whose best order is not clear.
    """

    samples: MeasuredGroup
    training: MeasuredGroup
    held_out: MeasuredGroup | None
    baselines: Sequence[GroupResult]
    points: Sequence[CurveResult]
    equal_errors: GroupResult | None
    reference: TrainingReference
    kind: str
    original_among: tuple[Float[Tensor, "n n"], Float[Tensor, "m m"]]

    @property
    def metric(self) -> ReportedMetric:
        """The main metric."""
        return self.reference.scorer.main

    @property
    def alike(self) -> str:
        """What alike errors do: they overlap where they are wrong predictions, and correlate where they are values."""
        reported = self.reference.scorer.reported
        return "overlap" if reported is None or reported.errors == "error IoU" else "correlate"

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.samples.result.count

    @property
    def enough(self) -> bool:
        """Whether there are enough samples and training networks for a claim to pass."""
        return min(self.n, self.training.result.count) >= ENOUGH

    @property
    def unseen(self) -> MeasuredGroup | None:
        """Held-out networks, if there are enough to compare with."""
        return self.held_out if self.held_out is not None and self.held_out.result.count >= ENOUGH else None

    def few(self) -> str:
        """A sentence that says that there are too few networks, if so."""
        return f" Fewer than {ENOUGH} networks on a side do not decide." if not self.enough else ""


def judge_claims(evidence: Evidence) -> list[Verdict]:
    """A verdict on each claim.

    - not copies: samples are as far from the training networks as new networks of the recipe would be.
    - errors of their own: samples do not just repeat the errors of a training network.
    - not averages: samples are not combinations of few training networks, nor drawn towards their mean.
    - no collapse: samples differ from each other as training networks do.
    - better than their tickets (or networks): samples have a better main metric than what they were learned from.
    - novel and good: some samples are far from all training networks and perform, and no baseline that is as far away
      is as good.
    """
    new = [_copies(evidence), _new_errors(evidence), _averages(evidence)]
    blocked = [verdict.claim for verdict in new[:2] if verdict.outcome == "fail"]
    return [*new, _collapse(evidence), _accuracy(evidence), _novel_and_good(evidence, blocked)]


def _copies(e: Evidence) -> Verdict:
    reference, around = e.reference, e.samples.around
    close = int(reference.copies(around).sum())
    ratio = around.nearest.first.quantile(0.5).item() / reference.unit
    turned = around.angle.first.quantile(0.5).item() / max(reference.unit_angle, 1e-300)
    if e.unseen is not None:
        own = (around.nearest.first, around.angle.first)
        other, whom = e.unseen.around, f"held-out {e.kind}"
    else:  # the same training networks are left out for distances and angles
        count = len(e.training.around.few)
        own = tuple(
            each.without_one(count, seeds.generator(reference.seed, "copies"))
            for each in (around.nearest, around.angle)
        )
        other, whom = e.training.around, f"training {e.kind} from each other"
    distances, others = reference.novelty(*own), reference.novelty(other.nearest.first, other.angle.first)
    p = rank_test(distances, others, "less")
    words = (
        f"A typical sample is {ratio:.2f} times as far from its nearest training network as training networks are from "
        f"each other, {turned:.2f} times by angle; {close} of {e.n} are a tenth as far or half as far as from the "
        "second nearest"
    )
    novelty = e.samples.result.novelty
    if novelty.z_u is not None:
        words += (
            ". A sample is farther than a held-out network with probability "
            f"{novelty.farther_than_held_out:.2f} (Z_U = {novelty.z_u:+.1f})"
        )
    test = f"no sample that close, and Mann-Whitney test against {len(others)} {whom} (p {p_text(p)})"
    if close:
        words += f": {'they are' if close > e.n / 2 else 'some are'} copies."
        return Verdict("not copies", "fail", words, test)
    if p < LEVEL:
        closer = "they are closer to the training set than new networks are"
        if rank_test(own[0], other.nearest.first, "less") >= LEVEL:  # it is the angle that fails
            closer = f"by angle {closer}, and only the size of their weights puts them farther away"
        return Verdict("not copies", "fail", f"{words}: {closer}.", test)
    return Verdict("not copies", _passed(e), f"{words}: no closer than new {e.kind} would be.{e.few()}", test)


def _new_errors(e: Evidence) -> Verdict:
    random = seeds.generator(e.reference.seed, "errors")
    overlaps = e.samples.error_overlap.without_one(len(e.training.around.few), random)
    normal = e.training.error_overlap.first
    p = rank_test(overlaps, normal, "greater")
    median = e.samples.error_overlap.first.quantile(0.5).item()
    words = (
        f"The errors of a sample {e.alike} by {median:.2f} with those of the training network most like it; between "
        f"training "
        f"{e.kind} it is {normal.quantile(0.5).item():.2f}."
    )
    test = f"Mann-Whitney test that samples {e.alike} more (p {p_text(p)})"
    reasons = ["their errors are more alike than training networks'"] * (p < LEVEL)
    mean = e.samples.error_overlap.first.mean().item()
    noise = e.equal_errors
    metric, by_noise = e.metric, None if noise is None else noise.mean("max_error_iou")
    if noise is None or by_noise is None:
        words += f" Noise that makes errors {e.alike} as much breaks the networks."
    elif abs(by_noise - mean) < _EQUAL:
        low, high = mean_difference(e.samples.result, noise, metric.name)
        words += (
            f" Noise that makes the errors of training networks {e.alike} as much leaves {metric.phrase} of "
            f"{noise.mean(metric.name):.4f} (samples minus noise {low:+.4f} to {high:+.4f})."
        )
        above = "above" if metric.higher_is_better else "against"
        test += f"; 95 % interval of the {metric.label} {above} that of noise at equal overlap (Welch)"
        reasons += ["noise is better"] * (metric.in_favour(low, high)[1] < 0)
    else:
        words += (
            f" No strength of noise that was tried makes errors {e.alike} as much (nearest: {by_noise:.2f}, samples "
            f"{mean:.2f})."
        )
    if reasons:
        return Verdict("errors of their own", "fail", f"{words} So {' and '.join(reasons)}.", test)
    return Verdict("errors of their own", _passed(e), f"{words} They err in their own way.{e.few()}", test)


def _averages(e: Evidence) -> Verdict:
    others = e.unseen or e.training
    few, normal = e.samples.around.few, others.around.few
    spread = e.samples.result.novelty.dispersion_around_training
    assert spread is not None, "samples are not the training networks"
    p = rank_test(few, normal, "greater")
    median, common = few.quantile(0.5).item(), normal.quantile(0.5).item()
    kind = f"held-out {e.kind}" if e.unseen else f"training {e.kind}"
    words = (
        f"Combinations of {min(16, len(normal))} training networks explain {median:.0%} of a sample's deviation from "
        f"the "
        f"mean network ({kind}: {common:.0%}), and samples lie {spread:.2f} times as far from it as training networks: "
    )
    test = (
        f"Mann-Whitney test of the explained share (p {p_text(p)}), with a median above 50 % and twice the usual; "
        f"distance from the mean below {_SPREAD}"
    )
    reasons = ["averages of few training networks"] * (p < LEVEL and median > max(_AVERAGE, 2 * common))
    reasons += ["drawn towards the mean network"] * (spread < _SPREAD)
    if reasons:
        return Verdict("not averages", "fail", f"{words}they are {' and '.join(reasons)}.", test)
    if common > _AVERAGE / 2:
        words += "too few training networks to tell averages from new networks."
        return Verdict("not averages", "open", words, test)
    return Verdict("not averages", _passed(e), f"{words}they are not averages.{e.few()}", test)


def _collapse(e: Evidence) -> Verdict:
    variety, normal = e.samples.result.variety, e.training.result.variety
    size = min(len(e.samples.among), len(e.training.among)) // 2
    if size < 3 or variety is None or normal is None:
        return Verdict("no collapse", "open", "Fewer than six samples: their variety cannot be judged.", "none")
    nearest = median_of_nearest(e.samples.among, size, seed=e.reference.seed).quantile(0.5).item()
    training = median_of_nearest(e.training.among, size, seed=e.reference.seed)
    ratio = nearest / training.quantile(0.5).item()
    reasons = ["closer to each other"] * (ratio < _SPREAD and nearest < training.quantile(LEVEL).item())
    words = f"The nearest other sample is {ratio:.2f} times as far as it is among as many training {e.kind}"
    # Larger networks lie farther apart: clusters of them are told by distances among themselves.
    count = min(len(e.samples.among), len(e.training.among))
    gathered, common = (
        max(clustered(among[:count, :count], _CLUSTER) for among in (group.among, original))
        for group, original in zip((e.samples, e.training), e.original_among, strict=True)
    )
    words += (
        f"; {gathered:.0%} of {count} have another within half the usual distance among them ({e.kind} {common:.0%})"
    )
    reasons += ["gathered in clusters"] * (gathered > (1 + common) / 2)
    if variety.mask_overlap is not None and normal.mask_overlap is not None:
        words += f"; masks overlap by {variety.mask_overlap:.2f} ({e.kind} {normal.mask_overlap:.2f})"
        reasons += ["alike in their masks"] * (variety.mask_overlap > (1 + normal.mask_overlap) / 2)
    words += f"; errors {e.alike} by {variety.error_iou:.2f} ({normal.error_iou:.2f})"
    reasons += ["alike in their errors"] * (variety.error_iou > (1 + normal.error_iou) / 2)
    test = (
        f"nearest distance below {_SPREAD} of, and below the 1 % quantile over 200 subsets of {size}, training "
        "networks; share in clusters, overlap of masks or of errors more than halfway from the training networks' to 1"
    )
    if reasons:
        return Verdict("no collapse", "fail", f"{words}: samples are {' and '.join(reasons)}.", test)
    return Verdict("no collapse", _passed(e), f"{words}: they vary.{e.few()}", test)


def _accuracy(e: Evidence) -> Verdict:
    samples, training = e.samples.result, e.training.result
    claim, test = f"better than their {e.kind}", "95 % interval of the difference over networks (Welch)"
    metric = e.metric
    what = "" if metric.name == "accuracy" else f" {metric.phrase} of"
    words = (
        f"Samples reach{what} {samples.mean(metric.name):.4f}, their training {e.kind} {training.mean(metric.name):.4f}"
    )
    if e.n < 3:
        return Verdict(claim, "open", f"{words}; fewer than three samples do not decide.", test)
    low, high = mean_difference(samples, training, metric.name)
    worst, best = metric.in_favour(low, high)
    outcome: Outcome = "pass" if worst > 0 else "fail" if best < 0 else "open"
    says = {"pass": "better", "fail": "worse", "open": "not told apart"}[outcome]
    interval = samples.interval(metric.name)
    words += (
        f" (95 % interval of the samples' mean {interval[0]:.4f} to {interval[1]:.4f}, n = {e.n}): {says} (difference "
        f"{low:+.4f} to {high:+.4f})."
    )
    return Verdict(claim, outcome, words, test)


def _novel_and_good(e: Evidence, blocked: Sequence[str]) -> Verdict:
    samples, threshold, metric = e.samples.result, e.reference.threshold, e.metric
    distance = samples.median("nearest_distance")
    share = samples.novelty.performing_at(1)
    performing = float(e.reference.performs(e.samples.scored.main).double().mean())
    test = (
        f"most samples perform ({metric.phrase} of {metric.at_least} {threshold:.4f}), at least {_SHARE:.0%} are also "
        "as far from the training networks as these are from each other, neither copies nor their errors, and they are "
        f"{metric.better} than the best baseline at least {_FAR} times as far (95 % interval, Welch; the best of "
        "many, which favours the baselines)"
    )
    words = (
        f"{performing:.0%} of the samples perform, {share:.0%} are also as far from the training networks as these are "
        "from each other."
    )
    claim = "novel and good"
    rivals = [
        (a.name, a.mean(metric.name), a.std(metric.name), a.count)
        for a in e.baselines
        if a.median("nearest_distance") >= _FAR * distance
    ] + [
        (f"{p.family} at {p.level:.3g}", p.score, p.std, p.networks) for p in e.points if p.distance >= _FAR * distance
    ]
    best = max(rivals, key=lambda r: metric.advantage(r[1]), default=None)
    if best is not None:
        words += (
            f" The best baseline at least as far away, {best[0]}, reaches {best[1]:.4f}, the samples "
            f"{samples.mean(metric.name):.4f}."
        )
    if performing < 0.5:
        return Verdict(claim, "fail", f"{words} Most do not perform.", test)
    if blocked:
        return Verdict(claim, "fail", f"{words} They fail as {' and '.join(blocked)}.", test)
    if share < _SHARE:
        return Verdict(claim, "fail", f"{words} Too few are new.", test)
    if best is None:
        return Verdict(claim, _passed(e), f"{words} No baseline is as far.{e.few()}", test)
    if e.n < 3:
        return Verdict(claim, "open", f"{words}{e.few()}", test)
    difference = welch_interval(samples.mean(metric.name), samples.std(metric.name), e.n, *best[1:])
    low, high = metric.in_favour(*difference)
    if high < 0:
        return Verdict(claim, "fail", f"{words} It beats them.", test)
    if low > 0:
        return Verdict(claim, _passed(e), f"{words} The samples beat it.{e.few()}", test)
    return Verdict(claim, "open", f"{words} They are not told apart.", test)


def better_ensemble(
    kind: str,
    samples: Float[Tensor, "n s ..."],
    training: Float[Tensor, "m s ..."],
    *,
    seed: int,
    scorer: Scorer = OneLabel(),
) -> Verdict:
    """A verdict on "a better ensemble": samples predict together with a lower NLL than as many training networks do.

    Args:
        kind: What the networks are called, "tickets" or "networks".
        samples: Probability that each sample gives to the right class of each test sample, or what else networks
            contribute to an ensemble (`ScoredPredictions.parts`).
        training: The same for training networks.
        seed: Seed of the resampling.
        scorer: How ensembles are scored.
    """
    losses = [-scorer.gain(p.mean(0)).mean().item() for p in (samples, training)]
    words = (
        f"The ensemble of {len(samples)} samples has {_with_article(scorer.ensemble_loss)} of {losses[0]:.4f}, one of "
        f"{len(training)} training {kind} {losses[1]:.4f}"
    )
    claim, test = "a better ensemble", "95 % bootstrap interval of the difference, over networks and test samples"
    if len(samples) < ENOUGH:
        return Verdict(claim, "open", f"{words}; fewer than {ENOUGH} networks do not decide.", test)
    low, high = intervals.of_two_ensembles(samples, training, seed=seed, gain=scorer.gain)
    outcome: Outcome = "pass" if high < 0 else "fail" if low > 0 else "open"
    says = {"pass": "better", "fail": "worse", "open": "not told apart"}[outcome]
    return Verdict(claim, outcome, f"{words}: {says} (difference {low:+.4f} to {high:+.4f}).", test)


def _with_article(loss: str) -> str:
    return f"{'an' if loss == 'NLL' else 'a'} {loss}"


def _passed(e: Evidence) -> Outcome:
    return "pass" if e.enough else "open"

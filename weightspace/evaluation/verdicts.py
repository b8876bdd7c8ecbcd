"""Verdicts: what the figures say about each claim that is made for generated networks, and by which test."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import binomtest, mannwhitneyu, norm
from torch import Tensor

from weightspace.evaluation import bootstrap
from weightspace.evaluation.measure import Measured, Yardstick, median_of_nearest
from weightspace.results import ArmResult, Outcome, Point, Verdict

LEVEL = 0.01  # of every test
_NEAR = 0.05  # quantile of the leave-one-out band
_AVERAGE = 0.5  # share of a deviation that 16 training networks explain
_SPREAD = 0.8  # of the training networks' spread (reference: dispersion below 0.8 is an alarm)
_FAR = 0.95  # a baseline is at a comparable distance from this share of the samples' on


@dataclass(frozen=True)
class _Rival:
    name: str
    mean: float
    error: float  # standard error of the mean


def judge_claims(
    samples: Measured,
    training: Measured,
    held_out: Measured | None,
    baselines: Sequence[ArmResult],
    points: Sequence[Point],
    yardstick: Yardstick,
    *,
    equal_errors: ArmResult,
    names: str,
) -> list[Verdict]:
    """A verdict on each claim.

    Args:
        equal_errors: training networks with as much noise as makes their errors overlap as the samples' do.
        names: what the networks are called, "tickets" or "networks".
    """
    return [
        _copies(samples, held_out, yardstick, names),
        _new_errors(samples, training, equal_errors, yardstick.seed, names),
        _averages(samples, held_out or training, held_out is not None, names),
        _collapse(samples, training, yardstick.seed, names),
        _accuracy(samples, training, yardstick, names),
        _novel_and_good(samples, baselines, points, yardstick),
    ]


def _copies(samples: Measured, held_out: Measured | None, yardstick: Yardstick, names: str) -> Verdict:
    distance, band = samples.around.distance, yardstick.around.distance
    edge = band.quantile(_NEAR).item()
    below = int((distance < edge).sum())
    p_tail = float(binomtest(below, len(distance), _NEAR, alternative="greater").pvalue)
    ratio = distance.quantile(0.5).item() / yardstick.unit
    words = (
        f"A typical sample is {ratio:.2f} times as far from its nearest training network as training networks are from "
        f"each other; {below} of {len(distance)} lie within the nearest 5 % of those"
    )
    test = f"binomial test of the share within the leave-one-out band's 5 % quantile (p = {_p(p_tail)})"
    failed = p_tail < LEVEL
    if held_out is not None:
        z, share = samples.result.together["Z_U"], samples.result.together["farther than held-out"]
        p_z = float(norm.cdf(z))
        failed |= p_z < LEVEL
        words += f". A sample is farther than a held-out network with probability {share:.2f} (Z_U = {z:+.1f})"
        test += f"; Z_U against {len(held_out.around.distance)} held-out networks (p = {_p(p_z)})"
    if failed:
        kind = "copies" if ratio < 0.1 else "closer to the training set than new networks are"
        words += f": they are {kind}."
    else:
        words += f": no closer than new {names} would be."
    return Verdict("not copies", "fail" if failed else "pass", words, test)


def _new_errors(samples: Measured, training: Measured, noise: ArmResult, seed: int, names: str) -> Verdict:
    own, band = (torch.tensor(m.result.per_network["max error IoU"]) for m in (samples, training))
    p = float(mannwhitneyu(own.numpy(), band.numpy(), alternative="greater").pvalue)
    noisy = torch.tensor(noise.per_network["accuracy"])
    low, high = bootstrap.of_difference(samples.judged.metrics["accuracy"], noisy, seed=seed)
    alike, worse = p < LEVEL, high < 0
    words = (
        f"The errors of a sample overlap by {own.quantile(0.5).item():.2f} with those of the training network most like it; "
        f"between training {names} it is {band.quantile(0.5).item():.2f}. Noise on training {names} that makes errors overlap "
        f"as the samples' do ({statistics.fmean(noise.per_network['max error IoU']):.2f} on average) leaves an accuracy of "
        f"{noisy.mean().item():.4f} (samples minus noise {low:+.4f} to {high:+.4f}): "
    )
    reasons = ["their errors are more alike than training networks'"] * alike + ["noise is better"] * worse
    words += " and ".join(reasons) + "." if reasons else "they err in their own way."
    test = (
        f"Mann-Whitney test that samples overlap more (p = {_p(p)}); bootstrap interval of the accuracy above that of "
        "noise at equal overlap"
    )
    return Verdict("errors of their own", "fail" if reasons else "pass", words, test)


def _averages(samples: Measured, others: Measured, unseen: bool, names: str) -> Verdict:
    few, usual = samples.around.few, others.around.few
    spread = samples.result.together["dispersion around the training mean"]
    p = float(mannwhitneyu(few.numpy(), usual.numpy(), alternative="greater").pvalue)
    from_few = p < LEVEL and few.quantile(0.5).item() > max(_AVERAGE, 2 * usual.quantile(0.5).item())
    drawn = spread < _SPREAD
    kind = f"held-out {names}" if unseen else f"training {names}"
    words = (
        f"Combinations of 16 training networks explain {few.quantile(0.5).item():.0%} of a sample's deviation from the "
        f"mean network ({kind}: {usual.quantile(0.5).item():.0%}), and samples lie {spread:.2f} times as far from it as "
        "training networks: "
    )
    reasons = ["averages of few training networks"] * from_few + ["drawn towards the mean network"] * drawn
    words += f"they are {' and '.join(reasons)}." if reasons else "they are not averages."
    test = (
        f"Mann-Whitney test of the explained share (p = {_p(p)}), with a median above 50 % and twice the usual; "
        f"distance from the mean below {_SPREAD}"
    )
    return Verdict("not averages", "fail" if reasons else "pass", words, test)


def _collapse(samples: Measured, training: Measured, seed: int, names: str) -> Verdict:
    together, usual = samples.result.together, training.result.together
    size = min(len(samples.among), len(training.among))
    if size < 3:
        return Verdict("no collapse", "open", "Fewer than three samples: their variety cannot be judged.", "none")
    own = median_of_nearest(samples.among, size, seed=seed, draws=1 if size == len(samples.among) else 200).quantile(
        0.5
    )
    band = median_of_nearest(training.among, size, seed=seed)
    ratio = (own / band.quantile(0.5)).item()
    reasons = ["closer to each other"] * (ratio < _SPREAD and own.item() < band.quantile(LEVEL).item())
    words = f"The nearest other sample is {ratio:.2f} times as far as it is among as many training {names}"
    if "mask overlap" in together and "mask overlap" in usual:
        words += f"; masks overlap by {together['mask overlap']:.2f} ({names} {usual['mask overlap']:.2f})"
        reasons += ["alike in their masks"] * (together["mask overlap"] > (1 + usual["mask overlap"]) / 2)
    words += f"; errors overlap by {together['error IoU among']:.2f} ({usual['error IoU among']:.2f})"
    reasons += ["alike in their errors"] * (together["error IoU among"] > (1 + usual["error IoU among"]) / 2)
    words += f": samples are {' and '.join(reasons)}." if reasons else ": they vary."
    test = (
        f"nearest distance below {_SPREAD} of, and below the 1 % quantile over 200 subsets of {size}, training "
        "networks; overlap of masks or errors more than halfway from the training networks' to 1"
    )
    return Verdict("no collapse", "fail" if reasons else "pass", words, test)


def _accuracy(samples: Measured, training: Measured, yardstick: Yardstick, names: str) -> Verdict:
    own, usual = samples.judged.metrics["accuracy"], training.judged.metrics["accuracy"]
    low, high = bootstrap.of_difference(own, usual, seed=yardstick.seed)
    interval = samples.result.interval("accuracy")
    outcome: Outcome = "pass" if low > 0 else "fail" if high < 0 else "open"
    says = {"pass": "better", "fail": "worse", "open": "not told apart"}[outcome]
    words = (
        f"Samples reach {own.mean().item():.4f} (95 % interval of the mean {interval[0]:.4f} to {interval[1]:.4f}, "
        f"n = {len(own)}), their training {names} {usual.mean().item():.4f}: {says} (difference "
        f"{low:+.4f} to {high:+.4f})."
    )
    return Verdict(f"better than their {names}", outcome, words, "bootstrap interval of the difference over networks")


def _novel_and_good(
    samples: Measured, baselines: Sequence[ArmResult], points: Sequence[Point], yardstick: Yardstick
) -> Verdict:
    accuracy, distance = samples.judged.metrics["accuracy"], samples.around.distance.quantile(0.5).item()
    share = samples.result.together["novel and performing at 1"]
    own = _Rival("samples", accuracy.mean().item(), _standard_error(samples.result.std("accuracy"), len(accuracy)))
    rivals = [
        _Rival(a.name, a.mean("accuracy"), _standard_error(a.std("accuracy"), a.count))
        for a in baselines
        if a.median("nearest distance") >= _FAR * distance
    ] + [
        _Rival(f"{p.family} at {p.level:.3g}", p.accuracy, _standard_error(p.std, p.networks))
        for p in points
        if p.distance >= _FAR * distance
    ]
    test = (
        f"accuracy against the best baseline that is at least {_FAR} times as far from the training networks, normal "
        f"interval; performing means an accuracy of {yardstick.threshold:.4f}"
    )
    words = (
        f"{share:.0%} of the samples perform (accuracy {yardstick.threshold:.3f}) and are as far from the training "
        "networks as these are from each other. "
    )
    if own.mean < yardstick.threshold:
        return Verdict("novel and good", "fail", f"{words}Most do not perform: {own.mean:.4f} on average.", test)
    if not rivals:
        return Verdict("novel and good", "pass", f"{words}No baseline is as far.", test)
    best = max(rivals, key=lambda r: r.mean)
    half = 1.96 * math.hypot(own.error, best.error)
    low, high = own.mean - best.mean - half, own.mean - best.mean + half
    outcome: Outcome = "pass" if low > 0 else "fail" if high < 0 or distance == 0 else "open"
    says = {"pass": "the samples beat it", "fail": "it beats them", "open": "not told apart"}[outcome]
    words += f"The best baseline at least as far away, {best.name}, reaches {best.mean:.4f}, the samples {own.mean:.4f}: {says}."
    return Verdict("novel and good", outcome, words, test)


def better_ensemble(name: str, own: Float[Tensor, " s"], usual: Float[Tensor, " s"], networks: int) -> Verdict:
    """Compare the negative log-likelihoods of two ensembles of equally many networks, sample by sample."""
    gap = own - usual
    half = 1.96 * gap.std().item() / math.sqrt(len(gap))
    low, high = gap.mean().item() - half, gap.mean().item() + half
    outcome: Outcome = "pass" if high < 0 else "fail" if low > 0 else "open"
    says = {"pass": "better", "fail": "worse", "open": "not told apart"}[outcome]
    words = (
        f"The ensemble of {networks} samples has an NLL of {own.mean().item():.4f}, one of as many training {name} "
        f"{usual.mean().item():.4f}: {says} (difference {low:+.4f} to {high:+.4f})."
    )
    return Verdict("a better ensemble", outcome, words, "normal interval of the paired difference over test samples")


def _standard_error(std: float, n: int) -> float:
    return std / math.sqrt(n)


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"

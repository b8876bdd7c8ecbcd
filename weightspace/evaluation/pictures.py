"""evaluate_pictures: what sampled networks draw, beside pictures that no network was fitted to."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.metrics.samples import covered
from weightspace.networks.collection import Collection
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.pictures import GAUSSIAN, SAMPLES, PictureReport, PictureSet, Share, ShownPictures
from weightspace.report.results import Outcome, Verdict
from weightspace.runtime import checks, seeds
from weightspace.tasks.arguments import check_task
from weightspace.tasks.pictures import draw, picture_size, pictures_of
from weightspace.tasks.task import Task

UNSEEN = "unseen pictures"
_SHOWN = 16  # pictures of each set on the page
_CLOSE = 0.01  # share of the unseen pictures that count as close to a training picture
Features = Callable[[Float[Tensor, "n channels height width"]], Float[Tensor, "n d"]]


def evaluate_pictures(
    samples: Collection,
    task: Task,
    *,
    training: Collection,
    others: Mapping[str, Collection] | None = None,
    features: Features | None = None,
    components: int = 128,
    count: int = 1000,
    neighbours: int = 3,
    knowledge: FlowKnowledge | None = None,
    seed: int = 0,
) -> PictureReport:
    """Compare what networks draw with pictures that no network was fitted to, and with what a Gaussian's networks draw.

    Args:
        samples: Networks to judge.
        task: Task of pictures with unseen ones: `tasks.pictures(..., unseen=)`.
        training: Networks that the generator learned from; their records say which pictures are theirs.
        others: Further collections to measure, by name.
        features: Function of pictures (N, channels, height, width) to features (N, D) that they are compared by, such
            as a trained classifier without its last layer; None compares pixels.
        components: Most principal components of the Gaussian, which is fitted to the training networks.
        count: Most pictures of each kind; all kinds are cut to the smallest, as shares depend on numbers.
        neighbours: The k of precision and recall.
        knowledge: What the generator's flow knows beyond a Gaussian (`generator.knowledge`), for a verdict.
        seed: Seed of choices and of the Gaussian.

    Raises:
        InputError: The task has no pictures, or no unseen ones; networks draw NaN; or there are too few.
    """
    size = picture_size(check_task(task))
    if task.test is task.train:
        raise InputError(
            f"{task.name} has no unseen pictures to compare with: make it with pictures(..., unseen=images)"
        )
    given = {} if others is None else checks.mapping(others, "others", "of names to collections")
    if taken := {"training", SAMPLES, GAUSSIAN, UNSEEN} & set(given):
        raise InputError(f"others may not be named {', '.join(sorted(taken))}, as rows of the report are: rename them")
    groups = {"training": training, SAMPLES: samples, **given}
    neighbours, seed = checks.count(neighbours, "neighbours", at_least=1), checks.seed(seed)
    count = checks.count(count, "count", at_least=neighbours + 1)
    unseen = _bright(pictures_of(task.test, size), "unseen pictures")
    chosen = _own(training, _bright(pictures_of(task.train, size), "pictures of the task"))
    n = min(count, len(unseen), *map(len, groups.values()))
    rows = torch.randperm(len(training), generator=seeds.generator(seed, "pictures"))[:n].sort().values
    groups["training"] = training[rows]
    groups[GAUSSIAN] = _gaussian(training, samples[:n], components, seed)
    drawn = {name: _finite(draw(networks[:n], *size), name).clamp(0, 1) for name, networks in groups.items()}
    judge = _Judge(unseen[:n], chosen, features, neighbours)
    sets = [judge.reference(), *(judge.compared(name, _NOTES.get(name, "given"), drawn[name]) for name in drawn)]
    verdicts = [judge.no_copies(drawn[SAMPLES]), judge.better(drawn[SAMPLES], drawn[GAUSSIAN])]
    shown = _shown(unseen, chosen[rows], drawn, judge)
    compared = "pixels" if features is None else "features"
    return PictureReport(
        task.name, n, compared, sets, verdicts + ([knowledge.verdict] if knowledge is not None else []), shown
    )


_NOTES = {
    "training": "networks that the generator learned from",
    SAMPLES: "networks from the generator",
    GAUSSIAN: "networks from a normal distribution of the training networks' PCA codes, pruned alike",
}


@dataclass(frozen=True)
class _Judge:
    """Compares pictures with those that no network was fitted to.

    Args:
        unseen: These, (n, channels, height, width).
        training: Pictures that the training networks were fitted to.
        features: What pictures are compared by; None is pixels.
        neighbours: The k of precision and recall.
    """

    unseen: Tensor
    training: Tensor
    features: Features | None
    neighbours: int

    def described(self, pictures: Tensor) -> Float[Tensor, "n d"]:
        """Features of pictures."""
        if self.features is None:
            return pictures.flatten(1)
        with torch.no_grad():
            found = self.features(pictures)
        return checks.tensor(found, "features(pictures)", shape=(len(pictures), "numbers"), floating=True)

    def nearest(self, pictures: Tensor) -> tuple[Float[Tensor, " n"], Tensor]:
        """Distance to the nearest training picture, and which it is."""
        found = torch.cdist(pictures.flatten(1), self.training.flatten(1)).min(1)
        return found.values / math.sqrt(pictures[0].numel()), found.indices

    @property
    def close(self) -> float:
        """Distance below which only few unseen pictures are to a training picture."""
        return self.nearest(self.unseen)[0].quantile(_CLOSE).item()

    def covered(self, pictures: Tensor) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """Which pictures lie where unseen ones are, and which unseen ones lie where they are."""
        return covered(self.described(self.unseen), self.described(pictures), self.neighbours)

    def reference(self) -> PictureSet:
        """The row of the unseen pictures."""
        return self._row(UNSEEN, "no network was fitted to them", self.unseen)

    def compared(self, name: str, note: str, pictures: Tensor) -> PictureSet:
        """The row of what networks draw."""
        return self._row(name, note, pictures, *map(_share, self.covered(pictures)))

    def _row(
        self, name: str, note: str, pictures: Tensor, precision: Share | None = None, recall: Share | None = None
    ) -> PictureSet:
        distance = self.nearest(pictures)[0]
        return PictureSet(name, note, distance.median().item(), _share(distance < self.close), precision, recall)

    def no_copies(self, pictures: Tensor) -> Verdict:
        """Whether sampled networks draw pictures of the training networks again."""
        share = _share(self.nearest(pictures)[0] < self.close)
        test = (
            "share of samples that are closer to a training picture than 99 % of unseen pictures are: an interval "
            "above 5 % fails, one below passes"
        )
        outcome: Outcome = "fail" if share.low > 0.05 else "pass" if share.high < 0.05 else "open"
        words = f"{share.value:.1%} of the samples are that close ({share.low:.1%} to {share.high:.1%})."
        return Verdict("the pictures are no copies", outcome, words, test)

    def better(self, pictures: Tensor, gaussian: Tensor) -> Verdict:
        """Whether samples are more like unseen pictures than a Gaussian's."""
        ours, others = self.covered(pictures), self.covered(gaussian)
        gains = [_difference(a, b, paired) for a, b, paired in zip(ours, others, (False, True), strict=True)]
        words = ", ".join(
            f"{name} {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
            for name, gain in zip(("precision", "recall"), gains, strict=True)
        )
        outcome: Outcome = "open"
        if all(gain.low > 0 for gain in gains):
            outcome = "pass"
        elif any(gain.high < 0 for gain in gains) or all(gain.high < 0.02 for gain in gains):
            outcome = "fail"
        return Verdict(
            "samples are more like real pictures than a Gaussian's",
            outcome,
            f"The samples' minus the Gaussian's: {words}.",
            "95 % intervals of both differences: both above 0 pass, one below 0 or both below 0.02 fail",
        )


def _share(hits: Bool[Tensor, " n"]) -> Share:
    """A share with its 95 % interval (Wilson 1927)."""
    n, p, z = len(hits), hits.double().mean().item(), 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Share(p, max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n)))


def _difference(a: Bool[Tensor, " n"], b: Bool[Tensor, " n"], paired: bool) -> Share:
    """Difference of two shares with its 95 % interval."""
    value = (a.double().mean() - b.double().mean()).item()
    if paired:
        variance = (a.double() - b.double()).var().item() / len(a)
    else:
        variance = a.double().var().item() / len(a) + b.double().var().item() / len(b)
    half = 1.959964 * math.sqrt(variance)
    return Share(value, value - half, value + half)


def _own(training: Collection, pictures: Tensor) -> Tensor:
    """The picture of each training network."""
    numbers = [record.data for record in training.records]
    for number in numbers:
        if number is None or not 0 <= number < len(pictures):
            raise InputError(
                f"a training network belongs to picture {number}, and the task has {len(pictures)}: give the task that "
                "the networks were trained on"
            )
    return pictures[torch.tensor(numbers)]


def _bright(pictures: Tensor, what: str) -> Tensor:
    """Pictures as they are, if they can be compared with drawn ones, which are cut to brightness from 0 to 1."""
    low, high = (end.item() for end in torch.aminmax(pictures))
    if low < 0 or high > 1:
        raise InputError(
            f"the {what} have values from {low:.3g} to {high:.3g}: pictures are compared by brightness from 0 to 1, so "
            "rescale them before networks are fitted"
        )
    return pictures


def _gaussian(training: Collection, samples: Collection, components: int, seed: int) -> Collection:
    """As many networks from a Gaussian of the training networks' codes, of the samples' density."""
    few = min(checks.count(components, "components", at_least=1), len(training) - 1)
    density = samples.densities.median().item()
    made = Baselines(training, training, len(samples), density, few, symmetry=None, seed=seed)
    return made.pruned(made.gaussian())


def _finite(pictures: Tensor, name: str) -> Tensor:
    broken = int((~pictures.isfinite().flatten(1).all(1)).sum())
    if broken:
        raise InputError(f"{broken} of the networks in {name} draw NaN or infinite values: look at their weights first")
    return pictures


def _shown(unseen: Tensor, training: Tensor, drawn: Mapping[str, Tensor], judge: _Judge) -> Sequence[ShownPictures]:
    rows = {UNSEEN: unseen, "training pictures": training}
    for name, pictures in drawn.items():
        rows["training networks" if name == "training" else name] = pictures
        if name == SAMPLES:
            rows["nearest training"] = judge.training[judge.nearest(pictures[:_SHOWN])[1]]
    return [ShownPictures(name, _bytes(pictures[:_SHOWN])) for name, pictures in rows.items()]


def _bytes(pictures: Tensor) -> list[list[list[list[int]]]]:
    """Brightness from 0 to 255, channels last."""
    return pictures.clamp(0, 1).mul(255).round().int().permute(0, 2, 3, 1).tolist()

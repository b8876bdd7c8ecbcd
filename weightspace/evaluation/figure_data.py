"""The figures' data: codes, spectrum, lines between networks, overlaps of masks, filters, confusion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.compress import FittedPCA
from weightspace.evaluation.connectivity import barriers
from weightspace.evaluation.metrics import predictive
from weightspace.evaluation.parts import Part
from weightspace.evaluation.predictions import Predictions, ScoredPredictions
from weightspace.masks.overlap import overlap_matrix
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.report.results import FigureData, Filters, Lines
from weightspace.tasks.task import Task

_POINTS = 300  # of a group in the plane of codes
_MASKS = 12  # of each side in the overlap matrices
_PAIRS = 4
_STEPS = 7
_UNITS = 12


@dataclass(frozen=True)
class FigureInputs:
    """What the figures are drawn from.

    Args:
        samples: Samples in canonical form.
        training: Training networks in canonical form.
        original_samples: Samples as they were passed in.
        original_training: Training networks as they were passed in.
        groups: Groups to show in the plane of codes, in canonical form.
        scored: Groups whose ensembles' confusions are shown, if they are classifiers of one label.
        pca: Principal components of the training networks.
        task: The task.
        recalibrated: Estimates BatchNorm statistics of networks at the ends of lines.
        device: Device to compute on.
    """

    samples: Collection
    training: Collection
    original_samples: Collection
    original_training: Collection
    groups: Mapping[str, Collection]
    scored: Mapping[str, ScoredPredictions]
    pca: FittedPCA
    task: Task
    recalibrated: Callable[[Collection], Collection]
    device: str = "cpu"


@dataclass(frozen=True)
class Figures:
    """The figures' data as one part of an evaluation.

    Args:
        inputs: What the figures are drawn from.
    """

    inputs: FigureInputs

    @property
    def parts(self) -> Sequence[Part]:
        return [Part("figures", "figures", FigureData)]

    def measure(self, i: int) -> FigureData:
        assert i == 0
        return figure_data(self.inputs)


def figure_data(inputs: FigureInputs) -> FigureData:
    """Collect what the figures show beyond the tables."""
    samples, training, task = inputs.samples, inputs.training, inputs.task
    overlaps: dict[str, list[list[float | None]]] = {}
    if not (samples.dense or training.dense):
        overlaps["as given"] = _overlaps(inputs.original_samples, inputs.original_training)
        overlaps["aligned"] = _overlaps(samples, training)
    return FigureData(
        spectrum=inputs.pca.explained_variance_ratio.tolist(),
        codes={name: _codes(inputs.pca, networks, inputs.device) for name, networks in inputs.groups.items()},
        lines=_lines(samples, training, inputs.original_training, task, inputs.recalibrated, inputs.device),
        overlaps=overlaps,
        overlap_training=min(_MASKS, len(training)),
        filters=_filters(samples, training, task),
        confusion={
            name: predictive.confusion(scored.predictions.joint[0], task.output_kind.targets(task.test.y)).tolist()
            for name, scored in inputs.scored.items()
            if isinstance(scored.predictions, Predictions)
        },
    )


def _codes(pca: FittedPCA, networks: Collection, device: str) -> list[tuple[float, float]]:
    shown = networks[:_POINTS]
    two = FittedPCA(pca.mean, pca.components[:2], pca.variances[:2], pca.total_variance, pca.networks)
    codes = torch.cat([two.transform(shown[rows].weights, device=device) for rows in blocks(len(shown), 64)])
    scaled = codes.double() / two.variances.sqrt()
    padded = torch.nn.functional.pad(scaled, (0, 2 - scaled.shape[1]))  # networks may differ in one direction only
    return [(x, y) for x, y in padded.tolist()]


def _lines(
    samples: Collection,
    training: Collection,
    unaligned: Collection,
    task: Task,
    recalibrated: Callable[[Collection], Collection],
    device: str,
) -> dict[str, Lines]:
    k = min(_PAIRS, len(samples), len(training))
    samples, training, unaligned = (recalibrated(part[: 2 * k]) for part in (samples, training, unaligned))

    def between(a: Collection, b: Collection) -> Lines:
        # Masks do not matter on a line, and the two sides may not both have them.
        ends = Collection(
            a.layout,
            torch.cat([a.weights, b.weights]),
            architecture=training.architecture,
            buffers={n: torch.cat([a.buffers[n], b.buffers[n]]) for n in a.buffers},
        )
        pairs = [(i, len(a) + i) for i in range(len(a))]
        lines = barriers(ends, task, pairs=pairs, points=_STEPS, device=device)
        return Lines(lines[0].positions, [line.losses for line in lines], [line.scores for line in lines])

    result = {"sample to training network": between(samples[:k], training[:k])}
    if len(samples) >= 2 * k:
        result["sample to sample"] = between(samples[:k], samples[k : 2 * k])
    if len(training) >= 2 * k:
        result["training networks, aligned"] = between(training[:k], training[k : 2 * k])
        result["training networks, not aligned"] = between(unaligned[:k], unaligned[k : 2 * k])
    return result


def _overlaps(samples: Collection, training: Collection) -> list[list[float | None]]:
    prunable = training.layout.prunable
    masks = torch.cat([training[:_MASKS].masks[:, prunable], samples[:_MASKS].masks[:, prunable]])
    rows = overlap_matrix(masks, masks).tolist()
    return [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(rows)]


def _filters(samples: Collection, training: Collection, task: Task) -> Filters | None:
    first = training.layout.weights[0]
    example = task.train.head(1).x
    if not isinstance(example, Tensor) or example.ndim != 4:
        return None
    shape = example.shape[1:]
    if len(first.shape) == 4:
        images = first.shape
    elif first.shape[1] == shape.numel():
        images = (first.shape[0], *shape)
    else:
        return None
    if min(images[-2:]) < 2:
        return None
    chosen = [*training[: min(2, len(training))].weights, *samples[: min(2, len(samples))].weights]
    at = training.layout.slices[first.name]
    stacked: Float[Tensor, "n units h w"] = torch.stack([w[at] for w in chosen]).reshape(-1, *images).mean(2)
    busiest = stacked.abs().sum((0, 2, 3)).topk(min(_UNITS, len(stacked[0]))).indices
    labels = [f"training {i}" for i in range(min(2, len(training)))] + [
        f"sample {i}" for i in range(min(2, len(samples)))
    ]
    rounded = (stacked[:, busiest].double() * 1e4).round() / 1e4
    return Filters(labels, rounded.tolist())

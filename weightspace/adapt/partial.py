"""Partial adapters: whole rows of B and columns of A are trained, and the rest is absent.

Damirchi et al. 2025, partial low-rank adaptation (arXiv 2512.22495). With u and v one at what is trained, an adapter is
(u B)(A v): it changes only the rows u and the columns v of a weight.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.adapt.lines import Choice, Lines, counts_of, line_scores, random_lines, top_lines
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, seeds
from weightspace.tasks.measuring import measure
from weightspace.tasks.task import Task

_STEPS = 64  # ratios are multiples of one part in so many


class PartialAdapters(ABC):
    """Which rows of B and columns of A are trained: a frozen dataclass with the method `ratios`, and these fields.

    Args:
        density: Share of all rows and columns that is trained; None takes the ratios as they are.
        lines: Which rows and columns of a layer are trained, once it is known how many.
    """

    density: float | None
    lines: Choice

    @abstractmethod
    def ratios(self, base: Collection, task: Task, layers: Sequence[str], rank: int) -> dict[str, float]:
        """Share of the rows and columns of each layer that is wanted.

        Args:
            base: The base; its first network is read.
            task: Task that adapters are trained on.
            layers: Names of the weights that get an adapter.
            rank: Rank of the adapters.
        """

    def choose(
        self, base: Collection, task: Task, layers: Sequence[str], rank: int, adapter_seeds: Sequence[int]
    ) -> list[dict[str, Lines]]:
        """What is trained of each layer, for each adapter.

        Args:
            base: The base; its first network is read.
            task: Task that adapters are trained on.
            layers: Names of the weights that get an adapter.
            rank: Rank of the adapters.
            adapter_seeds: Seed of each adapter.

        Raises:
            InputError: The density is too small, or the base does not do the task; see `LayerRatios`.
        """
        tensors = base.layout.tensors(base.weights[:1])
        weights = {name: tensors[name][0] for name in layers}
        sizes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
        wanted = self.ratios(base, task, layers, rank)
        scored = self.lines == "scored"
        scores = {name: line_scores(weight, rank) for name, weight in weights.items()} if scored else {}
        chosen: list[dict[str, Lines]] = []
        for seed in adapter_seeds:
            counts = counts_of(self._own(wanted, seed), sizes, self.density)
            chosen.append(
                {
                    name: top_lines(scores[name], counts[name])
                    if scored
                    else random_lines(counts[name], sizes[name], seed, name)
                    for name in layers
                }
            )
        return chosen

    def _own(self, ratios: dict[str, float], seed: int) -> dict[str, float]:  # noqa: ARG002
        """The ratios of one adapter."""
        return ratios

    def to_json(self) -> dict[str, Any]:
        """Name and settings, for records."""
        return {"name": type(self).__name__, **asdict(self)}  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class UniformRatio(PartialAdapters):
    """The same share of rows and columns in every layer.

    Exactly round(density * (rows + columns of all layers)) are trained, each `rank` numbers.

    Args:
        density: Share of the rows of B and columns of A that is trained, in (0, 1].
        lines: Which: any ("random", from the seed of each adapter) or those that carry most of the `rank` top singular
            vectors of the base ("scored", the same in all adapters).

    Raises:
        InputError: A setting lies outside its range.
    """

    density: float = 0.25  # pyright: ignore[reportIncompatibleVariableOverride]
    lines: Choice = "random"

    def __post_init__(self) -> None:
        checks.settle(self, checks.fraction, "density")
        checks.settle(self, checks.one_of, "lines", choices=("random", "scored"))

    def ratios(self, base: Collection, task: Task, layers: Sequence[str], rank: int) -> dict[str, float]:  # noqa: ARG002
        """Share of the rows and columns of each layer that is wanted: the same for all.

        Args:
            base: The base; its first network is read.
            task: Task that adapters are trained on.
            layers: Names of the weights that get an adapter.
            rank: Rank of the adapters.
        """
        return dict.fromkeys(layers, self.density)


@dataclass(frozen=True)
class LayerRatios(PartialAdapters):
    """A share for each layer, from the pre-trained weights and a few labelled samples.

    Rows and columns of a weight are scored by how much of its `rank` top singular vectors they carry. The share of a
    layer is the smallest with which the base, of this weight only the best rows and columns kept and all others zero,
    still has `keeps` times its own main metric on the samples; every layer is looked at alone. Shares are multiples of
    1/64, found by bisection, as if more lines never did worse. These counts say how many rows and columns are trained;
    which ones is another choice.

    The base must do the task already, somewhat: train its head on it first.

    Args:
        keeps: Part of the base's metric that must be left, in (0, 1].
        samples: Number of training samples that are looked at.
        lines: Which rows and columns are trained, once it is known how many: any ("random") or the best ("scored").
        density: Share of all rows and columns; the shares of the layers are then multiplied by one factor, so that
            exactly round(density * lines) are trained. None takes them as they are.
        permuted: As a control, deal the shares out to other layers, by the seed of each adapter. Without a density,
            adapters then train different numbers of lines where layers have different shapes.
        seed: Seed of the samples.

    Raises:
        InputError: A setting lies outside its range.
    """

    keeps: float = 0.9
    samples: int = 64
    lines: Choice = "random"
    density: float | None = None
    permuted: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.fraction, "keeps")
        checks.settle(self, checks.count, "samples", at_least=1)
        checks.settle(self, checks.one_of, "lines", choices=("random", "scored"))
        checks.settle_given(self, checks.fraction, "density")
        checks.settle(self, checks.flag, "permuted")
        checks.settle(self, checks.seed, "seed")

    def ratios(self, base: Collection, task: Task, layers: Sequence[str], rank: int) -> dict[str, float]:
        """Share of the rows and columns of each layer that is wanted.

        Args:
            base: The base; its first network is read.
            task: Task whose first metric says what the base is worth.
            layers: Names of the weights that get an adapter.
            rank: Rank of the adapters.

        Raises:
            InputError: More of the task's main metric is not better, or the base is worth nothing on the samples.
        """
        probe = _Probe(base, task, self._rows(task))
        whole = probe.worth({})
        if not whole > probe.floor:
            raise InputError(
                f"the base has {probe.metric} {whole:.3g} on {len(probe.data)} samples, which one constant answer has "
                f"too ({probe.floor:.3g}), so that it cannot be asked which lines it needs: train its head on the task "
                "first, or use UniformRatio"
            )
        tensors = base.layout.tensors(base.weights[:1])
        found: dict[str, float] = {}
        for name in layers:
            weight = tensors[name][0]
            found[name] = self._least(probe, name, weight, line_scores(weight, rank), self.keeps * whole)
        return found

    def _least(self, probe: "_Probe", name: str, weight: Tensor, scores: tuple[Tensor, Tensor], enough: float) -> float:
        low, high = 0, _STEPS  # the last that is too few, and the first that is enough
        while high - low > 1:
            middle = (low + high) // 2
            counts = counts_of({name: middle / _STEPS}, {name: (weight.shape[0], weight.shape[1])}, None)
            kept = top_lines(scores, counts[name])
            pruned = weight * kept.rows[:, None] * kept.columns
            low, high = (low, middle) if probe.worth({name: pruned}) >= enough else (middle, high)
        return high / _STEPS

    def _rows(self, task: Task) -> Tensor:
        if self.samples > len(task.train):
            raise InputError(f"samples must be at most {len(task.train)}, the training samples, got {self.samples}")
        draw = seeds.generator(self.seed, "samples of layer ratios")
        return torch.randperm(len(task.train), generator=draw)[: self.samples]

    def _own(self, ratios: dict[str, float], seed: int) -> dict[str, float]:
        if not self.permuted:
            return ratios
        order = torch.randperm(len(ratios), generator=seeds.generator(seed, "ratios of other layers")).tolist()
        values = list(ratios.values())
        return {name: values[i] for name, i in zip(ratios, order, strict=True)}


class _Probe:
    """What the base is worth on a few samples, with some of its weights replaced.

    Args:
        base: The base; its first network is read.
        task: Task that measures it.
        rows: Numbers of the training samples.
    """

    def __init__(self, base: Collection, task: Task, rows: Tensor) -> None:
        if not task.scores or not task.scores[0].higher_is_better:
            got = task.scores[0].name if task.scores else "its loss alone"
            raise InputError(
                f"LayerRatios keeps a part of a metric of which more is better, such as accuracy; task {task.name!r} "
                f"has {got}: give it one (metrics=), or use UniformRatio"
            )
        self.base, self.task, self.data = base[:1], task, task.train.batch(rows)
        self.module = base.architecture.build_seeded(0)
        self.metric = task.scores[0].name
        self.floor = _constant_answer(self.data.y) if self.metric == "accuracy" else 0.0

    def worth(self, replaced: Mapping[str, Tensor]) -> float:
        """The main metric.

        Args:
            replaced: Tensors in the place of the base's, by name.
        """
        weights = self.base.weights.clone()
        for name, tensor in replaced.items():
            weights[0, self.base.layout.slices[name]] = tensor.flatten()
        at = (self.base.layout, weights, self.base.buffers)
        return measure(self.task, self.module, *at, self.data)[self.metric][0]


def _constant_answer(y: Any) -> float:
    """The accuracy of the one answer that is right most often; 0 for targets that are no classes."""
    plain = isinstance(y, Tensor) and not y.is_floating_point() and y.ndim == 1
    return y.unique(return_counts=True)[1].max().item() / len(y) if plain else 0.0


def adapter_masks(layout: Layout, chosen: Sequence[Mapping[str, Lines]]) -> Bool[Tensor, "n d"]:
    """Masks of a collection of adapters: what is absent is False, and all else that it holds True.

    Args:
        layout: Layout of the adapters.
        chosen: What is trained of each layer, by the name of its weight, for each adapter.
    """
    masks = torch.ones(len(chosen), layout.size, dtype=torch.bool)
    shapes = {entry.name: entry.shape for entry in layout.parameters}
    for mask, layers in zip(masks, chosen, strict=True):
        for name, lines in layers.items():
            a, b = (f"{name.removesuffix('.weight')}.lora_{part}.weight" for part in "AB")
            mask[layout.slices[a]] = lines.columns[None, :].expand(shapes[a]).flatten()
            mask[layout.slices[b]] = lines.rows[:, None].expand(shapes[b]).flatten()
    return masks


def changed_entries(a: Float[Tensor, "n r in"], b: Float[Tensor, "n out r"]) -> Bool[Tensor, "n out in"]:
    """True where the masks of A and B leave something of the change B A.

    Args:
        a: Masks of A.
        b: Masks of B.
    """
    return b.any(2)[:, :, None] & a.any(1)[:, None, :]

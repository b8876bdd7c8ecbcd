"""The command line's verbs that adapt networks by small changes, and merge the changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from weightspace.adapt import (
    DARE,
    TIES,
    LayerRatios,
    LoRA,
    LoTA,
    Merger,
    PartialAdapters,
    Sum,
    TaskArithmetic,
    TaskVectors,
    UniformRatio,
)
from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Folders, Shared, open_collection, task_of
from weightspace.cli.rows import FewRows
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.starts import starts
from weightspace.storage.again import write_again

VECTORS = "vectors"
"""Folder of the task vectors inside that of a run."""


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """Lottery ticket adaptation: train the few weights that a first tuning changed most.

    OUT/vectors holds the task vectors, OUT/adapted the run.

    Args:
        base: Folder of the networks to begin at; add @START:STOP to take a part.
        out: Folder to write.
        density: Fraction of the weights that is trained.
        calibration: Length of the first tuning, such as 30it; None is the task's recipe.
        on: Names or globs of the weights to choose among; none for all.
        whole: Names or globs of tensors that are trained entirely, such as a new head.
        apart_from: Folder of task vectors whose weights stay as they are.
        by: How weights are chosen: by the change of the first tuning, or as a control by magnitude or at random.
        task: Task to train on; None is what the networks' records say.
        common: Options that mean the same in every verb.
    """

    base: Folder
    out: Path
    density: float = 0.1
    calibration: str | None = None
    on: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    apart_from: Path | None = None
    by: Literal["change", "magnitude", "random"] = "change"
    task: str | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Adapt the networks."""
        base = open_collection(self.base, self.common, self.task)
        task = task_of(base, self.task, self.common)
        apart = None if self.apart_from is None else _vectors(self.apart_from, base)
        lota = LoTA(self.density, self.calibration, self.on, self.whole, apart, self.by)
        found = lota.find(base, task, folder=self.out / "adapted", device=self.common.device)
        if not (self.out / VECTORS).exists():
            found.save(self.out / VECTORS)
        report_done(found, self.out / VECTORS)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Train low-rank adapters (LoRA) beside one network.

    Args:
        base: Folder of the network; add @I:I+1 to take one of several.
        out: Folder to write: a collection of adapters.
        n: Number of adapters, each with its own start and order of the data.
        rank: Rank of the changes.
        alpha: Numerator of their factor, alpha / rank; None is the rank.
        on: Names or globs of the weights of linear layers that get an adapter; none for all.
        whole: Names or globs of parameters that are trained entirely, such as a head.
        pattern: Rows of B and columns of A that are trained: all; the same share of every layer (uniform); or a share
            that each layer needs, as the base shows on a few samples (ratios).
        density: Share of all rows and columns, for uniform (0.25 if not given) and ratios (what the layers need).
        keeps: Part of the base's metric that must be left, for ratios.
        samples: Number of training samples that ratios look at.
        lines: Which rows and columns of a layer are trained: random or scored.
        task: Task to train on; None is what the network's record says.
        seed: Seed of the adapters.
        common: Options that mean the same in every verb.
    """

    base: Folder
    out: Path
    n: int = 1
    rank: int = 8
    alpha: float | None = None
    on: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    pattern: Literal["all", "uniform", "ratios"] = "all"
    density: float | None = None
    keeps: float = 0.9
    samples: int = 64
    lines: Literal["random", "scored"] = "random"
    task: str | None = None
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Train the adapters."""
        pattern = self._pattern()
        base = open_collection(self.base, self.common, self.task)
        if len(base) != 1:
            raise InputError(f"adapters share one base, and {self.base} has {len(base)} networks: take one, with @0:1")
        if self.n < 1:
            raise InputError(f"--n must be at least 1, got {self.n}")
        task = task_of(base, self.task, self.common)
        copies = starts(base[[0] * self.n], seed=self.seed)
        found = LoRA(self.rank, self.alpha, self.on, self.whole, pattern).find(
            copies, task, folder=self.out, device=self.common.device
        )
        report_done(found, self.out)

    def _pattern(self) -> PartialAdapters | None:
        if self.pattern == "uniform":
            return UniformRatio(0.25 if self.density is None else self.density, self.lines)
        if self.pattern == "ratios":
            return LayerRatios(self.keeps, self.samples, self.lines, self.density)
        if self.density is not None or self.lines != "random":
            raise InputError("--density and --lines need --pattern uniform or ratios: --pattern all trains everything")
        return None


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge task vectors into one that serves all their tasks.

    Args:
        vectors: Folders of task vectors, as `weightspace adapt lota` writes them.
        base: Folder of the networks that they belong to, which says how the networks are built.
        out: Folder to write: task vectors.
        by: Way to merge: their sum; the sum times --scale; TIES; or DARE, whose rest is summed.
        density: Fraction of each vector that TIES keeps.
        scale: Factor of the result, for task-arithmetic and ties.
        drop: Fraction of entries that DARE drops.
        seed: Seed of what DARE drops.
        common: Options that mean the same in every verb.
    """

    vectors: Folders
    base: str
    out: Path
    by: Literal["sum", "task-arithmetic", "ties", "dare"] = "sum"
    density: float = 0.2
    scale: float = 1.0
    drop: float = 0.9
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Merge the vectors."""
        base = open_collection(self.base, self.common)
        mergers: Mapping[str, Merger] = {
            "sum": Sum(),
            "task-arithmetic": TaskArithmetic(self.scale),
            "ties": TIES(self.density, self.scale),
            "dare": DARE(self.drop, seed=self.seed),
        }
        merged = mergers[self.by].fit([_vectors(Path(folder), base) for folder in self.vectors])
        write_again(self.out, merged.save)
        report_done(merged, self.out)


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Add task vectors to networks.

    Args:
        vectors: Folder of task vectors.
        base: Folder of the networks that are changed; add @START:STOP to take a part.
        out: Folder to write: networks.
        scale: Factor of the changes.
        common: Options that mean the same in every verb.
    """

    vectors: Folder
    base: str
    out: Path
    scale: float = 1.0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Write the changed networks."""
        base = open_collection(self.base, self.common)
        changed = _vectors(Path(self.vectors), base).on(base, scale=self.scale)
        write_again(self.out, changed.save)
        report_done(changed, self.out)


def _vectors(folder: Path, base: Collection) -> TaskVectors:
    """Task vectors of a folder, or of a run of `adapt lota`."""
    inner = folder / VECTORS
    return TaskVectors.load(inner if inner.is_dir() else folder, factory=base.architecture.factory)


VERBS: Mapping[str, Any] = {"lota": Sparse, "lora": LowRank, "rows": FewRows, "merge": Merge, "apply": Apply}
"""The verbs behind `weightspace adapt`."""

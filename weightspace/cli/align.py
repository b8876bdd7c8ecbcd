"""The command line's verb `align`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import AvoidSubcommands, OmitArgPrefixes, SuppressFixed

from weightspace.align import ActivationMatching, GrowingMean, Star, StraightThrough, WeightCost, WeightMatching
from weightspace.align.begun import KINDS, as_begun
from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, open_collection, task_of
from weightspace.cli.types import population_name
from weightspace.cli.workers import workers_of
from weightspace.errors import InputError
from weightspace.evaluation import alignment_report
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.runtime.executor import Executor
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.task import Task

_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Align:
    """Bring networks into one basin by permuting their hidden units; each network's function stays the same.

    Args:
        networks: Folder of networks; add @START:STOP to take a part.
        out: Folder to write.
        to: Collection to whose reference the networks are aligned; None aligns them to their own.
        method: What is matched: weights, activations on training data, or the loss of the midpoint.
        matching: How weights are matched.
        reference_index: Number of the network in the middle of a star, or that the other methods match to.
        task: Task that the networks were trained on; None is what their records say. It gives example inputs for
            networks that are not built in, training data, and the report's test split.
        report: Number of networks that are measured before and after, on a page; 0 leaves it out.
        workers: Number of processes that match networks, one thread each.
        ray: Whether a Ray cluster matches them instead (RAY_ADDRESS, or one on this machine).
        common: Options that mean the same in every verb.
    """

    networks: Folder
    out: Path
    to: str | None = None
    method: Literal["weights", "activations", "straight-through"] = "weights"
    matching: SuppressFixed[AvoidSubcommands[OmitArgPrefixes[WeightMatching]]] = field(default_factory=WeightMatching)
    reference_index: int = 0
    task: str | None = None
    report: int = 0
    workers: int = 1
    ray: bool = False
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Align the networks."""
        networks = open_collection(self.networks, self.common, self.task)
        target = networks if self.to is None else open_collection(self.to, self.common, self.task)
        matching, reference = self._checked()
        unknown = networks.architecture.example() is None
        needed = self.task or self.report or self.method != "weights" or unknown
        task = task_of(networks, self.task, self.common) if needed else None
        example = target.architecture.example() if task is None else task.train.head(8).x
        matching, kinds = as_begun(matching, target, example, self.out)
        config = {
            "method": self.method,
            "reference": reference,
            "population": spelled_text(matching.population),
            "cost": spelled_text(matching.cost),
            "balance": matching.balance,
            "fix_unknown": matching.fix_unknown,
            **({"rotate": True} if matching.rotate else {}),
            "task": _needed(task).to_json() if self.method != "weights" else None,
            **({KINDS: kinds} if kinds else {}),
        }
        with workers_of(self.workers, self.ray, "align", self.common) as executor:
            transform: Callable[[Collection], Collection] | None = None

            def make(rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
                nonlocal transform
                transform = transform or self._fitted(matching, reference, target, task, executor)
                part = transform(networks[rows])
                tick(1)
                return part

            aligned = in_blocks(
                make,
                architecture=networks.architecture,
                count=len(networks),
                block=min(_BLOCK, len(networks)),
                ticks=1,
                what="aligning",
                folder=self.out,
                stage="align",
                config=config,
                inputs={"networks": networks.fingerprint(), "to": target.fingerprint()},
            )
        report_done(aligned, self.out)
        if self.report:
            self._write_report(networks, aligned, _needed(task), matching, reference)

    def _checked(self) -> tuple[WeightMatching, int]:
        """The matching with its star's network, and the number of the reference network; refuses options without
        effect.
        """
        if self.report == 1 or self.report < 0:
            raise InputError(f"--report counts networks: 0, or at least 2; got {self.report}")
        matching, reference = self.matching, self.reference_index
        population = matching.population
        if self.method != "weights" and (population != GrowingMean() or matching.cost != WeightCost()):
            raise InputError(f"--method {self.method} matches to one network: --population and --cost are for weights")
        if self.method != "weights" and matching.rotate:
            raise InputError(f"--method {self.method} finds permutations and signs: --rotate is for weights")
        if self.method != "weights":
            return matching, reference
        if isinstance(population, Star):
            reference = reference or population.network
            return replace(matching, population=Star(reference)), reference
        if reference:
            raise InputError(
                "--reference-index is the middle of a star: add --population star, got --population "
                f"{population_name(population)}"
            )
        return matching, reference

    def _fitted(
        self,
        matching: WeightMatching,
        reference: int,
        target: Collection,
        task: Task | None,
        executor: Executor | None,
    ) -> Callable[[Collection], Collection]:
        """What brings networks into the basin of the target's reference."""
        device = self.common.device
        if self.method == "activations":
            activations = ActivationMatching(reference, matching.symmetry, fix_unknown=matching.fix_unknown)
            fit = activations.fit(target, _needed(task).train.head(2000).x)
            return partial(fit.transform, device=device)
        if self.method == "straight-through":
            straight_through = StraightThrough(
                reference=reference, symmetry=matching.symmetry, fix_unknown=matching.fix_unknown
            )
            return partial(straight_through.fit(target, _needed(task)).transform, device=device)
        example = target.architecture.example() if task is None else task.train.head(8).x
        fitted = matching.fit(target, example=example, executor=executor, device=device)
        return partial(fitted.transform, executor=executor, device=device)

    def _write_report(
        self, networks: Collection, aligned: Collection, task: Task, matching: WeightMatching, reference: int
    ) -> None:
        weights = self.method == "weights"
        star = not weights or isinstance(matching.population, Star)
        settings = (
            f"Aligned by {self.method}{f' ({population_name(matching.population)})' if weights else ''}"
            f"{f' to network {reference}' if star else ''}, comparing {spelled_text(matching.cost)}, "
            f"{'balanced' if matching.balance and weights else 'not balanced'}"
            f"{', rotated' if matching.rotate else ''}; {self.networks}"
            f"{f', to the reference of {self.to}' if self.to else ''}; {self.report} of {len(networks)} networks are "
            f"shown."
        )
        report = alignment_report(
            networks,
            aligned,
            task,
            networks=self.report,
            settings=settings,
            reference=reference if star and self.to is None else None,
            device=self.common.device,
        )
        report.write(self.out)
        print(report)
        print(f"written to {self.out / 'alignment.html'}")


def _needed(task: Task | None) -> Task:
    assert task is not None
    return task

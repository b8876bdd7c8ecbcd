"""The command line's verb that prunes trained networks once and wins back what that lost."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, open_collection, task_of
from weightspace.cli.types import pattern_text
from weightspace.errors import InputError
from weightspace.masks.patterns import NM, Pattern
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.report.page import columns
from weightspace.sparse import recover
from weightspace.tasks.task import Task
from weightspace.training.measured import measured

_BLOCK = 16
_RECORD = "recovered"
_OF_RECOVERY = ("samples", "validation", "ridge", "memory_gb", "seed")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Prune trained networks once, by magnitude, and win back what that lost, without training.

    Args:
        networks: Folder of dense networks, such as `weightspace import` writes; add @START:STOP to take a part.
        out: Folder to write.
        pattern: Pattern of the masks: N of every M weights such as 2:4, a density, or NAME:VALUE such as erk:0.1; of
            some tensors alone, "2:4 only encoder.*".
        recover: Whether what is kept is refitted to the dense network's layers, and BatchNorm statistics are estimated
            anew, where validation data say so. Otherwise networks are pruned and left as they are.
        samples: Training inputs that are read.
        validation: The first validation samples, which choose; None reads all.
        ridge: Pull of the refit towards the weights as they are, in mean squares of a layer's inputs.
        task: Task that the networks were trained on; None is what their records say.
        memory_gb: Memory for what layers read and return, in GiB.
        seed: Seed of the draw of inputs.
        common: Options that mean the same in every verb.
    """

    networks: Folder
    out: Path
    pattern: Pattern = NM(2, 4)
    recover: bool = True
    samples: int = 1000
    validation: int | None = None
    ridge: float = 0.01
    task: str | None = None
    memory_gb: float = 1.0
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Write the pruned networks."""
        for option in () if self.recover else _OF_RECOVERY:
            if getattr(self, option) != getattr(Prune, option):
                raise InputError(f"--{option.replace('_', '-')} means nothing with --no-recover: leave one of them out")
        dense = open_collection(self.networks, self.common, self.task)
        if not dense.dense:
            raise InputError(f"{self.networks} holds networks that are sparse already: give the dense ones")
        task = task_of(dense, self.task, self.common) if self.recover else None
        config: dict[str, Any] = {"pattern": pattern_text(self.pattern)}
        if task is not None:
            settings = {
                "samples": self.samples,
                "validation": self.validation,
                "ridge": self.ridge,
                "memory": self.memory_gb,
                "seed": self.seed,
            }
            config |= {"task": task.to_json(), "recover": settings}

        def make(rows: slice, tick: Callable[[int], object], _checkpoint: Path | None) -> Collection:
            part = dense[rows]
            masks = self.pattern.mask(part.weights.abs(), part.layout)
            records = [record.without("metrics") for record in part.records]
            few = part.replace(weights=part.weights * masks, masks=masks, extras={}, records=records)
            made = few if task is None else self._recovered(few, part, task)
            tick(1)
            return made

        pruned = in_blocks(
            make,
            architecture=dense.architecture,
            count=len(dense),
            block=min(_BLOCK, len(dense)),
            ticks=1,
            what="pruning",
            folder=self.out,
            stage="prune",
            config=config,
            inputs={"networks": dense.fingerprint()},
        )
        report_done(pruned, self.out)
        if self.recover:
            print(_table(pruned))

    def _recovered(self, few: Collection, dense: Collection, task: Task) -> Collection:
        """The networks in the way that is best on validation data, with the scores of each in their records."""
        found = recover(
            few,
            dense,
            task,
            samples=self.samples,
            validation=self.validation,
            ridge=self.ridge,
            memory_gb=self.memory_gb,
            seed=self.seed,
            device=self.common.device,
        )
        own = measured(dense, task, samples=self.validation, device=self.common.device)
        before = [record.metrics[f"validation_{found.metric}"] for record in own.records]
        scores = {"dense": before, **found.scores}
        records = [
            record
            | {
                _RECORD: {
                    "metric": found.metric,
                    "way": found.chosen[i],
                    "scores": {way: values[i] for way, values in scores.items()},
                }
            }
            for i, record in enumerate(found.networks.records)
        ]
        return found.networks.replace(records=records)


def _table(pruned: Collection) -> str:
    """Mean validation score of each way, and how many networks it was chosen for."""
    told = [record[_RECORD] for record in pruned.records]
    chosen = Counter(one["way"] for one in told)
    ways = dict.fromkeys(way for one in told for way in one["scores"])
    rows = [
        [way, f"{fmean(one['scores'][way] for one in told):.4f}", "" if way == "dense" else f"{chosen[way]}"]
        for way in ways
    ]
    return "\n".join(columns([["way", f"validation {told[0]['metric']}", f"chosen, of {len(told)}"], *rows]))

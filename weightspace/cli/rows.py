"""The command line's verb for rows of an embedding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from weightspace import models
from weightspace.adapt import Rows, agreement
from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, open_collection, task_of
from weightspace.errors import InputError
from weightspace.models.bert import BERT, PADDING
from weightspace.runtime import trees
from weightspace.storage.again import write_again
from weightspace.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class FewRows:
    """Tune a matrix, such as an embedding, and keep the change of a few of its rows (KS-Lottery).

    OUT/vectors holds the task vectors of these rows, OUT/tuned the networks with the whole matrix tuned, OUT/trained
    the run that trains the rows alone. It is printed for how many test targets the two predict the same.

    Args:
        base: Folder of the networks to begin at; add @START:STOP to take a part.
        out: Folder to write.
        tensor: Name of the matrix, such as embedding.weight; each row is one token.
        by: How rows are chosen: by the Kolmogorov-Smirnov statistic of their numbers before and after, by the norm of
            their change, by how often their token occurs, or at random among those that occur.
        count: Number of rows.
        level: Level of significance instead of a number, for ks.
        how: Whether the rows are trained alone from the base, or copied from the tuned matrix.
        seed: Seed of a random choice.
        task: Task to tune on; None is what the networks' records say.
        common: Options that mean the same in every verb.
    """

    base: Folder
    out: Path
    tensor: str
    by: Literal["ks", "norm", "count", "random"] = "ks"
    count: int | None = None
    level: float | None = None
    how: Literal["train", "copy"] = "train"
    seed: int = 0
    task: str | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Choose the rows, and train or copy them."""
        rows = Rows(self.tensor, self.by, self.count, self.level, self.seed)
        base = open_collection(self.base, self.common, self.task)
        task = task_of(base, self.task, self.common)
        tokens, device = _tokens(task), self.common.device
        tuned = rows.tune(base, task, folder=self.out / "tuned", device=device)
        if self.how == "copy":
            found = rows.transfer(base, tuned, tokens)
        else:
            found = rows.find(base, task, tuned, tokens, folder=self.out / "trained", device=device)
        write_again(self.out / "vectors", found.save)
        report_done(found, self.out / "vectors")
        shares = agreement(found.on(base), tuned, task)
        print(f"predicts as the whole tuned matrix does: {sum(shares) / len(shares):.1%} of the test targets")


def _tokens(task: Task) -> Tensor:
    """The token numbers of the training texts, without the padding of BERT's."""
    numbers = trees.first(task.train.x)
    if numbers.is_floating_point():
        raise InputError(f"the inputs of {task.name!r} are no token numbers: rows are chosen in a task of texts")
    bert = issubclass(getattr(models, task.architecture.name, object), BERT)
    return numbers[numbers != PADDING] if bert else numbers

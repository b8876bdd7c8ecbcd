"""Rows of an embedding that carry what a tuning changed: KS-Lottery, and what it must be compared with.

Yuan et al. 2025, "KS-Lottery: Finding Certified Lottery Tickets for Multilingual Language Models" (arXiv 2402.02801).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.adapt.task_vectors import TaskVectors
from weightspace.adapt.train_only import train_only
from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Entry
from weightspace.networks.record import Extra
from weightspace.runtime import checks, seeds
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task

_RANKED = {"ks": "the statistic", "norm": "the norm of the change", "count": "the count", "random": "a draw"}
_DECODES = {"BERTMaskedWords": "embeddings.word_embeddings.weight"}  # an embedding that the network also decodes with


@dataclass(frozen=True)
class Rows:
    """A few rows of a matrix, such as tokens of an embedding, chosen by what a tuning of the matrix did to them.

    The statistic of "ks" compares the numbers of a row before and after as two samples: it sees their distribution
    alone. Always stand "norm", "count" and "random" beside it: frequent tokens change most. No certificate is claimed:
    `agreement` measures how often networks predict as the tuned ones do.

    Args:
        tensor: Name of the matrix; each row is one unit, such as a token.
        by: How rows are ranked: the Kolmogorov-Smirnov statistic between the row before and after ("ks"), the norm of
            its change ("norm"), how often its token occurs ("count"), or at random, among the tokens that occur.
        count: Number of rows.
        level: Level of significance of the test, instead of a number, for "ks": all rows whose statistic is above
            sqrt(-ln(level / 2) / q), for q numbers in a row.
        seed: Seed of "random".

    Raises:
        InputError: There is neither a number nor a level, or both, or a setting lies outside its range.
    """

    tensor: str
    by: Literal["ks", "norm", "count", "random"] = "ks"
    count: int | None = None
    level: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.text(self.tensor, "tensor", "embedding.weight")
        checks.one_of(self.by, "by", list(_RANKED))
        checks.settle_given(self, checks.count, "count", at_least=1)
        checks.settle_given(self, checks.number, "level")
        checks.settle(self, checks.seed, "seed")
        if (self.count is None) == (self.level is None):
            raise InputError("give a number of rows (count=18), or a level of significance (level=0.05) for by='ks'")
        if self.level is not None and (self.by != "ks" or not 0 < self.level < 1):
            raise InputError(f"a level in (0, 1) belongs to by='ks', got level={self.level} and by={self.by!r}")

    def chosen(self, base: Collection, tuned: Collection, tokens: Tensor | None = None) -> Bool[Tensor, "n rows"]:
        """The rows, of each network.

        Args:
            base: Networks before the tuning.
            tuned: Networks after it, as many.
            tokens: Numbers of all rows that the data use, of any shape; needed by "count" and "random", and else the
                rows that may be chosen.

        Raises:
            InputError: The tensor is no matrix or is tied, tokens are missing, or fewer rows occur than are asked for.
        """
        check_networks(base, "base")
        check_networks(tuned, "tuned")
        checks.given(tokens, "tokens", checks.tensor)
        entry = self._entry(base)
        base.layout.require_tensors(tuned.layout, "the tuned networks")
        if len(base) != len(tuned):
            raise InputError(f"tuned must be as many networks as base, got {len(tuned)} and {len(base)}")
        used = self._used(tokens, entry.shape[0])
        scores = self._scores(base, tuned, used, entry)
        if self.level is not None:
            return (scores > math.sqrt(-math.log(self.level / 2) / entry.shape[1])) & (used > 0)
        scores = scores.masked_fill(used == 0, -math.inf)
        if (available := int((used > 0).sum())) < self.count:  # pyright: ignore[reportOperatorIssue]
            raise InputError(f"{self.count} rows are asked for, and the tokens use {available}: ask for fewer")
        best = scores.sort(dim=-1, descending=True, stable=True).indices[:, : self.count]
        return torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, best, True)

    def transfer(self, base: Collection, tuned: Collection, tokens: Tensor | None = None) -> TaskVectors:
        """The changes of these rows alone, without any training (partial transfer).

        Args:
            base: Networks before the tuning.
            tuned: Networks after it, as many.
            tokens: Numbers of all rows that the data use; see `chosen`.
        """
        trained = self._trained(base, self.chosen(base, tuned, tokens))
        changes = (tuned.weights - base.weights) * trained
        return TaskVectors.between(
            base.replace(weights=base.weights + changes, extras={Extra.TRAINED: trained.to(changes.dtype)}), base
        )

    def find(
        self,
        base: Collection,
        task: Task,
        tuned: Collection,
        tokens: Tensor | None = None,
        *,
        folder: str | Path | None = None,
        device: str = "auto",
    ) -> TaskVectors:
        """These rows, trained alone from the base (partial tuning).

        Args:
            base: Networks before the tuning.
            task: Task to train on.
            tuned: Networks after a tuning of the matrix, which say which rows are trained; `tune` makes them.
            tokens: Numbers of all rows that the data use; see `chosen`.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.
        """
        check_run(base, task, folder, device, name="base")
        trained = self._trained(base, self.chosen(base, tuned, tokens))
        return train_only(base, task, trained, method=self._method(), folder=folder, device=device)

    def tune(
        self, base: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """The networks after a tuning of the whole matrix, and of nothing else.

        Args:
            base: Networks before.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.
        """
        check_run(base, task, folder, device, name="base")
        entry = self._entry(base)
        trained = self._trained(base, torch.ones(len(base), entry.shape[0], dtype=torch.bool))
        method = {"name": "Rows", "tensor": self.tensor, "by": "all"}
        return train_only(base, task, trained, method=method, folder=folder, device=device).on(base)

    def _entry(self, base: Collection) -> Entry:
        """The matrix."""
        layout, architecture = base.layout, base.architecture
        tied = [alias for alias, name in layout.aliases if self.tensor in (alias, name)]
        if tied:
            raise InputError(
                f"{self.tensor} is tied to {tied[0]}: as a decoder it moves in every row at every step, so that its "
                "rows say nothing. Untie it first, adapt.untie(networks, ...)"
            )
        if self.tensor == _DECODES.get(architecture.name) and architecture.arguments.get("tied", True):
            raise InputError(
                f"{self.tensor} is the decoder of {architecture.name}, too, and as such moves in every row at every "
                "step, so that its rows say nothing. Make the task and its networks with tied=False (--no-tied)"
            )
        entry = next((e for e in layout.parameters if e.name == self.tensor), None)
        if entry is None or len(entry.shape) != 2:
            found = "no parameter" if entry is None else f"of shape {entry.shape}"
            matrices = ", ".join(e.name for e in layout.parameters if len(e.shape) == 2)
            raise InputError(f"{self.tensor!r} must be a matrix of the network, and is {found}: there are {matrices}")
        return entry

    def _used(self, tokens: Tensor | None, rows: int) -> Tensor:
        """How often each row is used; once, if that is not known."""
        if tokens is None:
            if self.by in ("count", "random"):
                raise InputError(f"by={self.by!r} needs tokens=, the numbers of the rows that the data use")
            return torch.ones(rows, dtype=torch.long)
        tokens = tokens.flatten()
        if tokens.is_floating_point() or int(tokens.min()) < 0 or int(tokens.max()) >= rows:
            raise InputError(f"tokens must be whole numbers from 0 to {rows - 1}, the rows of {self.tensor}")
        return torch.bincount(tokens, minlength=rows)

    def _scores(self, base: Collection, tuned: Collection, used: Tensor, entry: Entry) -> Float[Tensor, "n rows"]:
        if self.by == "count":
            return used.double().expand(len(base), -1)
        if self.by == "random":
            draws = [seeds.generator(self.seed, "random rows", i) for i in range(len(base))]
            return torch.stack([torch.rand(entry.shape[0], generator=one).double() for one in draws])
        at = base.layout.slices[entry.name]
        before, after = (part.weights[:, at].reshape(-1, *entry.shape) for part in (base, tuned))
        return ks_statistic(before, after) if self.by == "ks" else (after - before).double().norm(dim=-1)

    def _trained(self, base: Collection, rows: Bool[Tensor, "n rows"]) -> Bool[Tensor, "n d"]:
        entry = self._entry(base)
        trained = torch.zeros(len(base), base.layout.size, dtype=torch.bool)
        trained[:, base.layout.slices[entry.name]] = rows[..., None].expand(-1, -1, entry.shape[1]).flatten(1)
        return trained

    def _method(self) -> dict[str, Any]:
        return {"name": "Rows", "tensor": self.tensor, "by": self.by, "count": self.count, "level": self.level}


def ks_statistic(first: Float[Tensor, "*lead q"], second: Float[Tensor, "*lead q"]) -> Float[Tensor, "*lead"]:
    """The largest distance between the distributions of two samples; that of `scipy.stats.ks_2samp`, for many pairs.

    Args:
        first: Samples.
        second: Samples, of the same shape.
    """
    size = first.shape[-1]
    ordered = [sample.sort(-1).values.contiguous() for sample in (first, second)]
    at = torch.cat(ordered, -1)
    below = [torch.searchsorted(sample, at, right=True) for sample in ordered]
    return (below[0] - below[1]).abs().amax(-1).double() / size

"""Validation losses on the way, for the iteration at which a network is at its best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.networks.layout import Layout
from weightspace.tasks.measuring import measure
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class ValidationCurve:
    """Looks at networks in training and changes nothing.

    Args:
        every: Iterations between looks.
        task: Task whose loss and main metric are measured on its validation split.
    """

    every: int
    task: Task

    def look(
        self,
        module: nn.Module,
        layout: Layout,
        weights: Float[Tensor, "n d"],
        buffers: dict[str, Tensor],
        sets: Sequence[int | None] | None = None,
    ) -> Float[Tensor, "n 2"]:
        """Validation loss and main metric of each network; the metric is NaN where only the loss is known.

        Args:
            module: Module that gives the computation.
            layout: Layout of the networks.
            weights: (n, D).
            buffers: (n, *shape) by name.
            sets: Number of each network's own data; None where all share the data.
        """
        data, names = self.task.validation.to(str(weights.device)), ["loss"]
        names += [metric.name for metric in self.task.scores[:1]]
        rows: list[list[float]] = []
        for i in range(len(weights)):  # one network's outputs at a time
            own = {name: buffer[i : i + 1] for name, buffer in buffers.items()}
            figures = measure(
                self.task, module, layout, weights[i : i + 1], own, data, None if sets is None else sets[i : i + 1]
            )
            rows.append([*(figures[name][0] for name in names), float("nan")][:2])
        return torch.tensor(rows)

    def summary(self, steps: list[int], curve: Float[Tensor, "looks 2"]) -> dict[str, Any]:
        """What a record keeps: the curve, and the look with the smallest loss (early stopping).

        Args:
            steps: Iteration of each look.
            curve: Validation loss and main metric at each look.
        """
        if not len(curve):
            return {}
        best = int(curve[:, 0].argmin())
        kept: dict[str, Any] = {"steps": steps, "validation_loss": [round(v, 6) for v in curve[:, 0].tolist()]}
        kept |= {"best_step": steps[best], "best_validation_loss": curve[best, 0].item()}
        for metric in self.task.scores[:1]:
            kept[f"validation_{metric.name}"] = [round(v, 6) for v in curve[:, 1].tolist()]
            kept[f"best_validation_{metric.name}"] = curve[best, 1].item()
        return kept

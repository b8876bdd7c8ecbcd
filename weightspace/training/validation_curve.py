"""Validation losses on the way, for the iteration at which a network is at its best."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout
from weightspace.tasks.task import Split
from weightspace.training.gradients import Loss


@dataclass(frozen=True)
class ValidationCurve:
    """Looks at networks in training and changes nothing.

    Args:
        every: Iterations between looks.
        data: The validation split.
        classification: Whether accuracy is measured too; it is NaN otherwise.
    """

    every: int
    data: Split
    loss: Loss
    classification: bool

    def look(
        self, module: nn.Module, layout: Layout, weights: Float[Tensor, "n d"], buffers: dict[str, Tensor]
    ) -> Float[Tensor, "n 2"]:
        """Validation loss and accuracy of each network."""
        x, y = self.data.x.to(weights.device), self.data.y.to(weights.device)
        rows: list[list[float]] = []
        for i in range(len(weights)):  # one network's outputs at a time
            own = {name: buffer[i : i + 1] for name, buffer in buffers.items()}
            (output,) = predict(module, layout, weights[i : i + 1], own, x)
            accuracy = (output.argmax(-1) == y).double().mean().item() if self.classification else float("nan")
            rows.append([self.loss(output, y).item(), accuracy])
        return torch.tensor(rows)

    def summary(self, steps: list[int], curve: Float[Tensor, "looks 2"]) -> dict[str, Any]:
        """What a record keeps: the curve, and the look with the smallest loss (early stopping).

        Args:
            steps: Iteration of each look.
        """
        if not len(curve):
            return {}
        best = int(curve[:, 0].argmin())
        found: dict[str, Any] = {"steps": steps, "validation_loss": [round(v, 6) for v in curve[:, 0].tolist()]}
        found |= {"best_step": steps[best], "best_validation_loss": curve[best, 0].item()}
        if self.classification:
            found["validation_accuracy"] = [round(v, 6) for v in curve[:, 1].tolist()]
            found["best_validation_accuracy"] = curve[best, 1].item()
        return found

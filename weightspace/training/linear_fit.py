"""A linear layer that fits its inputs to targets: a convex problem, solved to its minimum under a mask."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, OutputKind, Regression
from weightspace.runtime.allocator import main_memory

_STEPS = 50  # of Newton's method; some 5 are enough
_ITERATIONS = 100  # of conjugate gradients in a step
_FORCING = 0.03  # what is left of the gradient after them
_DONE = 1e-10  # how far the objective is above its minimum, by Newton's own estimate
_HALVINGS = 30
_CONNECTED = 3000  # weights of several classes whose Hessian is factored as a whole


@dataclass(frozen=True)
class LinearFit:
    """Cross-entropy or half the squared error of a linear layer, summed over its outputs and averaged over samples, and
    a pull towards the layer as it was.

    Args:
        x: Inputs of the layer; a last column of ones stands for its bias.
        y: Class numbers (samples,), or targets (samples, outputs).
        kind: What the outputs mean.
        start: The layer as it was.
        kept: True at the weights that the mask keeps.
        ridge: Strength of the pull, relative to the mean square of the inputs.
    """

    x: Float[Tensor, "samples inputs"]
    y: Tensor
    kind: OutputKind
    start: Float[Tensor, "outputs inputs"]
    kept: Bool[Tensor, "outputs inputs"]
    ridge: float

    def solved(self) -> Float[Tensor, "outputs inputs"]:
        """The layer at the minimum, by Newton's method with conjugate gradients.

        Raises:
            InputError: The inputs are not finite, or the layer is too large.
        """
        if not self.x.isfinite().all():
            raise InputError("the inputs of the last layer are not finite: the network has diverged, train it again")
        precondition, pull = self._preconditioner(), self._pull
        layer = self.start.clone()
        loss, change = self._objective(layer)
        for _ in range(_STEPS):
            gradient = self.kept * (change.T @ self.x / len(self.x)) + pull * (layer - self.start)
            step = self._direction(self._means(layer).float(), gradient.float(), precondition).to(gradient.dtype)
            gained = -(gradient * step).sum().item()
            if gained <= _DONE:
                break
            for _ in range(_HALVINGS):
                tried, after = self._objective(layer + step)
                if tried <= loss - 1e-4 * gained:
                    break
                step, gained = step / 2, gained / 2
            else:
                break  # rounding alone is left
            layer, loss, change = layer + step, tried, after
        return layer

    @property
    def _pull(self) -> float:
        """Weight of half the squared change of the layer."""
        return self.ridge * (self.x.square().mean().item() or 1.0)

    def _objective(self, layer: Tensor) -> tuple[float, Tensor]:
        """The objective, and its derivative by each output (samples, outputs), times the samples."""
        z = self.x @ layer.T
        if isinstance(self.kind, Classes):
            loss = F.cross_entropy(z, self.y)
            off = z.softmax(-1)
            off[torch.arange(len(z), device=z.device), self.y] -= 1
        elif isinstance(self.kind, Binary):
            loss = F.binary_cross_entropy_with_logits(z, self.y, reduction="none").sum(-1).mean()
            off = z.sigmoid() - self.y
        else:
            off = z - self.y
            loss = 0.5 * off.square().sum(-1).mean()
        return loss.item() + 0.5 * self._pull * (layer - self.start).square().sum().item(), off

    def _means(self, layer: Tensor) -> Tensor:
        """Probabilities of the outputs; of values, themselves."""
        z = self.x @ layer.T
        if isinstance(self.kind, Regression):
            return z
        return z.softmax(-1) if isinstance(self.kind, Classes) else z.sigmoid()

    @cached_property
    def _rough(self) -> Tensor:
        """The inputs in single precision, for what only says where to go."""
        return self.x.float()

    def _curved(self, means: Tensor, step: Tensor) -> Tensor:
        """The Hessian times a step."""
        moved = self._rough @ step.T
        if isinstance(self.kind, Classes):
            weighted = means * moved
            moved = weighted - means * weighted.sum(-1, keepdim=True)
        elif isinstance(self.kind, Binary):
            moved = means * (1 - means) * moved
        return self.kept * (moved.T @ self._rough / len(self.x)) + self._pull * step

    def _preconditioner(self) -> Callable[[Tensor], Tensor]:
        """The inverse of the Hessian at the start; of many classes, without what connects them."""
        if isinstance(self.kind, Classes) and self.kept.sum() <= _CONNECTED:
            return self._connected()
        masks, which = self.kept, torch.arange(len(self.kept), device=self.x.device)
        if isinstance(self.kind, Regression):  # the Hessian of an output is that of all outputs with its mask
            masks, which = masks.unique(dim=0, return_inverse=True)
        inputs = self.x.shape[1]
        if (needed := 8 * len(masks) * inputs**2) > main_memory() // 4:
            raise InputError(
                f"the last layer is too large to be refitted: {len(masks):,} outputs of {inputs:,} inputs take "
                f'{needed / 2**30:,.0f} GiB. Train the networks on instead, such as polish="30it"'
            )
        means, factors = self._means(self.start), list[Tensor]()
        for k, kept in enumerate(masks):
            spread = None if isinstance(self.kind, Regression) else means[:, k] * (1 - means[:, k])
            factors.append(self._factor(self._second(kept, kept, spread)))
        rows = [(which == k).nonzero().squeeze(1) for k in range(len(masks))]

        def solve(gradient: Tensor) -> Tensor:
            solved = torch.zeros_like(gradient)
            for kept, factor, row in zip(masks, factors, rows, strict=True):
                part = torch.cholesky_solve(gradient[row][:, kept].T, factor).T
                solved[row] = torch.zeros_like(solved[row]).masked_scatter_(self.kept[row], part)
            return solved

        return solve

    def _connected(self) -> Callable[[Tensor], Tensor]:
        """The inverse of the whole Hessian at the start."""
        p, ends = self._means(self.start), [0, *self.kept.sum(1).cumsum(0).tolist()]
        hessian = self.x.new_empty(ends[-1], ends[-1])
        for k in range(len(ends) - 1):
            for other in range(k + 1):
                block = self._second(self.kept[k], self.kept[other], p[:, k] * (float(k == other) - p[:, other]))
                hessian[ends[k] : ends[k + 1], ends[other] : ends[other + 1]] = block
        factor = self._factor(hessian)  # reads the lower triangle alone

        def solve(gradient: Tensor) -> Tensor:
            part = torch.cholesky_solve(gradient[self.kept][:, None], factor)
            return torch.zeros_like(gradient).masked_scatter_(self.kept, part)

        return solve

    def _second(self, rows: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted second moments of kept inputs."""
        left = self._rough[:, rows]
        left = left if weights is None else left * weights.float()[:, None]
        return (left.T @ self._rough[:, columns]).double() / len(self.x)

    def _factor(self, hessian: Tensor) -> Tensor:
        """Cholesky factor of a Hessian with the pull."""
        hessian.diagonal().add_(self._pull)
        return torch.linalg.cholesky(hessian).float()

    def _direction(self, means: Tensor, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Newton's step, by conjugate gradients."""
        step, left = torch.zeros_like(gradient), -gradient
        solved = precondition(left)
        towards, length = solved, (left * solved).sum()
        goal = _FORCING**2 * length
        for _ in range(_ITERATIONS):
            if length <= goal or length <= 0:
                break
            curved = self._curved(means, towards)
            size = length / (towards * curved).sum()
            step, left = step + size * towards, left - size * curved
            solved = precondition(left)
            before, length = length, (left * solved).sum()
            towards = solved + length / before * towards
        return step

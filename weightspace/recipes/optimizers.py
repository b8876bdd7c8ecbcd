"""Optimisers on stacked networks: each acts on (nets, D) vectors in place, one formula for all rows.

The formulas are those of torch.optim, which is the test oracle. Learning rate and weight decay are
numbers for all networks, or (nets, 1) tensors, one value a network; weight decay may also have one value an entry,
(nets, D) or (1, D).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from weightspace.errors import InputError
from weightspace.runtime import checks

State = dict[str, Tensor]


@runtime_checkable
class Optimizer(Protocol):
    """A frozen configuration with a rule; the state lives with the caller."""

    lr: float
    weight_decay: float

    def start(self, weights: Tensor) -> State:
        """State before the first step; every entry has the weights' shape."""
        ...

    def update_(
        self, weights: Tensor, gradient: Tensor, state: State, lr: float | Tensor, decay: float | Tensor, step: int
    ) -> None:
        """Change weights and state in place.

        Args:
            lr: Learning rate of this step.
            decay: Weight decay.
            step: Number of the step, from 1.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with L2 weight decay added to the gradient."""

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        checks.settle(self, checks.number, "momentum", at_least=0, below=1)
        checks.settle(self, checks.flag, "nesterov")
        if self.nesterov and not self.momentum:
            raise InputError("Nesterov's method needs a momentum")

    def start(self, weights: Tensor) -> State:
        return {"momentum": torch.zeros_like(weights)} if self.momentum else {}

    def update_(
        self, weights: Tensor, gradient: Tensor, state: State, lr: float | Tensor, decay: float | Tensor, step: int
    ) -> None:
        if isinstance(decay, Tensor) or decay:
            gradient = gradient + weights * decay
        if self.momentum:
            velocity = state["momentum"].mul_(self.momentum).add_(gradient)
            gradient = gradient.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        _add_scaled(weights, gradient, -lr)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015); `decoupled` weight decay makes it AdamW (Loshchilov & Hutter 2019)."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        _check(self)
        checks.settle(self, checks.several, "betas", check=checks.number, least=2, most=2, at_least=0, below=1)
        checks.settle(self, checks.number, "eps", at_least=0)
        checks.settle(self, checks.flag, "decoupled")

    def start(self, weights: Tensor) -> State:
        return {"mean": torch.zeros_like(weights), "square": torch.zeros_like(weights)}

    def update_(
        self, weights: Tensor, gradient: Tensor, state: State, lr: float | Tensor, decay: float | Tensor, step: int
    ) -> None:
        first, second = self.betas
        if isinstance(decay, Tensor) and decay.shape[-1] > 1:  # some entries have none
            if self.decoupled:
                weights.mul_(1 - lr * decay)
            else:
                gradient = gradient + weights * decay
            decay = 0.0
        if not isinstance(lr, Tensor) and not isinstance(decay, Tensor):
            rule = adamw if self.decoupled else adam  # PyTorch's own kernel, one pass over memory
            rule(
                [weights],
                [gradient],
                [state["mean"]],
                [state["square"]],
                [],
                [torch.tensor(step - 1.0, device=weights.device)],
                fused=True,
                amsgrad=False,
                beta1=first,
                beta2=second,
                lr=lr,
                weight_decay=decay,
                eps=self.eps,
                maximize=False,
            )
            return
        if isinstance(decay, Tensor) or decay:
            if self.decoupled:
                weights.mul_(1 - lr * decay)
            else:
                gradient = gradient + weights * decay
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = square.sqrt().div_((1 - second**step) ** 0.5).add_(self.eps)
        _add_scaled(weights, torch.div(mean, scale, out=scale), -lr / (1 - first**step))


def _add_scaled(target: Tensor, update: Tensor, scale: float | Tensor) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(update, scale)
    else:
        target.add_(update, alpha=scale)


def _check(optimizer: "SGD | Adam") -> None:
    checks.settle(optimizer, checks.number, "lr", above=0)
    checks.settle(optimizer, checks.number, "weight_decay", at_least=0)

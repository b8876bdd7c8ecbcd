"""Fit a flow to codes by flow matching, and sample from it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call
from torchdiffeq import odeint

from weightspace import seeds
from weightspace.errors import InputError
from weightspace.flow.path import linear_path
from weightspace.flow.velocity import ResidualVelocity
from weightspace.layout import Layout
from weightspace.optimizers import Adam
from weightspace.progress import progress
from weightspace.storage import atomic_file

_CHECKPOINT_EVERY = 500


@dataclass(frozen=True)
class FlowMatching:
    """Learn a velocity field that carries Gaussian noise to the codes (arXiv 2210.02747).

    Codes are divided by one number, their root mean square, so that noise and data have equal size
    while the components keep their relative scale.

    Args:
        width: units of the residual velocity network.
        blocks: residual blocks of the velocity network.
        steps: training iterations.
        batch_size: pairs of noise and code a step.
        lr: peak learning rate of AdamW, with cosine decay to zero.
        weight_decay: decoupled.
        ema: decay of the averaged weights that sampling uses.
    """

    width: int = 256
    blocks: int = 2
    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    ema: float = 0.999

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.steps, self.batch_size) < 1:
            raise InputError(f"width, blocks, steps and batch_size must be at least 1, got {self}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must lie in [0, 1), got {self.ema}")

    def fit(self, codes: Float[Tensor, "n k"], *, seed: int = 0, checkpoint: Path | None = None) -> "FittedFlow":
        """Train on codes.

        Args:
            checkpoint: file to continue from if it exists, and to save progress to. A continued run
                gives the same bytes as an uninterrupted one.
        """
        scale = codes.double().square().mean().sqrt().item()
        if not (math.isfinite(scale) and scale > 0):
            raise InputError("the codes are all zero or not finite: nothing to learn")
        data = (codes / scale).float()
        with seeds.seeded_modules(seed, "velocity"):
            velocity = ResidualVelocity(codes.shape[1], self.width, self.blocks)
        layout = Layout.of(velocity)
        adam = Adam(lr=self.lr, weight_decay=self.weight_decay, decoupled=True)
        weights = layout.pack(velocity.state_dict())
        state = {"weights": weights, "average": weights.clone(), **adam.start(weights)}
        done = 0
        if checkpoint is not None and checkpoint.exists():
            state = load_file(checkpoint)
            done = int(state.pop("done"))
        bar = progress(range(self.steps), "training the flow")
        bar.update(done)
        with bar:
            for step in range(done, self.steps):
                loss, gradient = self._gradient(velocity, layout, state["weights"], data, seed, step)
                lr = self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
                adam.update_(state["weights"], gradient, state, lr, self.weight_decay, step + 1)
                # Early on a long average would remember the untrained field.
                decay = min(self.ema, (step + 1) / (step + 10))
                state["average"].lerp_(state["weights"], 1 - decay)
                bar.update()
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.set_postfix(loss=f"{loss:.3f}")
                    if checkpoint is not None:
                        with atomic_file(checkpoint) as temporary:
                            save_file(state | {"done": torch.tensor(step + 1)}, temporary)
        return FittedFlow(self, state["average"], scale, codes.shape[1])

    def _gradient(
        self, velocity: ResidualVelocity, layout: Layout, weights: Tensor, data: Tensor, seed: int, step: int
    ) -> tuple[float, Tensor]:
        random = seeds.generator(seed, "flow batch", step)
        x_1 = data[torch.randint(len(data), (self.batch_size,), generator=random)]
        x_0 = torch.randn(x_1.shape, generator=random)
        t = torch.rand(len(x_1), 1, generator=random)
        x_t, dx_t = linear_path(x_0, x_1, t)
        leaves = {name: view.requires_grad_() for name, view in layout.unpack(weights.detach()).items()}
        predicted = functional_call(velocity, leaves, (x_t, t))
        loss = (predicted - dx_t).square().mean()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return loss.item(), layout.pack(dict(zip(leaves, gradients, strict=True)))


@dataclass(frozen=True)
class FittedFlow:
    """A trained velocity field.

    Args:
        config: that trained it.
        weights: of the velocity network, averaged over training, flat.
        scale: codes were divided by this number.
        codes: length of a code.
    """

    config: FlowMatching
    weights: Float[Tensor, " p"]
    scale: float
    codes: int

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, solver_steps: int = 20) -> Float[Tensor, "n k"]:
        """Carry noise to codes along the flow (fourth-order Runge-Kutta, fixed steps).

        Sample i depends on (seed, i) alone, not on n.
        """
        x_0 = torch.stack([torch.randn(self.codes, generator=seeds.generator(seed, "flow noise", i)) for i in range(n)])
        velocity = self._velocity()

        def field(t: Tensor, x: Tensor) -> Tensor:
            return velocity(x, t.expand(len(x), 1))

        path = odeint(field, x_0, torch.linspace(0, 1, solver_steps + 1), method="rk4")
        assert isinstance(path, Tensor)  # (steps + 1, n, codes)
        return path[-1] * self.scale

    def _velocity(self) -> ResidualVelocity:
        velocity = ResidualVelocity(self.codes, self.config.width, self.config.blocks)
        velocity.load_state_dict(Layout.of(velocity).unpack(self.weights))
        return velocity.eval()

    def tensors(self) -> dict[str, Tensor]:
        return {"flow.weights": self.weights}

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "codes": self.codes}

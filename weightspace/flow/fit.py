"""Fit a flow to codes by flow matching, and sample from it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torchdiffeq import odeint

from weightspace import seeds
from weightspace.errors import InputError
from weightspace.flow.path import linear_path, pair
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
        pairing: "independent" pairs noise with codes at random; "optimal" pairs them inside each batch at
            the least total squared distance (arXiv 2302.00482), which straightens the flow.
    """

    width: int = 256
    blocks: int = 2
    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    ema: float = 0.999
    pairing: Literal["independent", "optimal"] = "independent"

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.steps, self.batch_size) < 1:
            raise InputError(f"width, blocks, steps and batch_size must be at least 1, got {self}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must lie in [0, 1), got {self.ema}")
        if self.pairing not in ("independent", "optimal"):
            raise InputError(f"pairing is 'independent' or 'optimal', got {self.pairing!r}")

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
        if self.pairing == "optimal":
            x_1 = x_1[pair(x_0, x_1)]
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

    def noise(self, n: int, *, seed: int = 0) -> Float[Tensor, "n k"]:
        """Where samples start; row i depends on (seed, i) alone."""
        return torch.stack(
            [torch.randn(self.codes, generator=seeds.generator(seed, "flow noise", i)) for i in range(n)]
        )

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, solver_steps: int = 20) -> Float[Tensor, "n k"]:
        """Carry noise to codes along the flow (fourth-order Runge-Kutta, fixed steps).

        Sample i depends on (seed, i) alone, not on n.
        """
        return self.carry(self.noise(n, seed=seed), solver_steps=solver_steps)

    @torch.no_grad()
    def carry(self, x_0: Float[Tensor, "n k"], *, solver_steps: int = 20) -> Float[Tensor, "n k"]:
        """Codes of given noise: t from 0 to 1."""
        return self._solve(x_0, 0.0, 1.0, solver_steps) * self.scale

    @torch.no_grad()
    def encode(self, codes: Float[Tensor, "n k"], *, solver_steps: int = 20) -> Float[Tensor, "n k"]:
        """Noise that the flow carries to given codes: t from 1 to 0."""
        return self._solve((codes / self.scale).float(), 1.0, 0.0, solver_steps)

    def log_prob(
        self, codes: Float[Tensor, "n k"], *, tolerance: float = 1e-5, solver_steps: int | None = None
    ) -> Float[Tensor, " n"]:
        """Exact log-density of codes under the flow, in nats (arXiv 2210.02747, appendix C).

        The flow is solved backwards together with the trace of its Jacobian, which is computed exactly, in
        float64.

        Args:
            tolerance: relative and absolute, of the adaptive solver (Dormand-Prince); each code is solved on
                its own, so that its value does not depend on the others.
            solver_steps: use this many fixed Runge-Kutta steps instead, for all codes together.
        """
        velocity = self.velocity().double()

        def one(x: Tensor, t: Tensor) -> Tensor:
            return velocity(x[None], t.reshape(1, 1))[0]

        def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            x, _ = state
            jacobian = vmap(jacrev(one), in_dims=(0, None))(x, t)
            return velocity(x, t.expand(len(x), 1)), jacobian.diagonal(dim1=1, dim2=2).sum(1)

        def solve(x_1: Tensor) -> Tensor:
            start = x_1, x_1.new_zeros(len(x_1))
            if solver_steps is None:
                found = odeint(field, start, x_1.new_tensor([1.0, 0.0]), rtol=tolerance, atol=tolerance)
            else:
                found = odeint(field, start, torch.linspace(1, 0, solver_steps + 1, dtype=x_1.dtype), method="rk4")
            x_0, lost = found[0][-1], found[1][-1]
            normal = -0.5 * x_0.square().sum(1) - 0.5 * self.codes * math.log(2 * math.pi)
            return normal + lost - self.codes * math.log(self.scale)

        scaled = codes.double() / self.scale
        with torch.no_grad():
            if solver_steps is not None:
                return solve(scaled)
            return torch.cat([solve(row) for row in progress(scaled.split(1), "likelihoods")])

    def _solve(self, x: Float[Tensor, "n k"], start: float, stop: float, steps: int) -> Float[Tensor, "n k"]:
        velocity = self.velocity()

        def field(t: Tensor, x: Tensor) -> Tensor:
            return velocity(x, t.expand(len(x), 1))

        path = odeint(field, x, torch.linspace(start, stop, steps + 1), method="rk4")
        assert isinstance(path, Tensor)  # (steps + 1, n, codes)
        return path[-1]

    def velocity(self) -> ResidualVelocity:
        """The velocity network with the trained weights."""
        velocity = ResidualVelocity(self.codes, self.config.width, self.config.blocks)
        velocity.load_state_dict(Layout.of(velocity).unpack(self.weights))
        return velocity.eval()

    def tensors(self) -> dict[str, Tensor]:
        return {"flow.weights": self.weights}

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "codes": self.codes}

"""Fit a flow to codes by flow matching, and sample from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torchdiffeq import odeint

from weightspace.errors import InputError
from weightspace.flow.early_stopping import HeldOut, Pairs
from weightspace.flow.path import linear_path, pair
from weightspace.flow.velocity import ResidualVelocity, Velocity, with_presence
from weightspace.networks.layout import Layout
from weightspace.recipes.optimizers import Adam
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress
from weightspace.storage.checkpoints import load_checkpoint, save_checkpoint
from weightspace.storage.spelling import Spelling

_CHECKPOINT_EVERY = 500
_JUDGED_EVERY = 25  # steps
FIELDS_ON_DISK = {
    "source_std": "source",
    "path_noise_std": "jitter",
    "condition_dropout": "forget",
    "validation_fraction": "held_out",
}
_JACOBIAN = 4096  # codes up to which exact likelihoods are computed


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
        lr: peak learning rate of AdamW, with cosine decay.
        lr_final: where the decay ends.
        weight_decay: decoupled.
        betas: of AdamW.
        ema: decay of the averaged weights that sampling uses; 0 uses the last ones.
        pairing: "independent" pairs noise with codes at random; "optimal" pairs them inside each batch at
            the least total squared distance (arXiv 2302.00482), which straightens the flow.
        source_std: standard deviation of x_0, in units of the divided codes.
        path_noise_std: standard deviation of noise added to x_t.
        condition_dropout: chance that a condition is hidden from the field in a training step, so that it also learns to do
            without (classifier-free guidance, arXiv 2207.12598).
        validation_fraction: share of the codes that is not trained on: the flow keeps the (averaged) weights at which their loss is
            lowest, be it those before the first step. A flow trained to the end learns few codes by heart, and its samples
            gather around them. Codes must be independent: levels of one IMP run, say, know each other.
        solver_steps: Runge-Kutta steps from noise to codes, unless asked otherwise.
    """

    width: int = 256
    blocks: int = 2
    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    lr_final: float = 0.0
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    pairing: Literal["independent", "optimal"] = "independent"
    source_std: float = 1.0
    path_noise_std: float = 0.0
    condition_dropout: float = 0.1
    validation_fraction: float = 0.0
    solver_steps: int = 8

    spelling: ClassVar[Spelling] = Spelling("FlowMatching", FIELDS_ON_DISK)

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.steps, self.batch_size, self.solver_steps) < 1:
            raise InputError(f"width, blocks, steps, batch_size and solver_steps must be at least 1, got {self}")
        if not (0 <= self.ema < 1 and 0 <= self.condition_dropout < 1 and 0 <= self.validation_fraction < 1):
            raise InputError(
                f"ema, condition_dropout and validation_fraction must lie in [0, 1), got {self.ema}, "
                f"{self.condition_dropout} and {self.validation_fraction}"
            )
        if not (self.source_std > 0 and self.path_noise_std >= 0):
            raise InputError(
                f"source_std must be positive and path_noise_std not negative, got {self.source_std} and "
                f"{self.path_noise_std}"
            )
        if self.pairing not in ("independent", "optimal"):
            raise InputError(f"pairing is 'independent' or 'optimal', got {self.pairing!r}")

    def check(self, conditions: int, codes: int) -> None:
        """Raise InputError if a flow of this kind cannot be trained with so many conditions, or on so many codes."""
        self._apart(codes)
        if conditions and self.pairing == "optimal":
            raise InputError(
                'pairing="optimal" would pair noise with codes regardless of their conditions, and samples would not '
                'follow these: use pairing="independent" with conditions'
            )

    def _apart(self, codes: int) -> int:
        """How many codes are not trained on."""
        apart = round(self.validation_fraction * codes)
        if self.validation_fraction and not 0 < apart < codes:
            raise InputError(
                f"validation_fraction = {self.validation_fraction} leaves {codes - apart} of {codes} codes to train on and "
                f"{apart} to judge: at least one of each is needed (validation_fraction=0 trains to the end)"
            )
        return apart

    def scale(self, codes: Float[Tensor, "n k"]) -> float:
        """What codes are divided by."""
        return codes.double().square().mean().sqrt().item()

    def velocity(self, codes: int, conditions: int) -> Velocity:
        """The untrained velocity network."""
        return ResidualVelocity(codes, self.width, self.blocks, conditions)

    def fit(
        self,
        codes: Float[Tensor, "n k"],
        conditions: Float[Tensor, "n c"] | None = None,
        *,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
    ) -> "FittedFlow":
        """Train on codes.

        Args:
            conditions: numbers that describe each code, of unit size; NaN where unknown.
            widths: how many neighbouring numbers make up each condition and are hidden together; by default one.
            checkpoint: file to continue from if it exists, and to save progress to. A continued run
                gives the same bytes as an uninterrupted one.
        """
        self.check(0 if conditions is None else conditions.shape[1], len(codes))
        scale = self.scale(codes)
        if not (math.isfinite(scale) and scale > 0 and codes.any()):
            raise InputError("the codes are all zero or not finite: nothing to learn")
        data = (codes / scale).float()
        order = torch.randperm(len(data), generator=seeds.generator(seed, "flow held out"))
        apart = self._apart(len(data))
        unseen, seen = order[:apart].sort().values, order[apart:].sort().values
        described = 0 if conditions is None else conditions.shape[1]
        groups = torch.arange(len(widths or range(described))).repeat_interleave(
            torch.tensor(widths or [1] * described, dtype=torch.long)
        )
        with seeds.seeded_modules(seed, "velocity"):
            velocity = self.velocity(codes.shape[1], 2 * described)
        layout = Layout.of(velocity)
        adam = Adam(lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, decoupled=True)
        weights = layout.pack(velocity.state_dict())
        state = {"weights": weights, **adam.start(weights)}
        if self.ema:
            state["average"] = weights.clone()
        averaged = "average" if self.ema else "weights"
        judge: HeldOut | None = None
        if apart:
            random = seeds.generator(seed, "flow judged")
            judge = HeldOut.draw(lambda: self._pairs(data, unseen, self.batch_size, random), conditions)
            state |= judge.start(weights)
        done = 0
        if checkpoint is not None and checkpoint.exists():
            state, done = load_checkpoint(checkpoint, state, self.steps)
        bar = progress(range(self.steps), "training the flow")
        bar.update(done)
        with bar:
            for step in range(done, self.steps):
                if judge is not None and step % _JUDGED_EVERY == 0:
                    judge.keep_best(velocity, layout, state, averaged)
                loss, gradient = self._gradient(
                    velocity, layout, state["weights"], data, conditions, seen, groups, seed, step
                )
                if not math.isfinite(loss):
                    raise InputError(f"flow matching diverged at step {step + 1}: lower lr ({self.lr})")
                cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
                lr = self.lr_final + (self.lr - self.lr_final) * cosine
                adam.update_(state["weights"], gradient, state, lr, self.weight_decay, step + 1)
                if self.ema:
                    # Early on a long average would remember the untrained field.
                    decay = min(self.ema, (step + 1) / (step + 10))
                    state["average"].lerp_(state["weights"], 1 - decay)
                bar.update()
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.set_postfix(loss=f"{loss:.3g}")
                    if checkpoint is not None:
                        save_checkpoint(checkpoint, state, step + 1)
        if judge is not None:
            judge.keep_best(velocity, layout, state, averaged)
            averaged = "best"
        return FittedFlow(self, state[averaged], scale, codes.shape[1], described)

    def _pairs(self, data: Tensor, among: Tensor, count: int, random: torch.Generator) -> Pairs:
        """As training draws them."""
        chosen = among[torch.randint(len(among), (count,), generator=random)]
        x_0 = torch.randn(len(chosen), data.shape[1], generator=random) * self.source_std
        t = torch.rand(len(chosen), 1, generator=random)
        if self.pairing == "optimal":
            chosen = chosen[pair(x_0, data[chosen])]
        x_t, dx_t = linear_path(x_0, data[chosen], t)
        if self.path_noise_std:
            x_t = x_t + self.path_noise_std * torch.randn(x_t.shape, generator=random)
        return chosen, t, x_t, dx_t

    def _gradient(
        self, velocity: Velocity, layout: Layout, weights: Tensor, data: Tensor, conditions: Tensor | None,
        seen: Tensor, groups: Tensor, seed: int, step: int,
    ) -> tuple[float, Tensor]:  # fmt: skip
        random = seeds.generator(seed, "flow batch", step)
        chosen, t, x_t, dx_t = self._pairs(data, seen, self.batch_size, random)
        known = None
        if conditions is not None:
            told = conditions[chosen]
            # One coin for each condition, and one more for all of them: guidance and open conditions need the field
            # that knows nothing, which the first coins alone would hardly ever train.
            coins = torch.rand(len(told), int(groups.max()) + 2, generator=random) < self.condition_dropout
            hidden = coins[:, :-1][:, groups] | coins[:, -1:]
            known = with_presence(told.masked_fill(hidden, math.nan))
        leaves = {name: view.requires_grad_() for name, view in layout.unpack(weights.detach()).items()}
        with seeds.seeded_modules(seed, f"flow dropout {step}"):
            predicted = functional_call(velocity, leaves, (x_t, t, known))
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
        conditions: numbers that describe a network; 0 if it was trained without.
    """

    config: FlowMatching
    weights: Float[Tensor, " p"]
    scale: float
    codes: int
    conditions: int = 0

    def noise(self, n: int, *, seed: int = 0, start: int = 0) -> Float[Tensor, "m k"]:
        """Where samples start to n begin; row i depends on (seed, i) alone."""
        drawn = [torch.randn(self.codes, generator=seeds.generator(seed, "flow noise", i)) for i in range(start, n)]
        return torch.stack(drawn) * self.config.source_std

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        guidance: float = 1.0,
        seed: int = 0,
        solver_steps: int | None = None,
    ) -> Float[Tensor, "n k"]:
        """Carry noise to codes along the flow (fourth-order Runge-Kutta, fixed steps).

        Sample i depends on (seed, i) alone, not on n, up to the rounding of batched products.
        """
        x_0 = self.noise(n, seed=seed)
        return self.integrate(x_0, conditions=conditions, guidance=guidance, solver_steps=solver_steps)

    @torch.no_grad()
    def integrate(
        self,
        x_0: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        guidance: float = 1.0,
        solver_steps: int | None = None,
    ) -> Float[Tensor, "n k"]:
        """Codes of given noise: t from 0 to 1.

        Args:
            conditions: what the networks shall be like, NaN where it does not matter; by default nowhere.
            guidance: above 1 follows the conditions more strongly than the tickets do, by moving the field away
                from its unconditional value (arXiv 2207.12598, eq. 6 with w = guidance - 1).
        """
        return self._solve(x_0, 0.0, 1.0, solver_steps, conditions, guidance) * self.scale

    @torch.no_grad()
    def encode(
        self,
        codes: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        solver_steps: int | None = None,
    ) -> Float[Tensor, "n k"]:
        """Noise that the flow carries to given codes: t from 1 to 0."""
        return self._solve((codes / self.scale).float(), 1.0, 0.0, solver_steps, conditions, 1.0)

    def log_prob(
        self,
        codes: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        tolerance: float = 1e-5,
        solver_steps: int | None = None,
    ) -> Float[Tensor, " n"]:
        """Exact log-density of codes under the flow, in nats (arXiv 2210.02747, appendix C).

        The flow is solved backwards together with the trace of its Jacobian, which is computed exactly, in
        float64.

        Args:
            conditions: the density is that of networks like these; NaN where unknown.
            tolerance: relative and absolute, of the adaptive solver (Dormand-Prince); each code is solved on
                its own, so that its value does not depend on the others.
            solver_steps: use this many fixed Runge-Kutta steps instead, for all codes together.
        """
        if self.codes > _JACOBIAN:
            raise InputError(
                f"the exact likelihood needs a Jacobian of {self.codes} x {self.codes} for each network, more than "
                f"{_JACOBIAN} x {_JACOBIAN}: compress the networks first (compress=PCA(...))"
            )
        velocity = self.velocity().double()
        known = self._known(len(codes), conditions).double()

        def one(x: Tensor, t: Tensor, known: Tensor) -> Tensor:
            return velocity(x[None], t.reshape(1, 1), known[None])[0]

        def solve(x_1: Tensor, known: Tensor) -> Tensor:
            def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
                x, _ = state
                jacobian = vmap(jacrev(one), in_dims=(0, None, 0))(x, t, known)
                return velocity(x, t.expand(len(x), 1), known), jacobian.diagonal(dim1=1, dim2=2).sum(1)

            start = x_1, x_1.new_zeros(len(x_1))
            if solver_steps is None:
                found = odeint(field, start, x_1.new_tensor([1.0, 0.0]), rtol=tolerance, atol=tolerance)
            else:
                found = odeint(field, start, torch.linspace(1, 0, solver_steps + 1, dtype=x_1.dtype), method="rk4")
            x_0, lost = found[0][-1], found[1][-1]
            source = self.config.source_std
            normal = -0.5 * (x_0 / source).square().sum(1) - self.codes * math.log(source * math.sqrt(2 * math.pi))
            return normal + lost - self.codes * math.log(self.scale)

        scaled = codes.double() / self.scale
        with torch.no_grad():
            if solver_steps is not None:
                return solve(scaled, known)
            rows = list(zip(scaled.split(1), known.split(1), strict=True))
            return torch.cat([solve(*row) for row in progress(rows, "likelihoods")])

    def _solve(
        self, x: Float[Tensor, "n k"], start: float, stop: float, steps: int | None,
        conditions: Float[Tensor, "n c"] | None, guidance: float,
    ) -> Float[Tensor, "n k"]:  # fmt: skip
        velocity = self.velocity()
        known, unknown = self._known(len(x), conditions), self._known(len(x), None)
        if not math.isfinite(guidance):
            raise InputError(f"guidance must be finite, got {guidance}")
        if guidance != 1.0 and (conditions is None or conditions.isnan().all()):
            raise InputError("guidance strengthens conditions, but none were given")

        def field(t: Tensor, x: Tensor) -> Tensor:
            at = t.reshape(1, 1)  # one time for all: what follows from it alone is computed once
            v = velocity(x, at, known)
            if guidance == 1.0:
                return v
            free = velocity(x, at, unknown)
            return free + guidance * (v - free)

        if steps is not None and steps < 1:
            raise InputError(f"the solver needs at least one step, got {steps}")
        times = torch.linspace(start, stop, (steps or self.config.solver_steps) + 1)
        for now, then in pairwise(times):
            # Two times at once, or the solver would keep every step: raw weights are large.
            path = odeint(field, x, torch.stack([now, then]), method="rk4")
            assert isinstance(path, Tensor)  # (2, n, codes)
            x = path[-1]
        return x

    def _known(self, n: int, conditions: Float[Tensor, "n c"] | None) -> Float[Tensor, "n twice"]:
        if conditions is None:
            conditions = torch.full((n, self.conditions), math.nan)
        if conditions.shape != (n, self.conditions):
            raise InputError(
                f"expected conditions of shape {(n, self.conditions)}, which this flow was trained with, got "
                f"{tuple(conditions.shape)}"
            )
        return with_presence(conditions.float())

    def velocity(self) -> Velocity:
        """The velocity network with the trained weights."""
        with seeds.seeded_modules(0, "velocity"):  # its untrained weights are not used, nor the global random state
            velocity = self.config.velocity(self.codes, 2 * self.conditions)
        velocity.load_state_dict(Layout.of(velocity).unpack(self.weights))
        return velocity.eval()

    def tensors(self) -> dict[str, Tensor]:
        return {"flow.weights": self.weights}

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "codes": self.codes, "conditions": self.conditions}

"""Fit a flow to codes by flow matching."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from weightspace.errors import InputError
from weightspace.flow.early_stopping import ValidationPairs
from weightspace.flow.fitted_flow import FLOWS, FittedFlow
from weightspace.flow.training_pairs import TrainingPairs
from weightspace.flow.velocity import ResidualVelocity, Velocity
from weightspace.networks.layout import Layout
from weightspace.recipes.optimizers import Adam
from weightspace.runtime import checks, devices, seeds, tracking
from weightspace.runtime.progress import progress
from weightspace.storage.checkpoints import load_checkpoint, save_checkpoint
from weightspace.storage.spelling import Spelling
from weightspace.storage.system_errors import exists

_CHECKPOINT_EVERY = 500
_JUDGED_EVERY = 25  # steps
FIELDS_ON_DISK = {
    "source_std": "source",
    "path_noise_std": "jitter",
    "condition_dropout": "forget",
    "validation_fraction": "held_out",
}
LATER_FIELDS = {"patience": None}


@FLOWS.register("FlowMatching")
@dataclass(frozen=True)
class FlowMatching:
    """Learn a velocity field that carries Gaussian noise to the codes (arXiv 2210.02747).

    Codes are divided by one number, their root mean square, so that noise and data have equal size
    while the components keep their relative scale.

    Args:
        width: Units of the residual velocity network.
        blocks: Residual blocks of the velocity network.
        steps: Training iterations.
        batch_size: Pairs of noise and code in each iteration.
        lr: Peak learning rate of AdamW, with cosine decay.
        lr_final: Learning rate at the end of the decay.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of AdamW's moments.
        ema: Decay of the averaged weights that sampling uses; 0 uses the last ones.
        pairing: "independent" pairs noise with codes at random; "optimal" pairs them inside each batch at
            the least total squared distance (arXiv 2302.00482), which straightens the flow.
        source_std: Standard deviation of the noise x_0, in units of the divided codes.
        path_noise_std: Standard deviation of noise added to the points x_t on the paths.
        condition_dropout: Chance that a condition is hidden from the field in a training step, so that it also learns
            to do without (classifier-free guidance, arXiv 2207.12598).
        validation_fraction: Fraction of the codes that is not trained on: the flow keeps the (averaged) weights at
            which their loss is lowest, be it those before the first step. A flow trained to the end memorises few
            codes, and its samples gather around them. Codes must be independent: levels of one IMP run, say, are not.
        patience: Steps after which training ends if the loss of the validation codes did not fall (early stopping);
            None trains to the end. The learning rate falls as if all steps were made.
        solver_steps: Runge-Kutta steps from noise to codes, unless a call says otherwise.

    Raises:
        InputError: A setting is out of its range.
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
    patience: int | None = None

    spelling: ClassVar[Spelling] = Spelling("FlowMatching", FIELDS_ON_DISK, later=LATER_FIELDS)

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "width", "blocks", "steps", "batch_size", "solver_steps", at_least=1)
        checks.settle(self, checks.number, "source_std", above=0)
        checks.settle(self, checks.number, "lr", "lr_final", "weight_decay", "path_noise_std", at_least=0)
        checks.settle(self, checks.number, "ema", "condition_dropout", "validation_fraction", at_least=0, below=1)
        checks.settle(self, checks.several, "betas", check=checks.number, least=2, most=2, at_least=0, below=1)
        checks.settle(self, checks.one_of, "pairing", choices=("independent", "optimal"))
        checks.settle_given(self, checks.count, "patience", at_least=1)
        if self.patience is not None and not self.validation_fraction:
            raise InputError(
                f"patience = {self.patience} waits for the loss of validation codes to fall, and there are none: give "
                "validation_fraction=0.1, or leave patience=None"
            )

    def check(self, conditions: int, codes: int) -> None:
        """Raise InputError if a flow of this kind cannot be trained like this.

        Args:
            conditions: Numbers that describe each code.
            codes: Number of codes.
        """
        self._validation_count(codes)
        if conditions and self.pairing == "optimal":
            raise InputError(
                'pairing="optimal" would pair noise with codes regardless of their conditions, and samples would not '
                'follow these: use pairing="independent" with conditions'
            )

    def _validation_count(self, codes: int) -> int:
        """How many codes are not trained on."""
        count = round(self.validation_fraction * codes)
        if self.validation_fraction and not 0 < count < codes:
            raise InputError(
                f"validation_fraction = {self.validation_fraction} leaves {codes - count} of {codes} codes to train on "
                f"and {count} to judge: at least one of each is needed (validation_fraction=0 trains to the end)"
            )
        return count

    def divided(self, codes: int, seed: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"]]:
        """Which codes a fit with this seed is judged on, and which it is trained on.

        Args:
            codes: Number of codes.
            seed: Seed of the fit.
        """
        order = torch.randperm(codes, generator=seeds.generator(seed, "flow held out"))
        count = self._validation_count(codes)
        return order[:count].sort().values, order[count:].sort().values

    def scale(self, codes: Float[Tensor, "n k"]) -> float:
        """The number that codes are divided by.

        Args:
            codes: Codes to train on, (N, K).
        """
        checks.tensor(codes, "codes", floating=True)
        scale = codes.double().square().mean().sqrt().item()
        if not math.isfinite(scale):
            raise InputError(f"codes must be finite, got a root mean square of {scale}: mend the weights first")
        return scale

    def velocity(self, codes: int, conditions: int) -> Velocity:
        """The untrained velocity network.

        Args:
            codes: Length of a code.
            conditions: Numbers that describe each code to the network.
        """
        return ResidualVelocity(codes, self.width, self.blocks, conditions)

    def fit(
        self,
        codes: Float[Tensor, "n k"],
        conditions: Float[Tensor, "n c"] | None = None,
        *,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        device: str = "auto",
    ) -> FittedFlow:
        """Train on codes.

        Args:
            codes: Codes of networks, (N, K).
            conditions: Numbers that describe each code, (N, C), of unit size; NaN where unknown.
            widths: Numbers in each condition, which are neighbours and hidden together; None is one each.
            seed: Seed of all random numbers.
            checkpoint: File to continue from if it exists, and to save progress to. A continued run gives the same
                bytes as an uninterrupted one.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: The codes are all zero or not finite, too few, the device is not available, or the training
                diverged.
            StorageError: The checkpoint is damaged, or of another training.
        """
        checks.tensor(codes, "codes", shape=("networks", "length"), floating=True, finite=True)
        if conditions is not None:
            checks.tensor(conditions, "conditions", shape=(len(codes), "numbers"), floating=True)
        widths = checks.given(widths, "widths", checks.several, check=checks.count, at_least=1)
        checkpoint = None if checkpoint is None else Path(checks.path(checkpoint, "checkpoint"))
        seed = checks.seed(seed)
        described = 0 if conditions is None else conditions.shape[1]
        self.check(described, len(codes))
        device = devices.pick(device)
        scale = self.scale(codes)
        if not (math.isfinite(scale) and scale > 0 and codes.any()):
            raise InputError("codes must differ from zero, or there is nothing to learn: all of these are zero")
        pairs = TrainingPairs(
            (codes / scale).float(),
            conditions,
            TrainingPairs.groups_of(widths, described),
            self.source_std,
            self.path_noise_std,
            self.condition_dropout,
            self.pairing == "optimal",
        )
        with seeds.seeded_modules(seed, "velocity"):
            velocity = self.velocity(codes.shape[1], 2 * described)
        weights = _Training(self, pairs, velocity.to(device), seed).run(checkpoint)
        return FittedFlow(self, weights.cpu(), scale, codes.shape[1], described)


class _Training:
    """Training of a velocity network, where it is: its state and a step. Pairs are drawn on the CPU."""

    def __init__(self, settings: FlowMatching, pairs: TrainingPairs, velocity: Velocity, seed: int) -> None:
        self.settings, self.pairs, self.velocity, self.seed = settings, pairs, velocity, seed
        self.layout = Layout.of(velocity)
        self.adam = Adam(lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, decoupled=True)
        unseen, self.seen = settings.divided(len(pairs.codes), seed)
        weights = self.layout.pack(velocity.state_dict())
        self.state = {"weights": weights, **self.adam.start(weights)}
        if settings.ema:
            self.state["average"] = weights.clone()
        self.averaged = "average" if settings.ema else "weights"
        self.validation: ValidationPairs | None = None
        if len(unseen):
            random = seeds.generator(seed, "flow judged")
            self.validation = ValidationPairs.draw(
                lambda: pairs.draw(unseen, settings.batch_size, random), pairs.conditions
            )
            self.state |= self.validation.start(weights)
        if settings.patience is not None:
            self.state["lowest_at"] = torch.tensor(0)

    def run(self, checkpoint: Path | None) -> Float[Tensor, " p"]:
        """Train to the end; returns the weights to sample with, flat."""
        steps, done = self.settings.steps, 0
        if checkpoint is not None and exists(checkpoint):
            self.state, done = load_checkpoint(checkpoint, self.state, steps)
        bar = progress(range(steps), "training the flow")
        bar.update(done)
        with bar, tracking.stage("flow", steps) as told:
            told.skip(done)
            for step in range(done, steps):
                if step % _JUDGED_EVERY == 0 and self._judge(step):
                    bar.total = step  # this is the end
                    break
                loss = self._step(step)
                bar.update()
                told.advance()
                told.log(lambda: {"loss": loss} | self._least())  # noqa: B023
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.note(loss=loss)
                    if checkpoint is not None:
                        save_checkpoint(checkpoint, self.state, step + 1)
            else:
                self._judge(steps)
        return self.state["best" if self.validation is not None else self.averaged]

    def _judge(self, step: int) -> bool:
        """Keep the weights if they are the best so far; whether to wait no longer for better ones."""
        if self.validation is None:
            return False
        better = self.validation.keep_best(self.velocity, self.layout, self.state, self.averaged)
        if self.settings.patience is None:
            return False
        if better:
            self.state["lowest_at"].fill_(step)
        return step - int(self.state["lowest_at"]) >= self.settings.patience

    def _least(self) -> dict[str, float]:
        """The lowest loss of validation codes so far, if there are any."""
        return {} if self.validation is None else {"lowest_validation_loss": self.state["least"].item()}

    def _step(self, step: int) -> float:
        """One update; returns the loss before it."""
        settings = self.settings
        loss, gradient = self._gradient(step)
        if not math.isfinite(loss):
            raise InputError(f"flow matching diverged at step {step + 1}: lower lr ({settings.lr})")
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        lr = settings.lr_final + (settings.lr - settings.lr_final) * cosine
        self.adam.update_(self.state["weights"], gradient, self.state, lr, settings.weight_decay, step + 1)
        if settings.ema:
            # Early on a long average would remember the untrained field.
            decay = min(settings.ema, (step + 1) / (step + 10))
            self.state["average"].lerp_(self.state["weights"], 1 - decay)
        return loss

    def _gradient(self, step: int) -> tuple[float, Tensor]:
        random = seeds.generator(self.seed, "flow batch", step)
        weights = self.state["weights"].detach()
        chosen, *drawn = self.pairs.draw(self.seen, self.settings.batch_size, random)
        t, x_t, dx_t = (tensor.to(weights.device) for tensor in drawn)
        known = self.pairs.known(chosen, random)
        known = None if known is None else known.to(weights.device)
        leaves = {name: view.requires_grad_() for name, view in self.layout.unpack(weights).items()}
        with seeds.seeded_modules(self.seed, f"flow dropout {step}"):
            predicted = functional_call(self.velocity, leaves, (x_t, t, known))
        loss = (predicted - dx_t).square().mean()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return loss.item(), self.layout.pack(dict(zip(leaves, gradients, strict=True)))

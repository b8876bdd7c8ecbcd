"""The recipe of DeepWeightFlow (arXiv 2601.05052), to compare with.

Written from the paper and its released code, with these mistakes of the code left out: source noise is drawn
afresh each step instead of once per network, and the last iterate is kept instead of the one with the lowest loss
on a single mini-batch.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.flow.fitted_flow import FLOWS
from weightspace.flow.flow_matching import FIELDS_ON_DISK, LATER_FIELDS, FlowMatching
from weightspace.flow.velocity import Velocity
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling


class BottleneckVelocity(nn.Module):
    """[x, time] -> h -> h/2 -> h -> x, LayerNorm and GELU after each: small enough for raw weights.

    The output moves in an affine space of at most h dimensions; in all others x_0 passes through unchanged.

    Args:
        codes: Length of a code.
        width: Units of the widest hidden layers, h.
        time: Width of the embedding of t.
        dropout: Dropout rate after the first two hidden layers.
    """

    def __init__(self, codes: int, width: int, time: int, dropout: float) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, time), nn.GELU(), nn.Linear(time, time))
        sizes = (codes + time, width, width // 2, width)
        layers: list[nn.Module] = []
        for i, (fan_in, units) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(fan_in, units), nn.LayerNorm(units), nn.GELU()]
            layers += [nn.Dropout(dropout)] if i < 2 else []
        self.hidden = nn.Sequential(*layers)
        self.outward = nn.Linear(width, codes)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(
        self, x: Float[Tensor, "n k"], t: Float[Tensor, "#n 1"], conditions: Float[Tensor, "n c"] | None = None
    ) -> Float[Tensor, "n k"]:
        """Velocities (n, K) at points.

        Args:
            x: Points, (n, K).
            t: Their times, (n, 1), or one time for all, (1, 1).
            conditions: Not used.
        """
        return self.outward(self.hidden(torch.cat([x, self.time(t).expand(len(x), -1)], dim=1)))


@FLOWS.register("DeepWeightFlow")
@dataclass(frozen=True)
class DeepWeightFlow(FlowMatching):
    """Flow matching as DeepWeightFlow does it, on raw weights (`compress=None`) or on PCA codes.

    Small source noise, no scaling of the codes, a bottleneck network, AdamW with small batches and no averaging;
    99 steps of Runge-Kutta to sample. With alignment to the first network and without scale balancing it is the
    published system: see `experiments/generator/published.py`.

    Args:
        width: Units of the widest hidden layers; the middle one has half as many.
        blocks: Not used; the network has three hidden layers.
        steps: Training iterations.
        batch_size: Pairs of noise and code in each iteration.
        lr: Peak learning rate of AdamW, with cosine decay.
        lr_final: Learning rate at the end of the decay.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of AdamW's moments.
        ema: Decay of averaged weights; 0 samples with the last ones.
        pairing: "independent" or "optimal" pairs of noise and codes; see `FlowMatching`.
        source_std: Standard deviation of the noise x_0, in units of the codes.
        path_noise_std: Standard deviation of noise added to the points x_t on the paths.
        condition_dropout: Not used; this flow takes no conditions.
        validation_fraction: Fraction of the codes that chooses the weights; see `FlowMatching`.
        solver_steps: Runge-Kutta steps from noise to codes, unless a call says otherwise.
        patience: Steps after which training ends if the loss of the validation codes did not fall.
        time: Width of the embedding of t.
        dropout: Dropout rate after the first two hidden layers.

    Raises:
        InputError: A setting is out of its range.
    """

    width: int = 512
    steps: int = 30_000
    batch_size: int = 8
    lr: float = 5e-4
    lr_final: float = 1e-6
    weight_decay: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    ema: float = 0.0
    source_std: float = 0.01
    solver_steps: int = 99
    time: int = 64
    dropout: float = 0.1
    path_noise_std: float = 1e-3

    spelling: ClassVar[Spelling] = Spelling("DeepWeightFlow", FIELDS_ON_DISK, later=LATER_FIELDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.settle(self, checks.count, "width", at_least=2)
        checks.settle(self, checks.count, "time", at_least=1)
        checks.settle(self, checks.number, "dropout", at_least=0, below=1)

    def scale(self, codes: Float[Tensor, "n k"]) -> float:
        """One: codes are taken as they are.

        Args:
            codes: Codes to train on, (N, K).
        """
        return 1.0

    def check(self, conditions: int, codes: int) -> None:
        """Raise InputError if there are conditions, or too few codes.

        Args:
            conditions: Numbers that describe each code.
            codes: Number of codes.
        """
        if conditions:
            raise InputError("DeepWeightFlow takes no conditions: use FlowMatching, or conditions=()")
        super().check(conditions, codes)

    def velocity(self, codes: int, conditions: int) -> Velocity:
        return BottleneckVelocity(codes, self.width, self.time, self.dropout)

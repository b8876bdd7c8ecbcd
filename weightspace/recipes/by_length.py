"""Batches of samples of similar length."""

from dataclasses import dataclass

from weightspace.runtime import checks


@dataclass(frozen=True)
class ByLength:
    """Batches gather token ids of similar length, and are cut to their longest: less padding is computed.

    The order stays a random one, and every sample is read once in an epoch: samples are drawn into pools, a pool is
    sorted by length and cut into batches, and the batches are shuffled. Token ids are the first tensor of whole numbers
    (samples, positions) among a task's inputs that is not called a mask; every input and target with as many positions
    on its second axis is cut with them.

    Args:
        padding: Token id that fills up the ends of short samples.
        pool: Number of batches that are sorted together.
    """

    padding: int = 0
    pool: int = 50

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "padding")
        checks.settle(self, checks.count, "pool", at_least=1)

"""How far networks are from the networks a generator learned from, in weights, errors and masks."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.overlap import off_diagonal
from weightspace.report.results import NovelShare

TAUS = (1, 2, 3, 4, 6)
FEW = 16


def distances(networks: Float[Tensor, "n d"], others: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "n m"]:
    """Euclidean distances, in float64; without `others` among the networks, infinite to oneself."""
    if others is not None:
        return torch.cdist(networks.double(), others.double())
    return torch.cdist(networks.double(), networks.double()).fill_diagonal_(torch.inf)


def error_iou(networks: Bool[Tensor, "n s"], others: Bool[Tensor, "m s"]) -> Float[Tensor, "n m"]:
    """Overlap of errors: samples that both networks get wrong over samples that either gets wrong.

    Two networks without errors overlap by 1 (convention of arXiv 2601.05052).
    """
    a, b = networks.float(), others.float()  # counts stay exact below 2^24 samples
    both = a @ b.T
    either = a.sum(1, keepdim=True) + b.sum(1) - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).double()


def error_correlation(networks: Float[Tensor, "n s"], others: Float[Tensor, "m s"]) -> Float[Tensor, "n m"]:
    """Correlation of errors that are values, such as residuals: 1 where two networks err alike.

    Two networks whose errors do not vary, as they make none, correlate by 1; one of them with another by 0.
    """
    a, b = (errors.double() - errors.double().mean(1, keepdim=True) for errors in (networks, others))
    lengths = [errors.norm(dim=1) for errors in (a, b)]
    both = lengths[0][:, None] * lengths[1]
    neither = (lengths[0][:, None] == 0) & (lengths[1] == 0)
    return torch.where(both > 0, a @ b.T / both.clamp(min=1e-300), neither.double()).clamp(-1, 1)


def likeness(networks: Float[Tensor, "n s"] | Bool[Tensor, "n s"], others: Tensor) -> Float[Tensor, "n m"]:
    """How alike networks err: overlap of wrong predictions, or correlation of errors that are values."""
    return error_iou(networks, others) if networks.dtype == torch.bool else error_correlation(networks, others)


def chance_likeness(errors: Float[Tensor, "n s"] | Bool[Tensor, "n s"]) -> float:
    """Mean likeness if networks erred independently; 0 for errors that are values."""
    return chance_iou(errors) if errors.dtype == torch.bool else 0.0


def chance_iou(wrong: Bool[Tensor, "n s"]) -> float:
    """Mean overlap of errors if networks erred independently: pq / (p + q - pq) for error rates p and q."""
    p = wrong.double().mean(1)
    both = p[:, None] * p
    union = p[:, None] + p - both
    overlap = torch.where(union > 0, both / union.clamp(min=1e-300), 1.0)
    return off_diagonal(overlap)


def from_few(
    target: Float[Tensor, "n k"], gram: Float[Tensor, "n k k"], squares: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Share of each vector's squared length that the best combination of its k base vectors explains.

    With deviations from the training mean as vectors and bases: an average of up to k training networks
    has 1, a network of the same recipe that the generator has not seen has little.

    Args:
        target: Inner products of each vector with its bases.
        gram: Inner products among the bases.
        squares: Squared lengths of the vectors.
    """
    # Copies among the bases make the system singular: the pseudo-inverse takes the shortest solution.
    solution = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ target[..., None]
    explained = (solution[..., 0] * target).sum(1)
    # A vector of rounding errors alone has no length that could be unexplained.
    tiny = 1e-12 * gram.diagonal(dim1=1, dim2=2).mean(1)
    return torch.where(squares > tiny, explained / squares.clamp(min=1e-300), 1.0).clamp(0, 1)


def z_u(samples: Float[Tensor, " n"], held_out: Float[Tensor, " m"]) -> tuple[float, float]:
    """Data-copying test (Meehan et al. 2020, arXiv 2004.05675): are samples closer to the training set than others?

    Args:
        samples: Distances of samples to the nearest training network.
        held_out: The same of held-out networks.

    Returns:
        Z_U, far below 0 for copies, far above 0 for networks that are too far, and U / (nm), the
        probability that a sample is farther than a held-out network. Z_U grows with n and m, the
        probability does not.
    """
    from scipy.stats import mannwhitneyu

    n, m = len(samples), len(held_out)
    u = float(mannwhitneyu(samples.numpy(), held_out.numpy(), method="asymptotic").statistic)
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12), u / (n * m)


def novel_and_performing(
    performing: Bool[Tensor, " n"], distance: Float[Tensor, " n"], *, unit: float
) -> list[NovelShare]:
    """Share of networks that perform and are far away, for several distances.

    Args:
        performing: Which networks perform.
        distance: Distance of each to the nearest training network.
        unit: Distance that tau is told in.
    """
    return [NovelShare(tau, (performing & (distance >= tau * unit)).double().mean().item()) for tau in TAUS]

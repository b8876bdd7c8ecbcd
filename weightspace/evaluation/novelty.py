"""How far networks are from the networks a generator learned from, in weights, errors and masks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def distances(networks: Float[Tensor, "n d"], others: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "n m"]:
    """Euclidean distances, in float64; without `others` among the networks, infinite to oneself."""
    if others is not None:
        return torch.cdist(networks.double(), others.double())
    return torch.cdist(networks.double(), networks.double()).fill_diagonal_(torch.inf)


def error_iou(networks: Bool[Tensor, "n s"], others: Bool[Tensor, "m s"] | None = None) -> Float[Tensor, "n m"]:
    """Overlap of errors: samples both get wrong over samples either gets wrong.

    Two networks without errors overlap by 1 (convention of arXiv 2601.05052). Without `others`, among
    the networks, and minus infinity to oneself.
    """
    a = networks.double()
    b = a if others is None else others.double()
    both = a @ b.T
    either = a.sum(1, keepdim=True) + b.sum(1) - both
    overlap = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return overlap if others is not None else overlap.fill_diagonal_(-torch.inf)


def mask_overlap(masks: Bool[Tensor, "n p"], others: Bool[Tensor, "m p"] | None = None) -> Float[Tensor, "n m"]:
    """Shared non-zeros over non-zeros (their mean where two masks differ in size).

    Random masks of density d overlap by d. Without `others`, among the masks, and NaN to oneself.
    """
    a = masks.double()
    b = a if others is None else others.double()
    overlap = 2 * (a @ b.T) / (a.sum(1, keepdim=True) + b.sum(1))
    return overlap if others is not None else overlap.fill_diagonal_(torch.nan)


def dispersion(networks: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]) -> float:
    """Root mean square distance to the own mean, relative to the reference's; below 0.8 is a warning.

    A generator that has collapsed to the mean network scores well in accuracy and near 0 here.
    """
    spreads = [((w.double() - w.double().mean(0)).square().sum(1)).mean() for w in (networks, reference)]
    return (spreads[0] / spreads[1]).sqrt().item()

"""What is done to gradients and decay before the optimiser's step."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.networks.layout import Layout
from weightspace.networks.selection import matching

_ROLES = {"biases": "bias", "norms": "norm"}


def clip_(
    gradient: Float[Tensor, "n d"], max_norm: float, trained: Bool[Tensor, "n d"] | Bool[Tensor, "1 d"] | None = None
) -> None:
    """Cut each network's gradient to a norm, in place, as torch.nn.utils.clip_grad_norm_ does with one network's.

    Args:
        gradient: Gradients.
        max_norm: Largest norm; smaller ones stay as they are.
        trained: True at the entries that are trained, which alone count; None for all.
    """
    counted = gradient if trained is None else gradient * trained
    norms = torch.linalg.vector_norm(counted, dim=1, keepdim=True)
    gradient.mul_((max_norm / (norms + 1e-6)).clamp_(max=1.0))


def decaying(layout: Layout, no_decay: Sequence[str]) -> Float[Tensor, "1 d"] | None:
    """1 at the entries that decay and 0 at the others; None where all decay.

    Args:
        layout: Layout of the networks.
        no_decay: "biases", "norms", and names or globs of the parameters that do not decay.

    Raises:
        InputError: A name matches no parameter.
    """
    if not no_decay:
        return None
    roles = {_ROLES[word] for word in no_decay if word in _ROLES}
    globs = [word for word in no_decay if word not in _ROLES]
    named = set(matching(globs, [e.name for e in layout.parameters], layout.names, "a parameter"))
    decays = torch.ones(1, layout.size, dtype=layout.dtype)
    for entry in layout.parameters:
        if entry.role in roles or entry.name in named:
            decays[:, layout.slices[entry.name]] = 0.0
    return decays

"""Scale balancing: a canonical choice among the rescalings of positively homogeneous units."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.symmetry import Axis, Symmetry

_PASSES = 1000  # ten are usual; nearly dead units of very sparse networks take longer
_RANGE = 1e3


def balance_scales(weights: Float[Tensor, "nets d"], symmetry: Symmetry) -> dict[str, Float[Tensor, "nets units"]]:
    """Scales that give every homogeneous unit equal norms of incoming and outgoing weights.

    Scaling unit j's incoming weights by s_j = sqrt(|out_j| / |in_j|) and dividing its outgoing weights
    by s_j makes both norms their geometric mean. Units without incoming or outgoing weights keep
    s = 1. Computed in float64, returned in the dtype of the weights.
    """
    groups = [group for group in symmetry.groups if group.homogeneous]
    current = weights.double()
    total = {group.name: current.new_ones(len(weights), group.size) for group in groups}
    for _ in range(_PASSES):
        change = 1.0
        for group in groups:
            state = symmetry.layout.unpack(current)
            incoming, outgoing = (_squared_norms(state, side) for side in (group.incoming, group.outgoing))
            scale = (outgoing / incoming).pow(0.25)
            scale = torch.where((incoming > 0) & (outgoing > 0), scale, 1.0).clamp(1 / _RANGE, _RANGE)
            total[group.name] = total[group.name] * scale
            current = symmetry.scale(current, {group.name: scale})
            change = max(change, scale.max().item(), 1 / scale.min().item())
        if change < 1 + 1e-7:
            break
    return {name: scale.to(weights.dtype) for name, scale in total.items()}


def _squared_norms(state: dict[str, Tensor], axes: tuple[Axis, ...]) -> Float[Tensor, "nets units"]:
    """Squared norm of everything that belongs to each unit on these axes."""
    parts = [state[a.tensor].movedim(a.axis + 1, 1).unsqueeze(-1).flatten(2).square().sum(2) for a in axes]
    return torch.stack(parts).sum(0)

"""The negative control of a proof: each axis moved alone must change the output, or the proof sees nothing there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from weightspace.runtime import seeds
from weightspace.symmetry.passes import exact_outputs, training_mode
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Axis, Group, Symmetry


def blind_axes(probe: Probe, varied: Probe, symmetry: Symmetry) -> list[str]:
    """Names of axes that can move alone without a change of the output, although their tensor matters.

    One backward pass shows for most axes that the output changes with them: along the way from the tensor to the
    moved one its derivative is not zero. Each of the others is moved, in a forward pass of its own.

    Args:
        probe: Probe of the module.
        varied: The same on other inputs.
        symmetry: The table.
    """
    # A rotation moves every unit, and is not its own inverse where there are more than two.
    permutations = {name: p.roll(1, -1) for name, p in symmetry.identity().items()}
    slopes = gradients(probe)
    blind: list[str] = []
    for tensor, axis in dict.fromkeys((a.tensor, a.axis) for g in symmetry.groups for a in g.axes):

        def here(a: Axis, tensor: str = tensor, axis: int = axis) -> bool:
            return (a.tensor, a.axis) == (tensor, axis)

        if all(len(g.axes) == 1 or g.size == 1 for g in symmetry.groups if any(map(here, g.axes))):
            continue  # moving it alone is the whole symmetry, or there is but one unit and no move
        groups = [Group(g.name, g.size, tuple(filter(here, g.axes)), (), parent=g.parent) for g in symmetry.groups]
        alone = Symmetry(symmetry.layout, tuple(groups), tuple(b.name for b in symmetry.layout.buffers))

        def one_sided(values: Tensor, alone: Symmetry = alone, tensor: str = tensor) -> Tensor:
            return alone.move({tensor: values}, permutations)[tensor]

        values = probe.values(tensor)
        if tensor in slopes:
            slope = torch.dot(slopes[tensor].flatten(), (one_sided(values) - values).flatten().to(slopes[tensor].dtype))
            if abs(float(slope)) >= probe.precision.changed:
                continue
        # A tensor may matter on other inputs than the example: then the example is at fault.
        changed = probe.precision.changed
        if probe.change_of(tensor, one_sided) < changed <= varied.change_of(tensor, varied.redraw(tensor)):
            blind.append(f"{tensor}[{axis}]")
    return blind


def gradients(probe: Probe) -> dict[str, Tensor]:
    """Derivatives of a random sum of all outputs, each relative to its scale, in evaluation mode.

    Args:
        probe: Probe of the module.

    Returns:
        A gradient for each tensor that autograd reaches; none at all where the module cannot be differentiated.
    """
    probe.hold()
    training_mode(probe.module, False)
    state = probe.module.state_dict(keep_vars=True)
    leaves = {e.name: state[e.name] for e in probe.layout.entries if state[e.name].is_floating_point()}
    before = {name: leaf.requires_grad for name, leaf in leaves.items()}
    try:
        for leaf in leaves.values():
            leaf.requires_grad_(True)
        with _OpenNorms():
            outputs = exact_outputs(probe.module, probe.inputs, probe.precision, gradients=True)
        total = _random_sum([t for t in outputs if t.requires_grad and t.numel()])
        if total is None:
            return {}
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except RuntimeError:
        # Written in place, or an operator without a derivative: every axis is moved instead.
        probe.holds["own"] = False
        return {}
    finally:
        for name, leaf in leaves.items():
            leaf.requires_grad_(before[name])
    return {name: slope for name, slope in zip(leaves, found, strict=True) if slope is not None}


def _random_sum(outputs: list[Tensor]) -> Tensor | None:
    random = seeds.generator(3, "symmetry proof sum")
    parts: list[Tensor] = []
    for t in outputs:
        weights = torch.randn(t.shape, dtype=torch.float64, generator=random).to(t.dtype)
        scale = float(t.detach().abs().max()) * t.numel() ** 0.5
        if scale > 0:
            parts.append((t * weights).sum() / scale)
    return torch.stack(parts).sum() if parts else None


class _OpenNorms(TorchFunctionMode):
    """Batch normalisation in evaluation mode as plain arithmetic: PyTorch's has no derivative for its statistics."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or mean is None or var is None:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    shape = [-1 if k == 1 else 1 for k in range(x.ndim)]
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * scale.reshape(shape) + shift.reshape(shape)

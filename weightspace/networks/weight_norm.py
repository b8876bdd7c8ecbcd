"""weight_norm for pruned networks: a row that lost all its weights is zero.

PyTorch divides each row by its length, and zero by zero is no number. Rows of any other length are computed as ever.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.weight_norm import WeightNorm


def allow_zero_rows(module: nn.Module) -> nn.Module:
    """Let the rows of weight-normed layers be zero, in place; parameters, names and other rows stay as they are.

    Args:
        module: Module with layers under `weight_norm`, as a parametrisation or as a hook, or without any.
    """
    for layer in module.modules():
        if isinstance(layer, parametrize.ParametrizationList):
            for i, step in enumerate(layer):
                if type(step) is parametrizations._WeightNorm:
                    layer[i] = _Parametrization(step.dim).train(step.training)
        for key, hook in layer._forward_pre_hooks.items():
            if isinstance(hook, WeightNorm):
                layer._forward_pre_hooks[key] = _Hook(hook.name, hook.dim)
    return module


def _normed(v: Tensor, g: Tensor, dim: int) -> Tensor:
    others = [axis for axis in range(v.ndim) if axis != dim]  # all of them for -1, the norm of the whole
    empty = torch.linalg.vector_norm(v.detach(), dim=others, keepdim=True) == 0
    return torch._weight_norm(torch.where(empty, 1.0, v), g, dim) * ~empty  # pyright: ignore[reportPrivateImportUsage]


class _Parametrization(parametrizations._WeightNorm):
    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return _normed(weight_v, weight_g, self.dim)

    def _get_name(self) -> str:
        return "_WeightNorm"  # a network is known by its text


class _Hook(WeightNorm):
    def compute_weight(self, module: nn.Module) -> Tensor:
        return _normed(getattr(module, f"{self.name}_v"), getattr(module, f"{self.name}_g"), self.dim)

"""Roles: what each parameter of a module is for, told from its layer and its name.

A name alone says little and a class alone knows only PyTorch's own layers. Here both are asked; what runs with example
inputs is asked by use as well (`weightspace.networks.uses`), and a user has the last word (`Architecture.of`).
"""

from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrizations, parametrize

Role = Literal["weight", "bias", "norm", "other", "buffer"]

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
# Under these a zero of the original is a zero of the tensor: by name, what is pruned of it.
_KEEP_ZEROS = ((parametrizations._WeightNorm, "original1"), (parametrizations._SpectralNorm, "original"))
_MARK = "_weightspace_prunable"
_HELD = "_weightspace_held"


def mark_held(module: nn.Module) -> nn.Module:
    """Say of a module that weights of it are buffers outside its state dict, as the base of adapters is.

    Args:
        module: The module.
    """
    setattr(module, _HELD, True)
    return module


def holds_weights(module: nn.Module) -> bool:
    """Whether weights of a module are buffers outside its state dict, which tell its units apart.

    Args:
        module: The module.
    """
    return getattr(module, _HELD, False)


def roles_of(module: nn.Module) -> dict[str, Role]:
    """The role of every parameter, by its name in the state dict.

    Args:
        module: The module.
    """
    found: dict[str, Role] = {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            found[_join(prefix, name)] = role_of(owner, name, parameter)
    for prefix, owner in module.named_modules():
        if parametrize.is_parametrized(owner):
            found |= _parametrized(prefix, owner)
    return found


def role_of(owner: nn.Module, name: str, parameter: nn.Parameter) -> Role:
    """The role of a parameter.

    Args:
        owner: The layer that holds it.
        name: Its name in the layer.
        parameter: The parameter.
    """
    if isinstance(owner, _NORMS):
        return "norm"
    if name == "bias" or name.startswith("bias_") or name.endswith("_bias"):
        return "bias"
    return "weight" if is_known_weight(owner, name) or _looks_like_weight(owner, name, parameter) else "other"


def is_known_weight(owner: nn.Module, name: str) -> bool:
    """Is this the weight of one of PyTorch's own linear, convolution, embedding, attention or recurrent layers?

    Args:
        owner: The layer that holds the parameter.
        name: Its name in the layer.
    """
    name = _without_hook(owner, name)
    if isinstance(owner, _RECURRENT):
        return name.startswith("weight_") and not name.endswith("_g")
    if isinstance(owner, nn.MultiheadAttention):
        return name.endswith("proj_weight")
    return isinstance(owner, _WEIGHTED) and name == "weight"


def mark(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """Let a module say which of its parameters may be pruned, whatever their layers.

    Args:
        module: Module that is changed in place; its state dict stays as it is.
        names: Names in the state dict.
    """
    setattr(module, _MARK, tuple(names))
    return module


def marked(module: nn.Module) -> tuple[str, ...] | None:
    """The names that `mark` gave a module; None for any other.

    Args:
        module: The module.
    """
    return getattr(module, _MARK, None)


def _looks_like_weight(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Is this named and shaped like the weight of somebody else's linear layer, as GPT-2's Conv1D has one?"""
    if isinstance(parameter, UninitializedParameter) or "norm" in type(owner).__name__.lower():
        return False
    if sum(size > 1 for size in parameter.shape) < 2 or type(owner) is parametrize.ParametrizationList:
        return False
    name = _without_hook(owner, name)
    return name in ("weight", "kernel") or name.endswith(("_weight", "proj")) or name.startswith("weight_")


def _without_hook(owner: nn.Module, name: str) -> str:
    """The name that a tensor had before weight_norm, spectral_norm or pruning renamed it."""
    if name.endswith("_v") and f"{name[:-2]}_g" in owner._parameters:
        return name[:-2]
    if name.endswith("_g") and f"{name[:-2]}_v" in owner._parameters:
        return ""  # lengths of the rows: none of them is an entry of the weight
    return name.removesuffix("_orig")


def _parametrized(prefix: str, owner: nn.Module) -> dict[str, Role]:
    """Roles of the originals of a parametrised layer's tensors."""
    found: dict[str, Role] = {}
    assert isinstance(owner.parametrizations, nn.ModuleDict)
    for name, steps in owner.parametrizations.items():
        assert isinstance(steps, nn.ModuleList)
        pruned = next((to for kind, to in _KEEP_ZEROS if isinstance(steps[0], kind) and len(steps) == 1), None)
        for original, parameter in steps.named_parameters(recurse=False):
            role = role_of(owner, name, parameter)
            at = _join(prefix, f"parametrizations.{name}.{original}")
            found[at] = "other" if role == "weight" and original != pruned else role
    return found


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name

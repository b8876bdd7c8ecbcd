"""A network with low-rank adapters beside some of its linear layers, and its own weights held outside the state dict.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.networks.calling import call
from weightspace.networks.roles import mark_held
from weightspace.networks.selection import matching
from weightspace.runtime.copies import copied
from weightspace.runtime.trees import Tree


class LowRankLinear(nn.Module):
    """A linear layer whose weight W stands still, with a trained change scale * B A of rank r.

    B begins at zero, so that the layer begins as it was; A is drawn as PyTorch draws linear layers.

    Args:
        layer: The layer; its weight and bias become buffers outside the state dict.
        rank: Number of rows of A (r, in) and columns of B (out, r).
        scale: Factor of the change.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight: Tensor
        self.bias: Tensor | None
        options = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False, **options)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False, **options)
        nn.init.kaiming_uniform_(self.lora_A.weight, math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.register_buffer("weight", layer.weight.detach().clone(), persistent=False)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with its change."""
        return F.linear(x, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(x))


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that can have an adapter, by the names of their weights.

    Args:
        module: Network. Layers inside `nn.MultiheadAttention`, whose weights are used without a call of the layer,
            have none.
    """
    found: dict[str, nn.Linear] = {}
    for name, layer in module.named_modules():
        owner = module.get_submodule(name.rpartition(".")[0]) if "." in name else module
        if name and type(layer) is nn.Linear and not isinstance(owner, nn.MultiheadAttention):
            found[f"{name}.weight"] = layer
    return found


def targets_of(module: nn.Module, globs: Sequence[str]) -> tuple[str, ...]:
    """Names of the weights with an adapter; without globs those of all linear layers.

    Args:
        module: Network.
        globs: Names or globs of weights.

    Raises:
        InputError: A glob matches no weight of a linear layer, or there is none.
    """
    layers = list(linear_layers(module))
    if not layers:
        raise InputError(f"{type(module).__name__} has no nn.Linear inside that could have an adapter: LoRA needs one")
    if not globs:
        return tuple(layers)
    names = [name for name, _ in module.named_parameters()]
    return matching(globs, layers, {name: name for name in names}, "the weight of an nn.Linear that is called")


def with_adapters(base: nn.Module, targets: Sequence[str], whole: Sequence[str], rank: int, scale: float) -> nn.Module:
    """A copy of a network with adapters; what is not trained is held as buffers outside the state dict.

    Buffers of the network's own are held too, such as embeddings that are not trained; only the statistics of norms,
    which change in training, are each adapter's own.

    Args:
        base: Network, which stays as it is.
        targets: Names of the weights with an adapter.
        whole: Names of parameters that are trained entirely.
        rank: Rank of the adapters.
        scale: Factor of the changes.
    """
    module = copied(base)
    for name in targets:
        place = name.removesuffix(".weight")
        above, _, own = place.rpartition(".")
        setattr(module.get_submodule(above), own, LowRankLinear(module.get_submodule(place), rank, scale))  # pyright: ignore[reportArgumentType]
    shared: dict[int, Tensor] = {}
    for prefix, layer in list(module.named_modules()):
        for own, parameter in list(layer.named_parameters(recurse=False)):
            name = f"{prefix}.{own}" if prefix else own
            if name in whole or ".lora_A." in f".{name}" or ".lora_B." in f".{name}":
                continue
            delattr(layer, own)
            still = shared.setdefault(id(parameter), parameter.detach().clone())  # tied ones stay tied
            layer.register_buffer(own, still, persistent=False)
        if not isinstance(layer, nn.modules.batchnorm._NormBase):
            for own, buffer in list(layer.named_buffers(recurse=False)):
                layer.register_buffer(own, buffer, persistent=False)
    return mark_held(module)


def moving_buffers(module: nn.Module, x: Tree) -> list[str]:
    """Names of held buffers that a forward pass in training changes.

    Args:
        module: A network with adapters, which is changed.
        x: A few inputs.
    """
    kept = set(module.state_dict())
    held = {name: buffer for name, buffer in module.named_buffers() if name not in kept}
    before = {name: buffer.clone() for name, buffer in held.items()}
    module.train()
    with torch.no_grad():
        call(module, x)
    after = dict(module.named_buffers())
    return [name for name, buffer in before.items() if not torch.equal(buffer, after[name])]

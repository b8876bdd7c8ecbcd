"""Modules that stay sparse while a user goes on training them.

The module keeps its plain parameters and state-dict names. Each pruned layer gets its mask as a
non-persistent buffer (`weight_mask` beside `weight`) and one forward hook, which puts a gradient
hook on the parameter: pruned weights receive no gradient, so no optimiser moves them off zero.
"""

import weakref

import torch
from torch import Tensor, nn


class DropPruned:
    """Gradient hook: no gradient for pruned weights."""

    # Not saved with the parameter on purpose: the forward hook makes it anew.
    __torch_unserializable__ = True

    def __init__(self, owner: nn.Module, name: str) -> None:
        self.owner = weakref.ref(owner)
        self.name = name

    def __call__(self, gradient: Tensor) -> Tensor:
        owner = self.owner()
        assert owner is not None, "a gradient arrived for a layer that no longer exists"
        return gradient.masked_fill(~owner.get_buffer(f"{self.name}_mask"), 0)


class KeepSparse:
    """Forward pre-hook and load hook that hold one layer's pruned weights at zero.

    Gradient hooks do not survive `copy.deepcopy` or pickling, module hooks do; so the forward hook
    renews the gradient hook whenever the parameter lacks it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, _ignored: object = None) -> None:
        parameter = getattr(module, self.name)
        if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad:
            return  # frozen, or a functional call with tensors of its own
        if not any(isinstance(hook, DropPruned) for hook in (parameter._backward_hooks or {}).values()):
            parameter.register_hook(DropPruned(module, self.name))

    def after_loading(self, module: nn.Module, _keys: object) -> None:
        """A state dict may hold values where this network is pruned."""
        with torch.no_grad():
            module.get_parameter(self.name).mul_(module.get_buffer(f"{self.name}_mask"))


def keep_sparse(module: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Zero the pruned weights of a module, in place, and hold them there during training.

    Args:
        module: Module that is changed in place.
        masks: Mask of each pruned tensor by state-dict name, in the tensor's shape; True = kept.
    """
    for path, mask in masks.items():
        owner_path, _, name = path.rpartition(".")
        owner = module.get_submodule(owner_path)
        owner.register_buffer(f"{name}_mask", mask.clone(), persistent=False)
        hook = KeepSparse(name)
        hook.after_loading(owner, None)
        owner.register_forward_pre_hook(hook)
        owner.register_load_state_dict_post_hook(hook.after_loading)
        hook(owner)
    return module

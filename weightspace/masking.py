"""Modules that stay sparse while a user goes on training them.

The module keeps its plain parameters and state-dict names. Each pruned layer gets its mask as a
non-persistent buffer (`weight_mask` beside `weight`) and one forward hook, which puts a gradient
hook on the parameter: pruned weights receive no gradient, so no optimiser moves them off zero.
"""

import weakref

import torch
from torch import Tensor, nn


class KeepSparse:
    """Forward pre-hook that holds one layer's pruned weights at zero.

    Gradient hooks do not survive `copy.deepcopy` or pickling, forward hooks do; so the forward hook
    renews the gradient hook whenever the parameter lacks it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, _inputs: object) -> None:
        parameter = module.get_parameter(self.name)
        hooks = (parameter._backward_hooks or {}).values()
        if parameter.requires_grad and not any(hasattr(hook, "_drops_pruned") for hook in hooks):
            self.attach(module)

    def attach(self, module: nn.Module) -> None:
        parameter = module.get_parameter(self.name)
        owner = weakref.ref(module)

        def drop_pruned(gradient: Tensor) -> Tensor:
            layer = owner()
            assert layer is not None, "a gradient arrived for a layer that no longer exists"
            return gradient.masked_fill(~layer.get_buffer(f"{self.name}_mask"), 0)

        # Not saved with the parameter on purpose: the forward hook makes it anew.
        drop_pruned.__torch_unserializable__ = True
        drop_pruned._drops_pruned = True
        parameter.register_hook(drop_pruned)


def keep_sparse(module: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Zero the pruned weights of a module, in place, and hold them there during training.

    Args:
        masks: mask of each pruned tensor by state-dict name, in the tensor's shape; True = kept.
    """
    for path, mask in masks.items():
        owner_path, _, name = path.rpartition(".")
        owner = module.get_submodule(owner_path)
        with torch.no_grad():
            owner.get_parameter(name).mul_(mask)
        owner.register_buffer(f"{name}_mask", mask.clone(), persistent=False)
        hook = KeepSparse(name)
        owner.register_forward_pre_hook(hook)
        hook.attach(owner)
    return module

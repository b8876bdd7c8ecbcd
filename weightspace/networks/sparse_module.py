"""Modules that stay sparse, whatever a user does with them.

The module keeps its plain parameters and state-dict names. Each pruned layer gets its mask as a non-persistent buffer
(`weight_mask` beside `weight`), and its pruned weights are set to zero

- after every step of an optimiser of `torch.optim`, or derived from it (one hook for all of them),
- before every forward pass of the module, or of the layer, which covers edits in place, noise and averaged weights,
- whenever the state dict is read or loaded.

They receive no gradient either. Under `torch.func.functional_call` the tensors of the caller stay as they are; the
module computes with their masked values.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils._python_dispatch import _disable_current_modes, is_in_torch_dispatch_mode

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_pruned(values: Tensor, mask: Tensor) -> None:
    """Set values to zero where the mask is False, in place, NaN too.

    Args:
        values: Tensor that does not need a gradient.
        mask: True = kept, in the shape of the values.
    """
    mask = mask.to(values.device)
    if type(values) is Tensor and values.element_size() in _BITS:
        # All bits of a pruned value are cleared: eight times as fast on the CPU as masked_fill.
        values.view(_BITS[values.element_size()]).bitwise_and_(mask.view(torch.int8).neg())
    else:
        values.masked_fill_(~mask, 0)


class DropPruned:
    """Gradient hook: no gradient for pruned weights. It also leads from a parameter to its mask."""

    # Not saved with the parameter on purpose: the forward hook makes it anew.
    __torch_unserializable__ = True

    def __init__(self, owner: nn.Module, name: str) -> None:
        self.owner = weakref.ref(owner)
        self.name = name

    @property
    def mask(self) -> Tensor | None:
        """The mask of the parameter; None if its layer no longer exists."""
        owner = self.owner()
        return None if owner is None else owner.get_buffer(f"{self.name}_mask")

    def __call__(self, gradient: Tensor) -> Tensor:
        mask = self.mask
        assert mask is not None, "a gradient arrived for a layer that no longer exists"
        if not gradient.is_contiguous() or gradient.requires_grad or type(gradient) is not Tensor:
            return gradient.masked_fill(~mask, 0)
        gradient = gradient.clone()
        zero_pruned(gradient, mask)
        return gradient


class KeepSparse:
    """Hooks that hold one layer's pruned weights at zero.

    Gradient hooks do not survive `copy.deepcopy` or pickling, module hooks do; so the forward hook
    renews the gradient hook whenever the parameter lacks it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def mask(self, module: nn.Module) -> Tensor:
        """The layer's mask."""
        return module.get_buffer(f"{self.name}_mask")

    def __call__(self, module: nn.Module, _ignored: object = None) -> None:
        """Before a forward pass."""
        parameter = module._parameters.get(self.name)
        if not isinstance(parameter, nn.Parameter):
            return  # a functional call with tensors of its own, see KeepWholeSparse
        if torch.compiler.is_compiling():
            # What is exported was read from the state dict. Not `is_exporting()`, which torch 2.11 takes for true in
            # whatever it compiles.
            if not torch.compiler._is_exporting_flag:  # pyright: ignore[reportPrivateImportUsage]
                with torch.no_grad():
                    parameter.masked_fill_(~self.mask(module), 0)
            return
        self.clean(module)
        if parameter.requires_grad and _gradient_hook(parameter) is None:
            parameter.register_hook(DropPruned(module, self.name))

    def clean(self, module: nn.Module) -> None:
        """Set the pruned weights to zero."""
        parameter = module._parameters.get(self.name)
        if isinstance(parameter, nn.Parameter) and not parameter.is_meta and not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            with _unseen():
                # Without a new version: the graph of an earlier call of the layer stays valid.
                zero_pruned(parameter.data, self.mask(module))

    def before_saving(self, module: nn.Module, _prefix: str, _keep_vars: bool) -> None:
        """A parameter may have been edited since the last forward pass."""
        self.clean(module)

    def after_loading(self, module: nn.Module, _keys: object) -> None:
        """A state dict may hold values where this network is pruned."""
        self.clean(module)


class KeepWholeSparse:
    """Hooks of the whole module: for layers whose own forward does not run, tied tensors and functional calls."""

    def __init__(self) -> None:
        self._places: list[list[tuple[nn.Module, str, Tensor]]] = []

    def __call__(self, module: nn.Module, _ignored: object = None) -> None:
        """Before a forward pass."""
        masked: dict[int, Tensor] = {}
        for owner, hook in masked_tensors(module):
            value = owner._parameters.get(hook.name)
            if isinstance(value, nn.Parameter):
                hook(owner)
            elif value is not None:
                masked[id(value)] = torch.where(hook.mask(owner), value, 0.0)
        places: list[tuple[nn.Module, str, Tensor]] = []
        for child in module.modules() if masked else ():
            for name, value in child._parameters.items():
                if value is not None and id(value) in masked:
                    places.append((child, name, value))
                    child._parameters[name] = masked[id(value)]  # pyright: ignore[reportArgumentType]
        self._places.append(places)

    def after(self, module: nn.Module, _inputs: object, _outputs: object) -> None:  # noqa: ARG002
        """After a forward pass, failed ones too: the caller's tensors are back."""
        for child, name, value in self._places.pop() if self._places else ():
            child._parameters[name] = value  # pyright: ignore[reportArgumentType]


def keep_sparse(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Zero the pruned weights of a module, in place, and hold them there from now on.

    Called again, it replaces the masks of the tensors that it names.

    Args:
        module: Module that is changed in place.
        masks: Mask of each pruned tensor by state-dict name, in the tensor's shape; True = kept.
    """
    for path, mask in masks.items():
        owner_path, _, name = path.rpartition(".")
        owner = module.get_submodule(owner_path)
        hook = next((hook for hook in _hooks(owner) if hook.name == name), None)
        if hook is not None:
            hook.mask(owner).copy_(mask)
        else:
            owner.register_buffer(f"{name}_mask", mask.clone(), persistent=False)
            hook = KeepSparse(name)
            # Before hooks of other libraries, which may compute with the weight.
            owner.register_forward_pre_hook(hook, prepend=True)
            owner.register_state_dict_pre_hook(hook.before_saving)
            owner.register_load_state_dict_post_hook(hook.after_loading)
        hook(owner)
    if masks and not any(isinstance(hook, KeepWholeSparse) for hook in module._forward_pre_hooks.values()):
        whole = KeepWholeSparse()
        module.register_forward_pre_hook(whole, prepend=True)
        module.register_forward_hook(whole.after, always_call=True)
    return module


def masked_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, KeepSparse]]:
    """The layers of a module that are held sparse, with their hooks: one for each tensor."""
    for owner in module.modules():
        for hook in _hooks(owner):
            yield owner, hook


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    """The masks of a module that is held sparse, by the state-dict names of their tensors; copies.

    Args:
        module: Module that `keep_sparse` changed; any other has no masks.
    """
    return {
        f"{path}.{hook.name}" if path else hook.name: hook.mask(owner).clone()
        for path, owner in module.named_modules()
        for hook in _hooks(owner)
    }


def release(module: nn.Module) -> nn.Module:
    """Take masks and hooks off a module, in place: its weights can be set to anything.

    Args:
        module: Module that `keep_sparse` changed, or any.
    """
    for owner in module.modules():
        for hook in list(_hooks(owner)):
            del owner._buffers[f"{hook.name}_mask"]
            owner._non_persistent_buffers_set.discard(f"{hook.name}_mask")
            parameter = owner._parameters.get(hook.name)
            gradient_hooks: dict[int, Any] = getattr(parameter, "_backward_hooks", None) or {}
            for key, own in list(gradient_hooks.items()):
                if isinstance(own, DropPruned):
                    del gradient_hooks[key]
        for hooks in (
            owner._forward_pre_hooks,
            owner._forward_hooks,
            owner._state_dict_pre_hooks,
            owner._load_state_dict_post_hooks,
        ):
            for key, own in list(hooks.items()):
                if holds_sparse(own):
                    del hooks[key]
                    owner._forward_hooks_always_called.pop(key, None)
    return module


def holds_sparse(hook: Any) -> bool:
    """Is this one of the hooks that `keep_sparse` registers?"""
    return isinstance(getattr(hook, "__self__", hook), KeepSparse | KeepWholeSparse)


def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    """Momentum from a dense phase, decay or noise may have moved pruned weights off zero."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            hook = _gradient_hook(parameter)
            mask = None if hook is None else hook.mask
            if mask is not None:
                with _unseen():
                    zero_pruned(parameter.data, mask)


register_optimizer_step_post_hook(_after_step)


@contextmanager
def _unseen() -> Iterator[None]:
    """Outside of what records operators, and of the transforms of torch.func."""
    with ExitStack() as outside:
        if is_in_torch_dispatch_mode():
            outside.enter_context(_disable_current_modes())
        if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
            outside.enter_context(temporarily_clear_interpreter_stack())
        yield


def _hooks(owner: nn.Module) -> Iterator[KeepSparse]:
    return (hook for hook in owner._forward_pre_hooks.values() if isinstance(hook, KeepSparse))


def _gradient_hook(parameter: Tensor) -> DropPruned | None:
    hooks = (parameter._backward_hooks or {}).values()
    return next((hook for hook in hooks if isinstance(hook, DropPruned)), None)

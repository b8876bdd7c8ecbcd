"""A card that is not there: tensors on "cuda" compute on the CPU, under the rules of placement that CUDA has.

Inside `card()` a tensor is on the card if it was made or moved there; its `device` says so, and so does that of all
that is computed from it. What fails on a card fails here: an operator that meets tensors of both devices (of no axes
excepted), `numpy()` of a tensor on the card, a CPU generator that draws there. Numbers are those of the CPU, so that
results must agree with a run without the card.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from weightspace.runtime import seeds

CARD = torch.device("cuda", 0)
CPU = torch.device("cpu")

aten = torch.ops.aten
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}  # by CPU indices
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.mv, aten.dot}
_CROSSING = {aten.copy_, aten.copy, aten._to_copy}
_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "normal_", "uniform_", "exponential_", "random_"}
_UNSEEN = {"Tensor.__deepcopy__", "Tensor.new_tensor", "tensor"}  # no operator makes what they return
_TO_NUMPY = {"Tensor.numpy", "Tensor.__array__"}
_DEVICES = {"Tensor.device.__get__": lambda card: CARD if card else CPU, "Tensor.is_cuda.__get__": bool}
_DEVICES |= {"Tensor.is_cpu.__get__": lambda card: not card, "Tensor.get_device": lambda card: 0 if card else -1}


class WrongDevice(RuntimeError):
    """What a card would have refused."""


class _Placement:
    """Which storages are on the card. A weak reference keeps the address of a storage from being used again."""

    def __init__(self) -> None:
        self.storages: dict[int, StorageWeakRef] = {}
        self.calls: list[bool] = []  # whether what the functions that run now make is on the card
        self.products = 0  # of matrices, and convolutions, on the card

    def has(self, tensor: Tensor) -> bool:
        return _storage(tensor)._cdata in self.storages

    def put(self, tensor: Tensor, card: bool) -> None:
        storage = _storage(tensor)
        if card:
            self.storages.setdefault(storage._cdata, StorageWeakRef(storage))
        else:
            self.storages.pop(storage._cdata, None)
        if len(self.storages) % 4096 == 4095:
            self.storages = {key: ref for key, ref in self.storages.items() if not ref.expired()}


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()


def _tensors(*values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


@cache
def _name(func: Any) -> str:
    """The name of a function, such as "zeros" or "Tensor.to"."""
    name = resolve_name(func) or getattr(func, "__name__", "")
    return name.removeprefix("torch.").removeprefix("_C.").replace("TensorBase.", "Tensor.")


class _Operators(TorchDispatchMode):
    """Checks each operator's tensors, below autograd and vmap, and places what it returns."""

    def __init__(self, placement: _Placement) -> None:
        super().__init__()
        self.placement = placement

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, placement = kwargs or {}, self.placement
        inputs = _tensors(args, kwargs)
        card = any(map(placement.has, inputs))
        packet = func._overloadpacket
        if card and packet not in _CROSSING:
            checked = inputs
            if packet in _INDEXING and placement.has(args[0]):
                checked = _tensors(args[0], args[2:])
            off = [t for t in checked if t.ndim and not placement.has(t)]
            if off:
                shapes = [f"{tuple(t.shape)} on {'cuda' if placement.has(t) else 'cpu'}" for t in inputs]
                raise WrongDevice(f"{func} got tensors on two devices: {', '.join(shapes)}")
        if not inputs and placement.calls:
            card = placement.calls[-1]
        name = packet.__name__
        if card and (name in _DRAWS or kwargs.get("generator") is not None):
            raise WrongDevice(f"{func} draws on the card: draw with a generator of the CPU and move the numbers")
        placement.products += card and packet in _PRODUCTS
        known = {_storage(t)._cdata for t in inputs}
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if _storage(tensor)._cdata not in known:
                placement.put(tensor, card)
        return result


class _Functions(TorchFunctionMode):
    """Reads the devices in calls from Python, says what `device` is, and moves tensors."""

    def __init__(self, placement: _Placement) -> None:
        super().__init__()
        self.placement = placement

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, placement = dict(kwargs or {}), self.placement
        name = _name(func)
        inputs = _tensors(args, kwargs)
        card = any(map(placement.has, inputs))
        if name in _DEVICES:
            return _DEVICES[name](card)
        if name in _TO_NUMPY and card and not kwargs.get("force"):
            raise WrongDevice("numpy() of a tensor on the card: bring it back with .cpu() first")
        wanted, args, kwargs = self._wanted(name, args, kwargs)
        placement.calls.append(card if wanted is None else wanted)
        try:
            result = func(*args, **kwargs)
        finally:
            placement.calls.pop()
        if wanted is None and name in _UNSEEN:
            wanted = card
        if wanted is None:
            return result
        return tree_map_only(Tensor, lambda tensor: self._moved(tensor, inputs, wanted), result)

    def _wanted(self, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[bool | None, Any, dict[str, Any]]:
        """Whether a call asks for the card, None if it does not say; and its arguments without that."""
        if name.endswith("_parse_to"):  # reads the arguments of Module.to
            return None, args, kwargs
        if name in ("Tensor.cpu", "Tensor.cuda"):
            return name == "Tensor.cuda", args, kwargs
        if name == "Tensor.to":
            other = next((a for a in (*args[1:], kwargs.get("other")) if isinstance(a, Tensor)), None)
            if other is not None:
                return self.placement.has(other), args, kwargs
        on_card: bool | None = None
        kept: list[Any] = []
        for i, value in enumerate(args):
            if isinstance(value, torch.device) or (name == "Tensor.to" and i and isinstance(value, str)):
                on_card, value = _is_card(value), CPU
            kept.append(value)
        if kwargs.get("device") is not None:
            on_card, kwargs["device"] = _is_card(kwargs["device"]), CPU
        return on_card, tuple(kept), kwargs

    def _moved(self, tensor: Tensor, inputs: list[Tensor], card: bool) -> Tensor:
        if self.placement.has(tensor) == card:
            return tensor
        shared = {_storage(t)._cdata for t in inputs}
        if _storage(tensor)._cdata in shared:
            tensor = tensor.clone()
        self.placement.put(tensor, card)
        return tensor


def _is_card(device: Any) -> bool:
    device = torch.device(device)
    if device.type not in ("cpu", "cuda", "meta"):
        raise WrongDevice(f"there is no device {device}")
    return device.type == "cuda"


@contextmanager
def card() -> Iterator[_Placement]:
    """Inside, "cuda" is a card with rules as above."""
    placement = _Placement()
    with ExitStack() as stack:
        seeds.cards.cache_clear()
        stack.callback(seeds.cards.cache_clear)
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "mem_get_info": lambda _device=None: (2**34, 2**34),
            "synchronize": lambda _device=None: None,
            "get_rng_state": lambda _device=None: None,
            "set_rng_state": lambda _state, _device=None: None,
        }.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        name = "_accelerator_graph_capture_health_check"  # asks the driver
        stack.enter_context(mock.patch.object(torch.optim.Optimizer, name, return_value=None))
        stack.enter_context(_Operators(placement))
        stack.enter_context(_Functions(placement))
        yield placement

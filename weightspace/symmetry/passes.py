"""Forward passes for tracing and proof: without dropout, in either mode, with all outputs in sight."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.networks.sparse_module import release
from weightspace.runtime import seeds, trees
from weightspace.runtime.copies import copied
from weightspace.runtime.double import in_double
from weightspace.runtime.outputs import tensors_within
from weightspace.runtime.trees import Tree

_DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
T = TypeVar("T")
_CACHES = ("cache", "past_key_values", "cache_params", "mems")
_SEES_VALUES = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


def call(module: nn.Module, inputs: Tree) -> Any:
    """A forward pass without dropout of any kind, so that two passes can be compared."""
    with _NoDropout():
        return calling.call(module, inputs)


def training_mode(module: nn.Module, training: bool) -> None:
    """Training mode but for dropout layers."""
    module.train(training)
    for child in module.modules():
        name = type(child).__name__.lower()
        leaf = not list(child.children()) and not list(child.parameters(False))
        dropping = isinstance(child, nn.modules.dropout._DropoutNd) or (
            leaf and ("droppath" in name or "stochasticdepth" in name)
        )
        if dropping:
            child.training = False
        if isinstance(child, nn.RNNBase | nn.MultiheadAttention):
            child.dropout = 0.0


@dataclass(frozen=True)
class Precision:
    """In which type of number a module runs for a proof.

    Args:
        dtype: The type.
        same: Two outputs are the same up to this share of their scale.
        changed: An output has changed from this share of its scale on.
    """

    dtype: torch.dtype
    same: float
    changed: float

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nothing inside is rounded more than that."""
        if self.dtype is torch.float64:
            with in_double():
                yield
        else:
            yield

    def module(self, module: nn.Module) -> nn.Module:
        """A copy of a module, without sparsity, in this type.

        Args:
            module: The module.
        """
        return release(copied(module)).to(self.dtype)

    def inputs(self, inputs: Tree) -> Tree:
        """Inputs in this type, copied.

        Args:
            inputs: The inputs.
        """
        return trees.apply(lambda t: t.to(self.dtype) if t.is_floating_point() else t.clone(), inputs)


EXACT = Precision(torch.float64, 1e-9, 1e-6)
SINGLE = Precision(torch.float32, 1e-4, 1e-3)


def in_a_precision(attempt: Callable[[Precision], T], name: str) -> T:
    """What an attempt gives in float64; in float32, with a warning, where a module runs in that alone.

    Args:
        attempt: Copies a module and runs it; it raises if the module does not run.
        name: Name of the module's class, for messages.

    Raises:
        InputError: The module does not run in either.
    """
    try:
        return attempt(EXACT)
    except Exception as error:  # a user's module can raise anything
        try:
            made = attempt(SINGLE)
        except Exception:
            raise InputError(f"{name} does not run on the example, or cannot be copied: {error}") from error
        warnings.warn(
            f"{name} does not run in float64 ({error}): its symmetry is proven in float32, where outputs are the same "
            f"up to {SINGLE.same:g} of their scale",
            stacklevel=4,
        )
        return made


def exact_outputs(
    module: nn.Module, inputs: Tree, precision: Precision = EXACT, *, gradients: bool = False, seed: int = 0
) -> list[Tensor]:
    """The tensors of a module's outputs, without rounding or dropout.

    Args:
        module: A copy in this precision, by `Precision.module`.
        inputs: Inputs by `Precision.inputs`.
        precision: The precision.
        gradients: Whether the outputs can be differentiated.
        seed: Seed of what the module draws.
    """
    with torch.set_grad_enabled(gradients), seeds.seeded_modules(seed, "symmetry proof"), precision.kept():
        return tensors_within(without_caches(call(module, copy.deepcopy(inputs))))


def without_caches(outputs: Any) -> Any:
    """Outputs but for what is only there to be given back to the same network, as language models' keys and values.

    Args:
        outputs: What a module returned; caches are known by their names in a mapping.
    """
    if not isinstance(outputs, Mapping) or not any(name in outputs for name in _CACHES):
        return outputs
    return {name: value for name, value in outputs.items() if name not in _CACHES}


class _NoDropout(TorchFunctionMode):
    """Functional dropout passes its input on."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*args, **kwargs)


class SeesValues(TorchFunctionMode):
    """Refuses what takes values out of tensors where no operator can see it.

    Args:
        known: Whether no permutation changes a tensor.
        place: Where in the module that is, for messages.
    """

    def __init__(self, known: Callable[[Tensor], bool], place: Callable[[], str]) -> None:
        super().__init__()
        self.known, self.place = known, place

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SEES_VALUES and not self.known(args[0]):
            raise InputError(
                f"a tensor is turned into numbers (Tensor.{func.__name__}) {self.place()}: control flow that depends "
                "on data cannot be traced. Write the symmetry by hand (symmetry=)"
            )
        if getattr(func, "__name__", "") == "_pad_packed_sequence":
            return _padded(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _padded(steps: Tensor, sizes: Tensor, batch_first: bool, value: float, length: int | None) -> tuple[Tensor, Tensor]:
    """The padding of packed sequences as one choice of rows; PyTorch's own writes them into a tensor one by one."""
    counts = sizes.tolist()
    starts = [sum(counts[:t]) for t in range(len(counts))]
    total = max(len(counts), length or 0)
    rows = [
        [starts[t] + b if t < len(counts) and b < counts[t] else len(steps) for t in range(total)]
        for b in range(counts[0])
    ]
    padding = torch.full((1, *steps.shape[1:]), value, dtype=steps.dtype)
    padded = torch.cat([steps, padding])[torch.tensor(rows)]
    lengths = torch.tensor([sum(b < count for count in counts) for b in range(counts[0])])
    return padded if batch_first else padded.transpose(0, 1), lengths

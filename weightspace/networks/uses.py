"""Which parameters are weights, told from what a forward pass does with them.

Somebody else's linear layer is recognised by its product, whatever its class: a parameter counts as a weight where a
product of matrices, a convolution or a lookup takes it together with something that depends on the inputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from weightspace.networks.calling import call
from weightspace.networks.forward import evaluation
from weightspace.networks.layout import Layout
from weightspace.networks.roles import is_known_weight
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.runtime.watching import OperatorMode

_PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_grouped_mm", "convolution", "_convolution", "_trilinear",
    "embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select", "gather", "linear",
    "mkldnn_rnn_layer", "lstm", "gru", "rnn_tanh", "rnn_relu",
}  # fmt: skip
# A zero that goes in comes out as a zero of the same weight. Views are found by their storage.
_COPIES = {
    "_to_copy", "clone", "contiguous", "cat", "stack", "index", "index_select", "gather", "neg", "constant_pad_nd",
    "_unsafe_view", "_reshape_copy", "repeat", "roll", "flip",
}  # fmt: skip
_SCALINGS = {"mul", "div", "mul_", "div_", "where"}


def weights_by_use(module: nn.Module, layout: Layout, example: Tree) -> tuple[str, ...]:
    """The prunable weights of a module as its use shows them, in the layout's order.

    Weights of PyTorch's own layers count whatever becomes of them. Of the others, those that are used decide by their
    use; those that the example does not reach stay what their names say.

    Args:
        module: The module; it is left as it is.
        layout: Its layout.
        example: A few inputs. Where the module does not run on them, names alone decide.
    """
    known = _known(module, layout)
    if all(entry.name in known for entry in layout.candidates):
        return tuple(entry.name for entry in layout.weights)  # nothing is left to find out
    watch = _Watch(dict(module.named_parameters()), trees.tensors(example))
    with torch.no_grad(), evaluation(module):
        try:
            with watch:
                call(module, example)
        except Exception:  # whatever the user's code raises: `Task.try_out` runs it again and says so
            return tuple(entry.name for entry in layout.weights)
    return tuple(
        e.name
        for e in layout.candidates
        if e.name in known or e.name in watch.multiplied or (e.role == "weight" and e.name not in watch.elsewhere)
    )


def _known(module: nn.Module, layout: Layout) -> set[str]:
    """Names of the weights of PyTorch's own layers, under whatever parametrisation."""
    layers = dict(module.named_modules())
    known: set[str] = set()
    for name in (entry.name for entry in layout.weights):
        path, _, last = name.rpartition(".")
        owner, parametrized, tensor = path.rpartition("parametrizations.")
        if parametrized:
            path, last = owner.rstrip("."), tensor
        if is_known_weight(layers[path], last):
            known.add(name)
    return known


class _Watch(OperatorMode):
    """Follows parameters and inputs through a forward pass.

    Args:
        parameters: The parameters by name.
        inputs: The tensors that the module is given.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], inputs: list[Tensor]) -> None:
        super().__init__()
        self.multiplied: set[str] = set()  # by something that depends on the inputs
        self.elsewhere: set[str] = set()  # used otherwise
        self._holds: dict[StorageWeakRef, set[str]] = {_storage(p): {name} for name, p in parameters.items()}
        self._inputs = {_storage(x) for x in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        depends = [_storage(x) in self._inputs for x in taken]
        held = [self._holds.get(_storage(x), set()) for x in taken]
        if any(depends):
            used = set().union(*held)
            (self.multiplied if name in _PRODUCTS else self.elsewhere).update(used)
            self._inputs.update(map(_storage, out))
            return made
        for x in out:
            if _storage(x) in self._holds:
                continue  # a view of a parameter, or one that was changed in place
            if passed := self._passed(name, taken, held, x):
                self._holds[_storage(x)] = passed
        return made

    def _passed(self, name: str, taken: list[Tensor], held: list[set[str]], out: Tensor) -> set[str]:
        """The parameters whose entries are the entries of an output."""
        if name in _COPIES:
            return set().union(*held)
        if name == "_weight_norm_interface":
            return held[0]
        if name in _SCALINGS:
            return set().union(*(names for x, names in zip(taken, held, strict=True) if x.shape == out.shape))
        return set()


def _storage(tensor: Tensor) -> StorageWeakRef:
    """Identifies the memory that tensors share; it is not given to others as long as this is kept."""
    return StorageWeakRef(tensor.untyped_storage())

"""Structures of tensors: a tensor, or tuples, lists, mappings and dataclasses of such.

Inputs, targets and outputs of networks come in such structures. What is no tensor (None, a number, a text) stays as
it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from weightspace.errors import InputError

Tree: TypeAlias = Any
"""A tensor, or a tuple, list, mapping or dataclass of such."""


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a structure with their names, such as "ids" or "0.mask"; the name of a lone tensor is empty."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    for key, part in _parts(tree):
        yield from leaves(part, f"{name}.{key}" if name else str(key))


def tensors(tree: Tree) -> list[Tensor]:
    """The tensors of a structure, in order."""
    return [tensor for _, tensor in leaves(tree)]


def apply(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The structure with a function applied to each tensor.

    Args:
        function: Function of a tensor, and of the tensors at the same place of the others.
        tree: A structure.
        others: Structures like it.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if not _is_structure(tree):
        return tree
    rest = [dict(_parts(other)) for other in others]
    made = {key: apply(function, part, *(other[key] for other in rest)) for key, part in _parts(tree)}
    if isinstance(tree, Mapping) and not is_dataclass(tree):
        return made
    kind: Any = type(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return kind(**made)
    return kind(*made.values()) if hasattr(tree, "_fields") else kind(made.values())  # a named tuple, or plain


def rebuild(tree: Tree, parts: Sequence[Tensor]) -> Tree:
    """The structure with other tensors in the places of its own, in their order."""
    remaining = iter(parts)
    return apply(lambda _: next(remaining), tree)


def stack(trees: Sequence[Tree], dim: int = 0) -> Tree:
    """Equal structures, each tensor stacked along a new axis."""
    return apply(lambda *parts: torch.stack(parts, dim), *trees)


def concatenate(trees: Sequence[Tree], dim: int = 0) -> Tree:
    """Equal structures, each tensor concatenated along an axis."""
    return trees[0] if len(trees) == 1 else apply(lambda *parts: torch.cat(parts, dim), *trees)


def take(tree: Tree, rows: Any) -> Tree:
    """The structure with `tensor[rows]` in the place of each tensor."""
    return apply(lambda tensor: tensor[rows], tree)


def to(tree: Tree, device: str | torch.device) -> Tree:
    """The structure on a device."""
    return apply(lambda tensor: tensor.to(device), tree)


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """The structure with its floating-point tensors in another dtype; others stay what they are."""
    return apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, tree)


def finite(tree: Tree) -> bool:
    """Whether all numbers in a structure are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors(tree))


def shapes(tree: Tree) -> str:
    """The shapes of a structure's tensors, for messages: "(8, 3)", or "ids (8, 20), mask (8, 20)"."""
    return ", ".join(f"{name} {tuple(tensor.shape)}".strip() for name, tensor in leaves(tree)) or "no tensors"


def samples(tree: Tree, what: str = "inputs") -> int:
    """The length of the first axis, which all tensors of a structure share.

    Args:
        tree: A structure.
        what: What it is, for messages.

    Raises:
        InputError: There is no tensor, a tensor has no axis, or the lengths differ.
    """
    found = tensors(tree)
    if not found:
        raise InputError(f"the {what} hold no tensor: convert arrays with torch.as_tensor")
    if any(not tensor.ndim for tensor in found) or len({len(tensor) for tensor in found}) > 1:
        raise InputError(f"the {what} must all have one row for each sample, got {shapes(tree)}")
    return len(found[0])


def first(tree: Tree) -> Tensor:
    """The first tensor of a structure.

    Raises:
        InputError: There is none.
    """
    for tensor in tensors(tree):
        return tensor
    raise InputError(f"expected a tensor, or a structure of tensors, got {type(tree).__name__}")


def _is_structure(tree: Tree) -> bool:
    return isinstance(tree, Mapping | tuple | list) or (is_dataclass(tree) and not isinstance(tree, type))


def _parts(tree: Tree) -> list[tuple[Any, Any]]:
    if isinstance(tree, Mapping):  # before dataclasses: transformers' outputs are both
        return list(tree.items())
    if is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    return list(enumerate(tree)) if isinstance(tree, tuple | list) else []

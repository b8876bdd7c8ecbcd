"""Checks of what a collection is made of, and of what selects networks from it."""

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.forward import at_once, blocks
from weightspace.networks.layout import Layout
from weightspace.runtime import checks

_CHECKED = 4  # networks whose masks are checked at once: what that needs stays in the cache


def check_parts(layout: Any, architecture: Any, tensors: Mapping[str, Any], records: Any) -> None:
    """The parts of a collection, before their shapes and values are compared.

    Args:
        layout: The layout.
        architecture: The architecture.
        tensors: Weights, masks, and mappings of buffers and extras, by the names of the arguments; None is left out.
        records: A sequence of mappings, or None.

    Raises:
        InputError: One is something else.
    """
    checks.instance(layout, "layout", Layout, "a Layout, such as Layout.of(module)")
    checks.instance(architecture, "architecture", Architecture, "an Architecture, such as Architecture.of(factory)")
    for name, value in tensors.items():
        for part, one in _named(name, value).items():
            if checks.tensor(one, part).ndim == 0:
                raise checks.refuse(part, "a tensor with a row for each network", one)
    if records is None:
        return
    if isinstance(records, str | Mapping) or not isinstance(records, Sequence):
        raise checks.refuse("records", "a list with a mapping for each network", records)
    for i, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise checks.refuse(f"records[{i}]", "a mapping, such as {'seed': 0}", record)


def check_index(index: Any, count: int) -> int | slice | Tensor:
    """Positions of networks: an integer, a slice, or a tensor of whole numbers or of one True or False a network.

    Args:
        index: What was got.
        count: Number of networks.

    Raises:
        InputError: It is none of these.
    """
    wanted = f"an integer, a slice, a list of integers, or a mask of {count} networks"
    if isinstance(index, np.ndarray):
        index = torch.as_tensor(index)
    if isinstance(index, slice):
        return index
    if not (isinstance(index, Tensor) and index.ndim):  # one of one element would pass for an integer
        with suppress(TypeError):
            return operator.index(index)
    if not isinstance(index, Tensor):
        if isinstance(index, str) or not isinstance(index, Sequence):
            raise checks.refuse("index", wanted, index)
        if not all(isinstance(one, int) or getattr(one, "ndim", None) == 0 for one in index):
            raise checks.refuse("index", wanted, index)
        index = torch.as_tensor([int(one) if not isinstance(one, bool) else one for one in index])
        index = index if len(index) else index.long()
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.is_meta:
        raise checks.refuse("index", wanted, index)
    if index.dtype == torch.bool and len(index) != count:
        raise checks.refuse("index", wanted, index)
    return index


def _named(name: str, value: Any) -> Mapping[str, Any]:
    if name in ("buffers", "extras"):
        parts = {} if value is None else checks.mapping(value, name, "of names to tensors")
        return {f"{name}[{key!r}]": one for key, one in parts.items()}
    return {} if value is None and name != "weights" else {name: value}


def check_masks(weights: Tensor | None, masks: Tensor, layout: Layout) -> None:
    """Check masks against the layout, and against weights where these are known.

    Args:
        weights: (N, D), or None.
        masks: (N, D), True where a weight is kept.
        layout: Layout of the networks.

    Raises:
        InputError: Masks are not boolean, remove what is never pruned, or weights under them are not zero.
    """
    if masks.dtype != torch.bool:
        raise InputError(f"masks must be boolean, True where a weight is kept; got {masks.dtype}")
    for at in blocks(len(masks), at_once(_CHECKED, layout.size)):
        if not all(masks[at, free].all() for free in layout.free):
            raise InputError("masks remove biases or norm parameters, which are never pruned: leave those True")
        # NumPy looks for a True much faster than torch.
        if weights is not None and ((weights[at] != 0) > masks[at]).numpy(force=True).any():
            raise InputError("some pruned weights are not zero: multiply the weights by their masks first")

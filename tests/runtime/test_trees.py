"""Structures of tensors keep their form, whatever is done to their tensors."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.runtime import trees

Pair = namedtuple("Pair", "left right")


@dataclass
class Output:
    logits: Tensor
    cache: object = None


def structures() -> dict[str, object]:
    a, b = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    return {
        "tensor": a,
        "tuple": (a, b),
        "list": [a, b],
        "mapping": {"ids": a, "mask": b},
        "nested": {"x": (a, {"y": b}), "n": 3, "none": None},
        "named tuple": Pair(a, b),
        "dataclass": Output(a, cache=torch.device("cpu")),
    }


@pytest.mark.parametrize("kind", structures())
def test_apply_keeps_the_structure(kind: str) -> None:
    tree = structures()[kind]
    same = trees.apply(lambda tensor: tensor, tree)
    assert type(same) is type(tree)
    assert [name for name, _ in trees.leaves(same)] == [name for name, _ in trees.leaves(tree)]
    doubled = trees.apply(lambda tensor: 2 * tensor, tree)
    for one, other in zip(trees.tensors(doubled), trees.tensors(tree), strict=True):
        assert torch.equal(one, 2 * other)
        assert not torch.equal(one, other)  # the structure it was made from stays as it is


@pytest.mark.parametrize("kind", structures())
def test_rows_stacks_and_parts_are_inverse_to_each_other(kind: str) -> None:
    tree = structures()[kind]
    parts = [trees.take(tree, slice(i, i + 1)) for i in range(3)]
    for joined in (trees.concatenate(parts), trees.take(trees.stack([tree, tree]), 1)):
        for one, other in zip(trees.tensors(joined), trees.tensors(tree), strict=True):
            assert torch.equal(one, other)
    assert trees.samples(tree) == 3
    swapped = trees.rebuild(tree, [tensor + 1 for tensor in trees.tensors(tree)])
    assert all(torch.equal(a, b + 1) for a, b in zip(trees.tensors(swapped), trees.tensors(tree), strict=True))


def test_what_is_no_tensor_stays() -> None:
    tree = trees.apply(lambda tensor: tensor + 1, structures()["nested"])
    assert tree["n"] == 3
    assert tree["none"] is None
    assert trees.apply(torch.neg, structures()["dataclass"]).cache == torch.device("cpu")


def test_names_and_shapes_are_told() -> None:
    nested = structures()["nested"]
    assert [name for name, _ in trees.leaves(nested)] == ["x.0", "x.1.y"]
    assert trees.shapes(nested) == "x.0 (3, 2), x.1.y (3,)"
    assert trees.shapes(torch.ones(2, 1)) == "(2, 1)"


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(ws.InputError, match=r"one row for each sample, got a \(3,\), b \(2,\)"):
        trees.samples({"a": torch.ones(3), "b": torch.ones(2)})
    with pytest.raises(ws.InputError, match="hold no tensor"):
        trees.samples({"a": None})
    with pytest.raises(ws.InputError, match="got str"):
        trees.first("text")

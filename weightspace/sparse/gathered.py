"""Layers that read their inputs in another order, where the inputs themselves cannot be moved.

The inputs of a network have a fixed order, and so have the patches of a convolution: a channel appears in them once for
each position of the kernel, and moving it moves all. In matrix form a layer is free to read its columns in any order.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.masks.patterns import NM
from weightspace.networks.arguments import check_module
from weightspace.networks.sparse_module import keep_sparse
from weightspace.runtime import checks
from weightspace.runtime.copies import copied
from weightspace.sparse.arguments import check_search
from weightspace.sparse.order import Order, find_order


def as_matrix(weight: Shaped[Tensor, "o i *kernel"]) -> Shaped[Tensor, "o columns"]:
    """A layer's weight as the matrix it multiplies with.

    Of a convolution (outputs, kernel positions x channels), channels last, so that N:M along the channels is N:M along
    its rows.

    Args:
        weight: Weight of a linear layer or convolution.
    """
    return weight.movedim(1, -1).flatten(1)


def read_by(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Shaped[Tensor, "rows columns"]:
    """What a layer multiplies its `as_matrix` with: the inputs of a linear layer, the patches of a convolution.

    Args:
        layer: A linear layer, or a convolution that `MatrixConv` takes.
        x: Inputs of the layer.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])  # one input alone, too
    return _patches(
        x, _pair(layer.kernel_size), _pair(layer.dilation), _pair(layer.padding), _pair(layer.stride)
    ).flatten(0, 1)


class Gathered(nn.Module):
    """A linear layer that reads its inputs in another order.

    Args:
        linear: Layer whose columns are brought into the new order; a copy of it, the layer itself is left as it is.
        order: Order of the inputs (inputs,); position p reads input `order[p]`.
    """

    order: Tensor

    def __init__(self, linear: nn.Linear, order: Int[Tensor, " inputs"]) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.linear = copied(linear)
        if hasattr(linear, "weight_mask"):  # of a ticket's module, before the weights, which are held to it
            self.linear.weight_mask = linear.get_buffer("weight_mask")[:, order].contiguous()
        self.linear.weight.data = linear.weight.detach()[:, order].contiguous()

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """What the layer computed before its columns were reordered."""
        return self.linear(input.index_select(-1, self.order))


class MatrixConv(nn.Module):
    """A convolution as a matrix product over patches; the matrix may be in any form.

    Args:
        conv: Convolution that this class `takes`; it is left as it is.
        linear: Makes the module of the product from the `as_matrix` and the bias.
        order: Order in which the columns of the patches are read (columns,); by default as they are.
    """

    order: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        linear: Callable[[Tensor, Tensor | None], nn.Module],
        order: Int[Tensor, " columns"] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.padding = _pair(conv.kernel_size), _pair(conv.padding)
        self.stride, self.dilation = _pair(conv.stride), _pair(conv.dilation)
        self.register_buffer("order", order)
        matrix = as_matrix(conv.weight.detach())
        self.product = linear((matrix if order is None else matrix[:, order]).contiguous(), conv.bias)

    @staticmethod
    def takes(conv: nn.Conv2d) -> bool:
        """Whether a convolution has no groups, and pads with zeros by numbers."""
        return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        """What the convolution computes."""
        x = input
        n, patches = len(x), _patches(x, self.size, self.dilation, self.padding, self.stride)
        out = self.product(patches if self.order is None else patches.index_select(-1, self.order)).transpose(1, 2)
        height, width = (
            (x.shape[2 + d] + 2 * self.padding[d] - self.dilation[d] * (self.size[d] - 1) - 1) // self.stride[d] + 1
            for d in range(2)
        )
        return out.reshape(n, -1, height, width).contiguous()


def _patches(
    x: Float[Tensor, "n c h w"],
    size: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
) -> Float[Tensor, "n positions columns"]:
    patches = F.unfold(x, size, dilation, padding, stride)
    return patches.unflatten(1, (x.shape[1], -1)).permute(0, 3, 2, 1).flatten(2)


def _pair(value: str | tuple[int, ...]) -> tuple[int, int]:
    assert not isinstance(value, str), "convolutions with a padding by name stay as they are"
    return value[0], value[-1]


def gather_inputs(
    module: nn.Module,
    layer: str,
    pattern: NM = NM(2, 4),
    *,
    scores: Tensor | None = None,
    seconds: float = 60.0,
    restarts: int | None = None,
    seed: int = 0,
) -> Order:
    """Let one layer read its inputs in the order that keeps the most magnitude under N:M; in place.

    For inputs that `reorder_module` cannot move: those of the network, and the patches of convolutions, whose
    columns (a channel at a position of the kernel) are ordered one by one. The function stays the same. Reading in
    another order costs a copy of the inputs, and a convolution becomes a product over patches.

    Args:
        module: Module that holds the layer.
        layer: Name of an nn.Linear or nn.Conv2d in the module; it becomes a `Gathered` or a `MatrixConv`.
            A ticket's mask moves along.
        pattern: N:M along the inputs.
        scores: What each of the layer's weights is worth, in their shape, not negative; by default their magnitudes.
        seconds: Time limit of the search.
        restarts: Number of restarts, as in `find_order`.
        seed: Seed of the search.

    Returns:
        The order of the columns of `as_matrix`.

    Raises:
        InputError: There is no such layer, it is a convolution with groups or a padding of its own, or scores do not
            fit.
    """
    check_module(module)
    checks.text(layer, "layer")
    check_search(pattern, seconds, restarts, seed)
    target = dict(module.named_modules()).get(layer)
    if not layer or type(target) not in (nn.Linear, nn.Conv2d):
        names = [name for name, m in module.named_modules() if name and type(m) in (nn.Linear, nn.Conv2d)]
        raise InputError(
            f"{layer!r} is not a linear layer or convolution inside the module: there are {', '.join(names) or 'none'}"
        )
    assert isinstance(target, nn.Linear | nn.Conv2d)
    if isinstance(target, nn.Conv2d) and not MatrixConv.takes(target):
        raise InputError(f"{layer} has groups or a padding of its own: its patches cannot be ordered")
    weight = target.weight.detach()
    worth = as_matrix(weight if scores is None else checked_scores(scores, weight, f"layer {layer}"))
    best = find_order(worth, pattern, seconds=seconds, restarts=restarts, seed=seed)
    order = best.columns.to(weight.device)
    owner, _, name = layer.rpartition(".")
    new = (
        Gathered(target, order)
        if isinstance(target, nn.Linear)
        else MatrixConv(target, _linear_like(target, order), order)
    )
    setattr(module.get_submodule(owner), name, new.train(target.training))
    return best


def _linear_like(conv: nn.Conv2d, order: Int[Tensor, " columns"]) -> Callable[[Tensor, Tensor | None], nn.Module]:
    """Makes a trainable product of a convolution's gathered weight, held to the convolution's mask if it has one."""

    def make(matrix: Tensor, bias: Tensor | None) -> nn.Module:
        linear = nn.Linear(
            matrix.shape[1], matrix.shape[0], bias=bias is not None, device=matrix.device, dtype=matrix.dtype
        )
        linear.weight = nn.Parameter(matrix.clone(), conv.weight.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
        if hasattr(conv, "weight_mask"):
            keep_sparse(linear, {"weight": as_matrix(conv.get_buffer("weight_mask"))[:, order]})
        return linear

    return make


def checked_scores(scores: Tensor, weights: Tensor, whose: str) -> Tensor:
    """Scores that fit weights; anything else raises InputError.

    Args:
        scores: What each weight is worth.
        weights: The weights.
        whose: What the weights belong to, for the error.
    """
    if scores.shape != weights.shape:
        raise InputError(
            f"scores of {whose} must have one value for each weight, {tuple(weights.shape)}, got {tuple(scores.shape)}"
        )
    if scores.dtype == torch.bool or scores.is_complex():
        raise checks.refuse("scores", f"of {whose}, real numbers", scores)
    if not scores.isfinite().all() or bool((scores < 0).any()):
        raise InputError(
            f"scores of {whose} must be finite and not negative, got {int((~scores.isfinite()).sum())} that are not "
            f"finite and {int((scores < 0).sum())} below 0"
        )
    return scores

"""Sparse linear maps on the CPU: compressed rows, and gradients for the kept weights alone."""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CSRStructure:
    """Where the weights of a sparse matrix lie, in compressed sparse rows (CSR), and where those of its transpose.

    Args:
        shape: Numbers of outputs and inputs.
        starts: Position of each row's first weight (outputs + 1,).
        columns: Input of each weight (nnz,).
    """

    shape: tuple[int, int]
    starts: Int[Tensor, " rows"]
    columns: Int[Tensor, " nnz"]

    @classmethod
    def of(cls, mask: Bool[Tensor, "outputs inputs"]) -> "CSRStructure":
        """The structure of a mask; weights are in the order of `matrix[mask]`."""
        starts = F.pad(mask.sum(1).cumsum(0), (1, 0))
        return cls((mask.shape[0], mask.shape[1]), starts, mask.nonzero()[:, 1].contiguous())

    @property
    def nnz(self) -> int:
        """Number of weights."""
        return len(self.columns)

    @cached_property
    def _transpose(self) -> tuple["CSRStructure", Int[Tensor, " nnz"]]:
        """The structure of the transpose, and the order that its weights have here."""
        rows = torch.arange(self.shape[0]).repeat_interleave(self.starts.diff())
        order = (self.columns * self.shape[0] + rows).argsort()
        counts = torch.bincount(self.columns, minlength=self.shape[1])
        return CSRStructure((self.shape[1], self.shape[0]), F.pad(counts.cumsum(0), (1, 0)), rows[order]), order

    def linear(
        self, x: Float[Tensor, "*batch inputs"], values: Float[Tensor, " nnz"], bias: Float[Tensor, " outputs"] | None
    ) -> Float[Tensor, "*batch outputs"]:
        """The product x W^T + b for the sparse W of these values, differentiable in all three."""
        flat = x.reshape(-1, self.shape[1])
        out: Tensor = _Linear.apply(flat, values, self)  # pyright: ignore[reportAssignmentType]
        out = out.reshape(*x.shape[:-1], self.shape[0])
        return out if bias is None else out + bias

    @torch.no_grad()
    def infer(
        self, x: Float[Tensor, "*batch inputs"], values: Float[Tensor, " nnz"], bias: Float[Tensor, " outputs"] | None
    ) -> Float[Tensor, "*batch outputs"]:
        """The same product without gradients, in no more passes over memory than needed.

        For a matrix the result is a transposed view, which a next product reads without a copy.
        """
        flat = x if x.ndim == 2 else x.reshape(-1, self.shape[1])
        out = self._times(values, flat.t())
        if bias is not None:
            out += bias[:, None]
        # In more dimensions modules go on with `view`, which takes contiguous tensors alone.
        return out.t() if x.ndim == 2 else out.t().contiguous().reshape(*x.shape[:-1], self.shape[0])

    def _times(self, values: Tensor, right: Tensor) -> Tensor:
        """W @ right, (outputs, batch)."""
        if values.dtype is torch.float32:
            # A sum of weighted rows is what an embedding bag is, and torch's is faster than its CSR product.
            bag, at = right.contiguous(), self.starts[:-1]
            return F.embedding_bag(self.columns, bag, at, mode="sum", per_sample_weights=values)
        return self._matrix(values) @ right

    def _matrix(self, values: Tensor) -> Tensor:
        _accept_beta()
        return torch.sparse_csr_tensor(self.starts, self.columns, values, size=self.shape, check_invariants=False)


@cache
def _accept_beta() -> None:
    """Torch warns once in a process that its CSR tensors are in beta; the tests here check what is used of them.

    Torch 2.11 warns as well that it does not check them, even where it is told not to.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.eye(1).to_sparse_csr()
        torch.sparse_csr_tensor(
            one.crow_indices(), one.col_indices(), one.values(), size=(1, 1), check_invariants=False
        )


class _Linear(torch.autograd.Function):
    """x W^T; the gradient of W is computed at its kept weights alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, rows: CSRStructure) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.rows = rows
        return rows._times(values, x.t()).t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad, rows = grads[0].contiguous(), ctx.rows
        x, values = ctx.saved_tensors
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            transpose, order = rows._transpose
            of_x = transpose._times(values[order], grad.t()).t()
        if ctx.needs_input_grad[1]:
            of_values = torch.sparse.sampled_addmm(rows._matrix(values), grad.t(), x, beta=0.0).values()
        return of_x, of_values, None

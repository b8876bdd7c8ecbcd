"""Products in eight-bit integers, dense or 2:4, on CUDA; the same numbers on the CPU, slowly."""

from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from weightspace.errors import InputError
from weightspace.sparse.two_four import padded, require_two_four

Int8Backend = Literal["dense", "cutlass", "cusparselt"]

_ROWS = 32  # batches are padded to multiples: dense products want more than 16 rows, 2:4 ones multiples of 16
_COLUMNS = 16  # what dense products want


def rounded(matrix: Float[Tensor, "rows columns"]) -> tuple[Int8[Tensor, "rows columns"], Float[Tensor, "rows 1"]]:
    """Round each row to 255 even steps from minus to plus its largest magnitude; zeros stay zeros.

    Args:
        matrix: The matrix to round.

    Returns:
        Integers from -127 to 127, and the size of a step of each row, in float32: integers * steps is the matrix again,
        up to half a step.
    """
    steps = matrix.abs().amax(dim=1, keepdim=True).float() / 127
    steps = torch.where(steps == 0, 1.0, steps)  # NaN stays NaN, and so does what is multiplied with it
    return (matrix.float() / steps).round().clamp(-127, 127).to(torch.int8), steps


class Int8Linear(nn.Module):
    """x W^T + b with W and x rounded to eight bits, each row of W and each input with a step of its own (`rounded`).

    The products of integers are exact, in 32 bits; what is lost is what rounding loses, about a hundredth of the
    outputs. Inputs are rounded as they come (dynamic quantisation), so that nothing has to be calibrated.

    Args:
        weight: Weight (outputs, inputs).
        bias: Bias (outputs,) or None.
        backend: Library that multiplies: "dense" on any device; "cutlass" or "cusparselt" on CUDA, for 2:4 weights.

    Raises:
        InputError: The backend is one for 2:4, and the weight is not 2:4 or not on CUDA.
    """

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, backend: Int8Backend) -> None:
        super().__init__()
        self.backend: Int8Backend = backend
        self.outputs, self.inputs = weight.shape
        integers, steps = rounded(weight.detach())
        positions = None
        if backend == "dense":
            columns, outputs = (-size % _COLUMNS for size in (self.inputs, self.outputs))
            integers = F.pad(integers, (0, columns, 0, outputs)).contiguous()
            self.columns = integers.shape[1]
        else:
            require_two_four(integers, torch.int8)
            if weight.device.type != "cuda":
                raise InputError(f"2:4 matrices are multiplied on CUDA, the weight is on {weight.device}")
            integers = padded(integers, backend)
            self.columns = integers.shape[1]
            if backend == "cutlass":
                integers, positions = sparse_semi_structured_from_dense_cutlass(integers)
            else:
                integers = torch.ops.aten._cslt_compress(integers)
        self.register_buffer("integers", integers)
        self.register_buffer("positions", positions)
        self.register_buffer("steps", steps.T)  # (1, outputs)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    @property
    def nbytes(self) -> int:
        """Bytes of integers, steps and bias."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def forward(self, input: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """The product x W^T + b, in the type of the inputs.

        Raises:
            InputError: The inputs have another length.
        """
        if not input.ndim or input.shape[-1] != self.inputs:
            raise InputError(f"expected inputs of length {self.inputs}, got shape {tuple(input.shape)}")
        integers, steps = rounded(input.reshape(-1, self.inputs))
        # Never without rows, which the products refuse on a card.
        padding = (0, self.columns - self.inputs, 0, -len(integers) % _ROWS if len(integers) else _ROWS)
        whole = F.pad(integers, padding) if any(padding) else integers
        products = self._product(whole.contiguous())[: len(integers), : self.outputs]
        out = products.float() * steps * self.get_buffer("steps")
        bias = self._buffers["bias"]
        if bias is not None:
            out = out + bias
        # 2:4 products come by columns, and what follows may ask for rows.
        return out.to(input.dtype).reshape(*input.shape[:-1], self.outputs).contiguous()

    def _product(self, x: Int8[Tensor, "b c"]) -> Tensor:
        """Integer products, (b, outputs or more), in 32 bits."""
        integers = self.get_buffer("integers")
        if self.backend == "dense":
            return torch.ops.aten._int_mm(x, integers.T)
        # The batch is the right factor, read by columns, which is the only order that int8 products take.
        if self.backend == "cutlass":
            positions = self.get_buffer("positions")
            return torch.ops.aten._sparse_semi_structured_mm(integers, positions, x.T, out_dtype=torch.int32).T
        return torch.ops.aten._cslt_sparse_mm(integers, x.T, out_dtype=torch.int32).T

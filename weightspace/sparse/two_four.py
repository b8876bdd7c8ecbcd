"""2:4 matrices: the check that torch does not make, padding, packing.

`torch.sparse.to_sparse_semi_structured` packs whatever it is given: of a dense 16-bit matrix it keeps the first two of
every four, and of a valid 2:4 matrix in float32 it loses weights, as the hardware's pattern there is 1:2. Both are
refused here.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from weightspace.errors import InputError
from weightspace.runtime import checks

Backend = Literal["cutlass", "cusparselt"]
# Multiples of rows and columns that each library takes, by dtype.
SHAPES: dict[Backend, dict[torch.dtype, tuple[int, int]]] = {
    "cutlass": {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (16, 128)},
    "cusparselt": {torch.float16: (16, 16), torch.bfloat16: (16, 16), torch.int8: (32, 32)},
}


def is_two_four(weight: Shaped[Tensor, "o i"]) -> bool:
    """Has every aligned group of four along the rows two zeros or more? A shorter last group of r keeps min(2, r)."""
    checks.tensor(weight, "weight", shape=("outputs", "inputs"))
    groups = torch.nn.functional.pad(weight != 0, (0, -weight.shape[1] % 4)).unflatten(1, (-1, 4))
    return bool((groups.sum(2) <= 2).all())


def require_two_four(weight: Shaped[Tensor, "o i"], dtype: torch.dtype, name: str = "the weight") -> None:
    """Raise InputError unless a matrix can be packed without losing anything.

    Args:
        weight: The matrix.
        dtype: Type in which it will be packed.
        name: What the matrix is, for the message.
    """
    if weight.ndim != 2:
        raise InputError(f"{name} has shape {tuple(weight.shape)}: only matrices are packed as 2:4")
    if dtype not in SHAPES["cutlass"]:
        raise InputError(
            f"{name}: 2:4 is packed in bfloat16, float16 or int8, got {str(dtype).removeprefix('torch.')}; in float32 "
            "the hardware's pattern is 1:2, and packing would drop weights"
        )
    if not is_two_four(weight):
        groups = torch.nn.functional.pad(weight != 0, (0, -weight.shape[1] % 4)).unflatten(1, (-1, 4)).sum(2)
        row, group = (groups > 2).nonzero()[0].tolist()
        raise InputError(
            f"{name} is not 2:4: row {row} has {int(groups[row, group])} weights in columns {4 * group} to "
            f"{4 * group + 3}, at most 2 are allowed; prune it with NM(2, 4) first"
        )


def padded(weight: Shaped[Tensor, "o i"], backend: Backend) -> Shaped[Tensor, "p q"]:
    """A matrix with zero rows and columns up to the next shape that a library takes.

    Args:
        weight: The matrix.
        backend: The library.
    """
    rows, columns = SHAPES[backend][weight.dtype]
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows)).contiguous()


@dataclass(frozen=True)
class PackedTwoFour:
    """A 2:4 matrix as values and two-bit positions, in the layout of CUTLASS; made and read on any device.

    Args:
        values: Kept values (rows, columns / 2), padded.
        positions: Two-bit positions, packed.
        shape: Shape of the matrix without padding.
    """

    values: Shaped[Tensor, "p h"]
    positions: Shaped[Tensor, "p m"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, weight: Shaped[Tensor, "o i"], name: str = "the weight") -> "PackedTwoFour":
        """Pack a matrix.

        Args:
            weight: The matrix.
            name: What the matrix is, for the error.

        Raises:
            InputError: The matrix is not 2:4, or of a type that cannot be packed.
        """
        require_two_four(weight, weight.dtype, name)
        values, positions = sparse_semi_structured_from_dense_cutlass(padded(weight, "cutlass"))
        return cls(values, positions, (weight.shape[0], weight.shape[1]))

    def dense(self) -> Shaped[Tensor, "o i"]:
        """The matrix again, exactly."""
        whole = sparse_semi_structured_to_dense_cutlass(self.values, self.positions)
        return whole[: self.shape[0], : self.shape[1]]

    @property
    def nbytes(self) -> int:
        """Bytes: 0.5625 of the dense matrix in 16 bits, 0.625 in 8, of the padded shape."""
        return self.values.nbytes + self.positions.nbytes


class TwoFourLinear(torch.nn.Module):
    """x W^T + b for a 2:4 matrix on CUDA.

    Args:
        weight: Weight (outputs, inputs), 2:4, on CUDA, in bfloat16 or float16.
        bias: Bias (outputs,) or None.
        backend: Library that multiplies.
        tuned: Number of rows of the batches for which cuSPARSELt's fastest algorithm is searched; None takes its
            default.

    Raises:
        InputError: The weight is not 2:4, not on CUDA, or of another type.
    """

    def __init__(
        self,
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        backend: Backend,
        *,
        tuned: int | None = None,
    ) -> None:
        super().__init__()
        require_two_four(weight, weight.dtype)
        if weight.device.type != "cuda":
            raise InputError(f"2:4 matrices are multiplied on CUDA, the weight is on {weight.device}")
        self.outputs, self.inputs = weight.shape
        whole = padded(weight.detach(), backend)
        self.columns = whole.shape[1]
        # The class is chosen by a global switch; what is made keeps its kind.
        kind = torch.sparse.SparseSemiStructuredTensor
        before = kind._FORCE_CUTLASS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the class is a prototype, said once for each process
            try:
                kind._FORCE_CUTLASS = backend == "cutlass"
                self.weight = torch.sparse.to_sparse_semi_structured(whole)
            finally:
                kind._FORCE_CUTLASS = before
        extra = whole.shape[0] - self.outputs
        self.bias = None if bias is None else torch.nn.functional.pad(bias.detach(), (0, extra))
        if tuned is not None and backend == "cusparselt":
            self._tune(tuned)

    def _tune(self, rows: int) -> None:
        """Search for the product that `linear` does: of a transposed batch, with the bias, into a transposed result."""
        packed: Any = self.weight
        batch = torch.zeros(-(-rows // 8) * 8, self.columns, dtype=packed.dtype, device=packed.device)
        # Not public, and what `to_sparse_semi_structured(alg_id=)` of later versions stands for.
        search = getattr(torch, "_cslt_sparse_mm_search")  # noqa: B009
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fastest = search(
                packed.packed, batch.t(), bias=self.bias, transpose_result=packed.fuse_transpose_cusparselt
            )
        packed.alg_id_cusparselt = fastest

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight and the bias."""
        packed: Any = self.weight
        parts = (packed.packed, packed.meta, self.bias)
        return sum(part.nbytes for part in parts if part is not None)

    def forward(self, input: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """The product x W^T + b."""
        x = input
        # The libraries read a contiguous matrix, whatever strides the tensor has.
        if self.columns > self.inputs:
            x = torch.nn.functional.pad(x, (0, self.columns - self.inputs))
        out = torch.nn.functional.linear(x.contiguous(), self.weight, self.bias)
        return out[..., : self.outputs].contiguous()

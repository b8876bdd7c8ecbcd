"""Executable forms of linear layers and convolutions."""

from collections.abc import Callable
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.kernels.compiled import CompiledRows, NoKernel
from weightspace.kernels.csr import CSRStructure
from weightspace.sparse.gathered import MatrixConv, as_matrix
from weightspace.sparse.int8 import Int8Linear
from weightspace.sparse.two_four import TwoFourLinear, is_two_four


class Form(StrEnum):
    """What a layer is multiplied as; the values are the words of tables."""

    DENSE = "dense"
    CSR = "rows"
    COMPILED = "compiled rows"
    CUTLASS = "cutlass"
    CUSPARSELT = "cusparselt"
    CUSPARSELT_TUNED = "cusparselt, tuned"
    INT8 = "int8"
    INT8_CUTLASS = "int8, cutlass"
    INT8_CUSPARSELT = "int8, cusparselt"

    @property
    def two_four(self) -> bool:
        """Whether the weights are packed as 2:4."""
        return self not in (Form.DENSE, Form.CSR, Form.COMPILED, Form.INT8)

    @property
    def int8(self) -> bool:
        """Whether weights and inputs are rounded to eight bits."""
        return self in (Form.INT8, Form.INT8_CUTLASS, Form.INT8_CUSPARSELT)


_DENSEST = 0.5  # compiled rows of more weights read more bytes than the dense layer

MakeForm = Callable[[Tensor], nn.Module]
"""Makes a layer in another form for an input."""


class CSRLinear(nn.Module):
    """A linear layer as compressed sparse rows (CSR), for inference on the CPU.

    Args:
        weight: (outputs, inputs), with zeros.
        bias: (outputs,) or None.
    """

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> None:
        super().__init__()
        self.structure = CSRStructure.of(weight != 0)
        self.values = nn.Parameter(weight.detach()[weight != 0], requires_grad=False)
        self.bias = bias if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and bias."""
        parts = (
            self.values,
            self.structure.columns,
            self.structure.starts,
            *(() if self.bias is None else (self.bias,)),
        )
        return sum(part.nbytes for part in parts)

    def forward(self, input: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:  # as nn.Linear calls it
        """X W^T + b."""
        return self.structure.infer(input, self.values, self.bias)


class CompiledCSRLinear(CSRLinear):
    """A linear layer as compressed rows, multiplied by the compiled kernel on one thread.

    A copy that is loaded where no kernel can be built runs as its base class; so does one that is traced.

    Args:
        weight: (outputs, inputs), with zeros.
        bias: (outputs,) or None.

    Raises:
        NoKernel: No kernel can be built here.
    """

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> None:
        super().__init__(weight, bias)
        self.rows = CompiledRows.of(self.structure)

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and bias."""
        return super().nbytes + self.rows.columns.nbytes - self.structure.columns.nbytes

    def forward(self, input: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:  # as nn.Linear calls it
        """X W^T + b."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return super().forward(input)
        values, bias = (
            self._parameters["values"],
            self._parameters["bias"],
        )  # a module looks up attributes slowly
        assert values is not None
        try:
            return self.rows.infer(input, values, bias)
        except NoKernel:
            return super().forward(input)


def other_forms(layer: nn.Module, device: str, dtype: torch.dtype, int8: bool) -> tuple[dict[Form, MakeForm], str]:
    """Executable forms of a layer besides the dense one, each made for an input; and why there are no more.

    Args:
        layer: An nn.Linear or nn.Conv2d.
        device: Where it will run.
        dtype: What it will run in.
        int8: Whether forms that round to eight bits count.
    """
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    conv = layer if isinstance(layer, nn.Conv2d) else None
    if conv is not None and not MatrixConv.takes(conv):
        return {}, "a grouped convolution, or one with a padding of its own"

    def form(linear: Callable[[Tensor, Tensor | None], nn.Module]) -> nn.Module:
        return linear(weight, bias) if conv is None else MatrixConv(conv, linear)

    if not device.startswith("cuda"):
        if dtype is not torch.float32:
            return {}, "compressed rows are for float32"
        rows: dict[Form, MakeForm] = {Form.CSR: lambda _x: form(CSRLinear)}
        if float((weight != 0).double().mean()) <= _DENSEST:
            rows[Form.COMPILED] = lambda _x: form(CompiledCSRLinear)
        return rows, ""
    if dtype not in (torch.bfloat16, torch.float16):
        return {}, f"2:4 needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    rounded: dict[Form, MakeForm] = {Form.INT8: lambda _x: form(lambda w, b: Int8Linear(w, b, "dense"))} if int8 else {}
    if conv is not None and weight.shape[1] % 4:
        return rounded, f"{weight.shape[1]} input channels, not a multiple of 4"
    if not is_two_four(as_matrix(weight)):
        return rounded, "the weights are not 2:4"
    if int8:
        rounded[Form.INT8_CUTLASS] = lambda _x: form(lambda w, b: Int8Linear(w, b, "cutlass"))
        rounded[Form.INT8_CUSPARSELT] = lambda _x: form(lambda w, b: Int8Linear(w, b, "cusparselt"))
    return rounded | {
        Form.CUTLASS: lambda _x: form(lambda w, b: TwoFourLinear(w, b, "cutlass")),
        Form.CUSPARSELT: lambda _x: form(lambda w, b: TwoFourLinear(w, b, "cusparselt")),
        Form.CUSPARSELT_TUNED: lambda x: form(lambda w, b: TwoFourLinear(w, b, "cusparselt", tuned=_rows(layer, x))),
    }, ""


def _rows(layer: nn.Module, x: Tensor) -> int:
    """Rows of the matrix that a layer multiplies."""
    return x.shape[:-1].numel() if isinstance(layer, nn.Linear) else len(x) * layer(x)[0, 0].numel()

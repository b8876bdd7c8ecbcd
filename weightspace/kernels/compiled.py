"""The compiled product of sparse rows: built by the machine's C++ compiler when it is first used, and kept."""

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.kernels.csr import CSRStructure
from weightspace.runtime.progress import LOGGER

_SOURCE = Path(__file__).with_name("rows.cpp")
_SECONDS = 120  # a compiler that takes longer hangs; this one file takes less than one
_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


class NoKernel(RuntimeError):
    """There is no compiled kernel here, and why."""


@dataclass(frozen=True)
class CompiledRows:
    """The product of a sparse matrix with batches, by the compiled kernel: float32, on the CPU, on one thread.

    Args:
        structure: Where the weights lie.
        columns: The structure's columns in 32 bits.
    """

    structure: CSRStructure
    columns: Int[Tensor, " nnz"]

    @classmethod
    def of(cls, structure: CSRStructure) -> "CompiledRows":
        """Prepare a structure.

        Args:
            structure: Where the weights lie.

        Raises:
            NoKernel: No kernel can be built here.
        """
        kernel()
        return cls(structure, structure.columns.int())

    def infer(
        self, x: Float[Tensor, "*batch inputs"], values: Float[Tensor, " nnz"], bias: Float[Tensor, " outputs"] | None
    ) -> Float[Tensor, "*batch outputs"]:
        """The product x W^T + b without gradients; of a matrix a transposed view, which a next product reads as it is.

        Args:
            x: Inputs.
            values: The weights, in the order of the structure.
            bias: The bias, or None.

        Raises:
            InputError: The inputs are not float32 on the CPU, or have another length.
        """
        structure = self.structure
        outputs, inputs = structure.shape
        if x.dtype is not torch.float32 or not x.is_cpu:
            raise InputError(f"compiled rows multiply float32 on the CPU, got {x.dtype} on {x.device}")
        flat = x if x.ndim == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])
        batch, length = flat.shape
        if length != inputs:
            raise InputError(f"compiled rows take inputs of length {inputs}, got shape {tuple(x.shape)}")
        by_sample, by_input = flat.stride()
        if by_sample != 1 and by_input != 1:
            flat = flat.contiguous()
            by_sample, by_input = flat.stride()
        out = torch.empty_strided((batch, outputs), (1, batch))
        kernel()(
            outputs,
            inputs,
            structure.starts.data_ptr(),
            self.columns.data_ptr(),
            values.data_ptr(),
            None if bias is None else bias.data_ptr(),
            flat.data_ptr(),
            by_sample,
            by_input,
            batch,
            out.data_ptr(),
        )
        # In more dimensions modules go on with `view`, which takes contiguous tensors alone.
        return out if x.ndim == 2 else out.contiguous().reshape(*x.shape[:-1], outputs)


def kernel() -> Callable[..., None]:
    """The kernel, built if it is not yet: a failure is remembered, so that a process tries once.

    Raises:
        NoKernel: There is no compiler, or it fails.
    """
    found = _loaded()
    if isinstance(found, str):
        raise NoKernel(found)
    return found


@cache
def _loaded() -> Callable[..., None] | str:
    """The kernel, or why there is none."""
    try:
        function = ctypes.CDLL(str(build(folder())))["weightspace_rows"]
    except NoKernel as error:
        why = str(error)
    except OSError as error:  # a folder that cannot be written, or from which nothing may be loaded
        why = f"the kernel cannot be kept in {folder()}: {error}"
    else:
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        function.argtypes = [integer, integer, *[pointer] * 5, integer, integer, integer, pointer]
        function.restype = None
        return function
    LOGGER.warning("sparse rows run without their compiled kernel, about half as fast: %s", why)
    return why


def folder() -> Path:
    """Folder of compiled kernels, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weightspace"


def build(where: Path) -> Path:
    """Compile the kernel for this processor into a folder, unless it is there.

    Processes may build at the same time: each compiles a file of its own and then gives it the common name.

    Args:
        where: Folder, which is made.

    Raises:
        NoKernel: There is no compiler, or it fails.
        OSError: The folder cannot be written.
    """
    flags = ("-std=c++17", "-O3", "-shared", "-fPIC", *_FLAGS.get(torch.backends.cpu.get_cpu_capability(), ()))
    code = repr((flags, sys.platform, platform.machine(), _SOURCE.read_bytes())).encode()
    library = where / f"rows-{hashlib.sha256(code).hexdigest()[:24]}.so"
    if library.exists():
        return library
    where.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX") or "c++"
    with tempfile.TemporaryDirectory(dir=where, prefix="building-") as own:
        made = Path(own) / library.name
        command = [*compiler.split(), *flags, "-o", str(made), str(_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
        except FileNotFoundError as error:
            raise NoKernel(f"no C++ compiler ({compiler}): install g++ or clang++, or set CXX") from error
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise NoKernel(f"{compiler} fails: {said[0] if said else error}") from error
        made.replace(library)
    LOGGER.info("compiled the kernel of sparse rows: %s", library)
    return library

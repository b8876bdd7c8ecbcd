"""Tensors as bytes, for hashes."""

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, of any dtype; NumPy, whose arrays have them too, lacks bfloat16.

    Args:
        tensor: Tensor, on any device.
    """
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data

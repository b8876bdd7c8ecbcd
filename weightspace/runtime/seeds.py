"""Randomness by name: every generator is derived from (seed, purpose, index).

Two purposes never share a stream, and adding a draw in one place does not move the draws of
another. Nothing here touches the global random state.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from weightspace.runtime import checks


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one purpose, the same on every machine.

    Raises:
        InputError: The seed is no whole number, or negative.
    """
    digest = hashlib.sha256(f"{checks.seed(seed)}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, index: int = 0, device: str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose (see `derive`)."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, index))


@contextmanager
def seeded_modules(seed: int, purpose: str) -> Iterator[None]:
    """Modules built inside initialise from this seed.

    PyTorch's layers draw from the global random state; it is set here and put back afterwards.
    """
    # Where there is no accelerator, `torch.manual_seed` still writes down the stack for one: a millisecond or more.
    begin = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=range(cards())):
        begin(derive(seed, purpose))
        yield


@cache
def cards() -> int:
    """Number of CUDA cards; where there is none, PyTorch looks for their driver at every question."""
    return torch.cuda.device_count()

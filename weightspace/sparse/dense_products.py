"""What the layers of a network make of their inputs, computed for as many layers at a time as memory holds."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.sparse.layer_inputs import Call, Layer, before_calls, run
from weightspace.sparse.moments import product


class DenseProducts:
    """Products of a network's layers with what they read, without biases.

    They are taken in a known order. When one is not there, a pass computes it and those that follow, as many as fit.

    Args:
        module: The network, in evaluation mode.
        ran: Calls of a pass.
        wanted: Numbers of the calls whose products will be taken, in that order.
        x: Inputs of the network.
        batches: Blocks of examples, each of which is a pass.
        room: Bytes that products may take together; one call's are held in any case.
    """

    def __init__(
        self,
        module: nn.Module,
        ran: Sequence[Call],
        wanted: Sequence[int],
        x: Tree,
        batches: Sequence[slice],
        room: int,
    ) -> None:
        self._module, self._ran, self._wanted, self._x, self._batches = module, ran, wanted, x, batches
        self._room = room
        self._number = 8 if any(one.dtype is torch.float64 for one in module.parameters()) else 4  # bytes
        self._held: dict[tuple[int, int], Tensor] = {}

    def take(self, call: int, batch: int) -> Float[Tensor, "rows o"]:
        """The products of one call in one block of examples, which are not held any longer.

        Args:
            call: Number of the call in a pass.
            batch: Number of the block.
        """
        if (call, batch) not in self._held:
            self._compute(self._next(call))
        return self._held.pop((call, batch))

    def _next(self, call: int) -> set[int]:
        """This call and those that are taken after it, as far as they fit."""
        chosen, taken = [call], self._bytes(call)
        for one in self._wanted[self._wanted.index(call) + 1 :]:
            taken += self._bytes(one)
            if taken > self._room:
                break
            chosen.append(one)
        return set(chosen)

    def _bytes(self, call: int) -> int:
        return self._number * self._ran[call].outputs * trees.samples(self._x)

    def _compute(self, chosen: set[int]) -> None:
        last = max(chosen)
        self._held.clear()
        for number, batch in enumerate(self._batches):

            def act(call: int, layer: Layer, read: Tensor, number: int = number) -> bool:
                if call in chosen:
                    self._held[call, number] = product(layer, read)
                return call < last

            with before_calls(self._module, self._ran, act):
                run(self._module, trees.take(self._x, batch))
            if missing := [self._ran[call].layer for call in chosen if (call, number) not in self._held]:
                raise InputError(f"{', '.join(missing)} of the dense network did not run with all examples")

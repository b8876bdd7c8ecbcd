"""How much memory the tensors of a computation take at once."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts bytes of what operations make, while it lives: `with LiveBytes() as live: ...`, then `live.most`.

    What was there before is not counted, and neither is what an operation needs inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most, self.now, self.largest = 0, 0, 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    self._note(storage)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known and self._known[key]() is not None:
            return

        def gone(_: object) -> None:
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.largest = max(self.largest, size)
        self.most = max(self.most, self.now)

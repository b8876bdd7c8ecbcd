"""Seeing every operator that runs: the base of what traces, measures and watches modules."""

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """A dispatch mode that does not load PyTorch's compiler, as all others do at their first operator (two seconds).

    Modules that are compiled run as they are in it, operator by operator.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

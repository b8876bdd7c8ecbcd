"""The last linear layer of a network, if its outputs are the network's predictions."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.calling import run
from weightspace.networks.outputs import LossOnly
from weightspace.tasks.task import Task

_TRIED = 8  # samples that a network is tried on
_INSTEAD = 'train the networks on instead, such as polish="30it"'


@dataclass(frozen=True)
class OutputLayer:
    """Where the last linear layer is.

    Args:
        name: Name of the module; empty where the network is that layer alone.
        bias: Whether it has a bias.
    """

    name: str
    bias: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its weight and of its bias, if there is one."""
        own = ("weight", "bias") if self.bias else ("weight",)
        return tuple(f"{self.name}.{one}" if self.name else one for one in own)

    @classmethod
    def of(cls, task: Task) -> "OutputLayer":
        """The last linear layer of a task's network.

        Args:
            task: The task; the network runs on a few of its training samples.

        Raises:
            InputError: The predictions are not the outputs of a linear layer with weights of its own, or it is not
                known what they mean.
        """
        if isinstance(task.output_kind, LossOnly):
            raise InputError(
                f"what the outputs of task {task.name!r} mean is not known, only their loss, so that no layer can be "
                f"refitted: say outputs=Classes(), Binary() or Regression() when the task is made, or {_INSTEAD}"
            )
        module = task.architecture.build_seeded(0).eval()
        calls: list[tuple[str, Tensor]] = []
        for name, one in module.named_modules():
            if isinstance(one, nn.Linear):
                one.register_forward_hook(partial(_note, calls, name))
        with torch.no_grad():
            predicted = task.output_kind.predictions(run(module, task.train.head(_TRIED).x))
        network = task.architecture.name
        if not calls or predicted.numel() != calls[-1][1].numel() or not _same(predicted, calls[-1][1]):
            last = f"of its last linear layer ({calls[-1][0]})" if calls else "of a linear layer"
            raise InputError(
                f"the predictions of {network} are not the outputs {last}, so that it cannot be refitted: {_INSTEAD}"
            )
        name = calls[-1][0]
        layer = cls(name, module.get_submodule(name).bias is not None)
        layout = task.architecture.layout()
        shared = {alias: entry for pair in layout.aliases for alias, entry in (pair, pair[::-1])}
        for parameter in layer.parameters:
            if parameter in shared or sum(called == name for called, _ in calls) > 1:
                raise InputError(
                    f"the last layer of {network} ({name}) is used elsewhere in it, too"
                    f"{f', as {shared[parameter]}' if parameter in shared else ''}: it cannot be refitted alone; "
                    f"{_INSTEAD}"
                )
            if parameter not in layout.slices:
                raise InputError(f"the last layer of {network} ({name}) is not trained or is computed: {_INSTEAD}")
        return layer


def _note(calls: list[tuple[str, Tensor]], name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
    calls.append((name, output))


def _same(predicted: Tensor, output: Tensor) -> bool:
    return torch.equal(predicted.reshape(output.shape), output)

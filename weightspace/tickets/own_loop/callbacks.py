"""Gradual pruning in the loops of Lightning and of transformers."""

from typing import Any

from weightspace.errors import InputError
from weightspace.tickets.own_loop.pruner import GradualSchedule, Pruner


def lightning_callback(schedule: GradualSchedule) -> Any:
    """A callback of Lightning's Trainer that prunes the LightningModule; iterations are the trainer's global steps.

    The callback's `pruner` has masks and density. Its state is part of Lightning's checkpoints.

    Args:
        schedule: When weights are removed, and the pattern at the end.

    Raises:
        InputError: Lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise InputError(f"the callback needs Lightning: pip install lightning ({error})") from error

    class Prune(Callback):  # Lightning passes by position
        def __init__(self) -> None:
            self.pruner: Pruner | None = None
            self._state: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if self.pruner is None:
                self.pruner = Pruner(pl_module, schedule)
            self.pruner.optimizer = next(iter(trainer.optimizers), None)
            if self._state is not None:
                self.pruner.load_state_dict(self._state)
                self._state = None

        def on_train_batch_end(self, trainer: Any, *_args: Any, **_named: Any) -> None:
            assert self.pruner is not None
            while self.pruner.iterations < trainer.global_step:  # fewer than batches, if gradients are accumulated
                self.pruner.step()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.pruner is None else self.pruner.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._state = state_dict or None

    return Prune()


def transformers_callback(schedule: GradualSchedule) -> Any:
    """A callback of the Trainer of Hugging Face transformers; iterations are its global steps.

    The callback's `pruner` has masks and density. Training that resumes from a checkpoint takes zeros as pruned.

    Args:
        schedule: When weights are removed, and the pattern at the end.

    Raises:
        InputError: Transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise InputError(f"the callback needs transformers: pip install transformers ({error})") from error

    class Prune(TrainerCallback):
        def __init__(self) -> None:
            self.pruner: Pruner | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
            optimizer = getattr(given.get("optimizer"), "optimizer", given.get("optimizer"))  # of accelerate, or plain
            self.pruner = Pruner(given["model"], schedule, optimizer=optimizer, iterations=state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_given: Any) -> None:  # noqa: ARG002
            assert self.pruner is not None
            while self.pruner.iterations < state.global_step:
                self.pruner.step()

    return Prune()

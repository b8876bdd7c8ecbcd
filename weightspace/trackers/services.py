"""Trackers that hand the numbers to TensorBoard or to Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.runtime import checks


class TensorBoard:
    """Writes scalars for TensorBoard; a folder needs `pip install weightspace[tensorboard]`.

    Args:
        to: Folder of the event files, or a writer of your own: anything with `add_scalar(name, value, step)`.

    Raises:
        InputError: It is neither, or TensorBoard is not installed.
    """

    def __init__(self, to: Any) -> None:
        if not isinstance(to, str | os.PathLike):
            self.writer = checks.having(to, "to", methods=("add_scalar",), wanted="a folder, or a SummaryWriter")
            return
        folder = Path(checks.path(to, "to"))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard is not installed: pip install 'weightspace[tensorboard]', or track to trackers.CSV"
            ) from error
        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each number.

        Args:
            step: Steps that are done.
            values: Numbers by name.
        """
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if hasattr(self.writer, "flush"):  # so that whoever watches sees it
            self.writer.flush()

    def close(self) -> None:
        """Close the writer."""
        self.writer.close()


class WandB:
    """Logs to a run of Weights & Biases; a project needs `pip install weightspace[wandb]`.

    The steps of each stage are its own axis, as W&B's step may never go back.

    Args:
        to: Name of a project, in which a run is begun, or a run of your own: what `wandb.init` returned.
        settings: Settings of the run, shown beside it, if one is begun.

    Raises:
        InputError: It is neither, or wandb is not installed.
    """

    def __init__(self, to: Any, *, settings: Mapping[str, Any] | None = None) -> None:
        self._stages: set[str] = set()
        if not isinstance(to, str):
            self.run = checks.having(to, "to", methods=("log", "define_metric"), wanted="a project, or a run of wandb")
            return
        project = checks.text(to, "to")
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                "wandb is not installed: pip install 'weightspace[wandb]', or track to trackers.CSV"
            ) from error
        self.run = wandb.init(project=project, config=dict(settings or {}))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers beside the step of their stage.

        Args:
            step: Steps that are done.
            values: Numbers by name.
        """
        stages = sorted({name.rpartition("/")[0] or "all" for name in values})
        for name in stages:
            if name not in self._stages:
                self._stages.add(name)
                self.run.define_metric(f"{name}/step")
                self.run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        self.run.log({**{f"{name}/step": step for name in stages}, **values})

    def close(self) -> None:
        """End the run."""
        self.run.finish()

"""Models of Hugging Face's transformers as networks of a task, from a local folder."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weightspace.errors import InputError, StorageError
from weightspace.runtime import checks
from weightspace.storage.system_errors import exists


def from_transformers(
    folder: str | Path,
    model: str = "AutoModelForSequenceClassification",
    *,
    settings: Mapping[str, Any] | None = None,
    padding: int = 0,
) -> Callable[[], nn.Module]:
    """A factory of a model of transformers, whose networks begin at the weights of a local folder.

    The networks take token numbers (batch, length) and return logits. `bert` is the shorter way for BERT itself: its
    networks train side by side under masks of their own, and collections of them load without a factory.

    Args:
        folder: Folder that `save_pretrained` wrote; nothing is asked of any server.
        model: Class of transformers.
        settings: Further arguments of its `from_pretrained`, such as {"num_labels": 4}.
        padding: Number of the token that nothing attends to.

    Raises:
        InputError: The package is not installed, or has no such class.
        StorageError: The folder has no config.json.
    """
    folder = Path(checks.path(folder, "folder"))
    if not exists(folder / "config.json"):
        raise StorageError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    try:
        import transformers
    except ImportError as error:
        raise InputError("models of transformers need the package: pip install transformers") from error
    if not hasattr(transformers, checks.text(model, "model")):
        raise InputError(f"transformers has no class {model!r}: give one such as AutoModelForSequenceClassification")
    return TransformersModel(folder, model, dict(settings or {}), checks.count(padding, "padding"))


@dataclass(frozen=True)
class TransformersModel:
    """Builds the model; the same folder and seed give the same weights."""

    folder: Path
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    padding: int = 0

    def __call__(self) -> nn.Module:
        import transformers

        with _quiet():
            kind = getattr(transformers, self.model)
            return _Logits(kind.from_pretrained(self.folder, local_files_only=True, **self.settings), self.padding)


class _Logits(nn.Module):
    """Token numbers to logits."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=(ids != self.padding).long()).logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and reports of what a file lacks: a new head is what was asked for."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()

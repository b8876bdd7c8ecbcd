"""A model zoo becomes a collection: networks by run and epoch, with the settings and results of their training."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.checkpoint_files import NetworkFile
from weightspace.networks.collection import Collection
from weightspace.networks.foreign_state import Reading
from weightspace.networks.importing import check_reading, collection_of
from weightspace.networks.zoo_files import ZooRun, zoo_runs
from weightspace.runtime import checks
from weightspace.runtime.progress import progress

# By these a zoo's networks are chosen; never by test data.
_MAIN = {"validation_acc": True, "val_acc": True, "validation_accuracy": True, "validation_loss": False}


def from_zoo(
    folder: str | Path,
    factory: Callable[[], nn.Module] | Architecture,
    *,
    epochs: Literal["last", "all"] | Sequence[int] = "last",
    where: Callable[[Mapping[str, Any]], bool] | None = None,
    zeros_are_pruned: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    rename: Callable[[str], str | None] | None = None,
) -> Collection:
    """Read a zoo of training runs, as Ray Tune writes them and as the public model zoos are published.

    Each run is a folder with `params.json`, `result.json` (a line of JSON for each epoch) and
    `checkpoint_000050/checkpoints`. Files are read with `weights_only=True`, so that they cannot run code.

    The record of a network says its run, epoch and file; `params` are the settings of the run, `metrics` what was
    reported at that epoch. Both can be conditions of a generator: "params.lr", "metrics.test_acc", "epoch".

    Args:
        folder: Folder of the runs.
        factory: Function that returns a fresh module that the networks fit, or a built-in architecture.
        epochs: Which checkpoints of each run: the "last", "all", or numbers.
        where: Function of a run's settings that says whether to take it, such as `lambda p: p["model::nlin"] == "tanh"`
            where the networks of a zoo differ in what they compute.
        zeros_are_pruned: Whether prunable weights that are exactly zero count as pruned.
        key: Entry of each file that holds the state dict; None finds it.
        prefix: Prefix of the network's names; other names are left out. None finds it.
        strict: Whether it is an error that tensors are missing, or are not the network's.
        rename: Function from a name in a file to the network's, or to None for what is to be left out.

    Raises:
        StorageError: The folder has no runs, or a file cannot be read.
        LayoutMismatch: A file is of another network.
        InputError: No run has such a checkpoint, or it is not clear which tensors are the network's.
    """
    checks.path(folder, "folder")
    check_reading(factory, zeros_are_pruned, key, prefix, strict, rename)
    checks.given(where, "where", checks.function, what="of a run's settings")
    if epochs not in ("last", "all"):
        if isinstance(epochs, str):
            raise checks.refuse("epochs", '"last", "all" or numbers of epochs', epochs)
        checks.several(epochs, "epochs", checks.count, least=1)
    runs = zoo_runs(Path(folder))
    taken = [run for run in runs if where is None or where(run.params)]
    chosen = [(run, epoch) for run in taken for epoch in _chosen(run, epochs)]
    if not chosen:
        raise InputError(f"none of the {len(taken)} runs of {folder} that were taken has a checkpoint of {epochs!r}")
    left = [run.name for run in taken if not _chosen(run, epochs)]
    remarks = [f"left out, without a checkpoint of {epochs!r}: {_listed(left)}"] if left else []
    records = [_record(run, epoch) | {"index": i} for i, (run, epoch) in enumerate(chosen)]
    files: list[NetworkFile] = [run.checkpoints[epoch] for run, epoch in chosen]
    contents = ((file.name, file.read()) for file in progress(files, "reading the zoo"))
    reading = Reading(key, prefix, strict, rename)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        networks = collection_of(
            contents, records, factory, reading, zeros_are_pruned=zeros_are_pruned, remarks=remarks
        )
    for remark in said:
        warnings.warn(str(remark.message), stacklevel=2)
    return networks


def _chosen(run: ZooRun, epochs: str | Sequence[int]) -> list[int]:
    known = list(run.checkpoints)
    if epochs == "all":
        return known
    if isinstance(epochs, str):
        return known[-1:]
    return [epoch for epoch in known if epoch in epochs]


def _record(run: ZooRun, epoch: int) -> dict[str, Any]:
    file = run.checkpoints[epoch]
    record: dict[str, Any] = {"kind": "imported", "file": f"{file.name}/{file.path.name}"}
    record |= {"run": run.name, "epoch": epoch}
    if run.params:
        record["params"] = dict(run.params)
    metrics = run.results.get(epoch, {})
    if metrics:
        record["metrics"] = dict(metrics)
    main = next((name for name in _MAIN if name in metrics), None)
    return record if main is None else record | {"main_metric": {"name": main, "higher_is_better": _MAIN[main]}}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

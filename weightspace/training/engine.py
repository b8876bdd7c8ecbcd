"""Measure how a network trains fastest here: how many side by side, on how many threads.

Small networks gain up to tenfold from being stacked, large ones nothing or less; which is which
depends on the machine. The answer is kept in the user's cache folder, so that a second run on the
same machine makes the same choice and gives the same bytes; processes that ask at the same time share one answer.
"""

import hashlib
import inspect
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.networks.architecture import Architecture
from weightspace.networks.forward import activation_bytes
from weightspace.networks.layout import Layout
from weightspace.runtime import threads, tracking, trees
from weightspace.runtime.allocator import main_memory
from weightspace.storage.checksums import check_sum, write_sum
from weightspace.storage.files import write_text
from weightspace.storage.reading import read_json
from weightspace.storage.spelling import Spelling, spelled, unspelled
from weightspace.storage.system_errors import exists, told
from weightspace.storage.typed import from_json
from weightspace.tasks.data import OwnData
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task
from weightspace.training.gradients import draws_random_numbers
from weightspace.training.individual import Individual
from weightspace.training.trainer import Trainer

_GROUPS = {"cpu": (1, 4, 16, 64), "cuda": (1, 16, 64, 256, 1024)}
_SECONDS = 0.15
_LONGEST = 120.0  # seconds that a process waits for another's measurement
_KEPT = "engine.json"
_MOST_GB = 2.0**33  # an address space of 64 bits
_CLEARLY = 1.08
_MOST_THREADS = 2**12
# Weights, gradient, two moments and two temporaries; the backward pass keeps and grows activations.
_WEIGHT_COPIES, _ACTIVATION_COPIES = 6, 3


@dataclass(frozen=True)
class Execution:
    """How the networks of a task are trained on this machine.

    Args:
        group_size: Networks trained side by side; 1 trains them one after another.
        threads: CPU threads; None leaves PyTorch's setting.
        seconds: Measured time of one step of one network.
        reason: Why networks train one after another, if they have to.
    """

    spelling: ClassVar[Spelling] = Spelling("Engine", {"group_size": "group"})

    group_size: int
    threads: int | None
    seconds: float
    reason: str = ""


def choose_execution(
    task: Task,
    n: int,
    *,
    memory_gb: float | None = None,
    device: str = "cpu",
    folder: Path | None = None,
    chosen: Execution | None = None,
) -> Execution:
    """The fastest measured way to train n networks of a task within a memory budget.

    Args:
        memory_gb: Memory budget in GiB; by default a quarter of the machine's.
        task: Task that is trained.
        n: Number of networks.
        device: Device to train on.
        folder: Folder of the run, where the choice is kept, so that a resumed run makes the same.
        chosen: What was chosen for the whole of which this run is a part; None measures it.
    """
    if isinstance(task, LoopTask):
        return Execution(1, None, 0.0)
    kept = None if folder is None else kept_execution(folder)
    if memory_gb is not None and memory_gb <= 0:
        raise InputError(f"the memory budget must be positive, got {memory_gb} GiB")
    limit = min(n, max(1, budget_bytes(memory_gb, device) // network_bytes(task)))
    with tracking.paused():
        best = kept or chosen or _measured_once(task, limit, device)
    if best.reason and n > 1:
        warnings.warn(f"{task.architecture.name} {best.reason}", stacklevel=3)
    if kept is None and folder is not None:
        text = json.dumps(spelled(best))
        write_sum(folder / _KEPT, hashlib.sha256(text.encode()).hexdigest())
        write_text(folder / _KEPT, text)
    return best


def kept_execution(folder: Path) -> Execution | None:
    """The choice of an unfinished run: networks trained in groups of another size would be rounded otherwise.

    Args:
        folder: Folder of the run.

    Raises:
        StorageError: The choice was changed after it was written, or cannot be read.
    """
    path = folder / _KEPT
    if not exists(path):
        return None
    check_sum(path, f"restore it from a copy, or delete {folder} to start anew")
    with told("read", path):
        return _from_file(path)


def _measured_once(task: Task, limit: int, device: str) -> Execution:
    """The choice in the cache; it is measured if there is none, by one process at a time: two would find two."""
    path = _cache_file(task, limit, device)
    found = _read(path)
    if found is not None:
        return found
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # no lock is to be had, or another process takes too long
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.parent / "measuring.lock", timeout=_LONGEST))
        found = _read(path) or _choose(task, limit, device)
        with suppress(OSError, StorageError):  # without a writable cache folder the next run measures again
            write_text(path, json.dumps(spelled(found)))
        return found


def _choose(task: Task, limit: int, device: str) -> Execution:
    if draws_random_numbers(task.architecture.build_seeded(0), task.train.head(2).x):
        reason = (
            "draws random numbers in training (dropout): its networks train one after another, so that each depends on "
            "its own seed alone"
        )
        return Execution(1, threads.requested(), 0.0, reason)
    return _measure_all(task, limit, device)


def _read(path: Path) -> Execution | None:
    """A kept choice; a damaged file is measured anew."""
    try:
        return _from_file(path)
    except (OSError, ValueError, TypeError, AttributeError):  # StorageError is a ValueError
        return None


def _from_file(path: Path) -> Execution:
    data = read_json(path)
    if not isinstance(data, dict):
        raise StorageError(f"{path} is damaged ({data!r:.80} is no choice): delete it, it is measured anew")
    found = from_json(Execution, unspelled(Execution, data), str(path))
    if found.group_size < 1 or not 1 <= (found.threads or 1) <= _MOST_THREADS:
        raise StorageError(f"{path} is damaged ({data!r:.80} is no choice): delete it, it is measured anew")
    return found


def network_bytes(task: Task) -> int:
    """Estimated bytes that one network takes in training, activations included."""
    module = task.architecture.build_seeded(0).eval()
    layout = Layout.of(module)
    activations = activation_bytes(module, task.train.head(1).x) * task.recipe.batch_size
    return _WEIGHT_COPIES * layout.size * layout.dtype.itemsize + _ACTIVATION_COPIES * activations


def machine_memory(device: str = "cpu") -> int:
    """Bytes of main memory, or of the device's."""
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[1]
    return main_memory()


def budget_bytes(memory_gb: float | None, device: str = "cpu") -> int:
    """A memory budget in bytes; by default a quarter of the machine's, or of the device's."""
    return machine_memory(device) // 4 if memory_gb is None else int(min(memory_gb, _MOST_GB) * 2**30)


def _measure_all(task: Task, limit: int, device: str) -> Execution:
    best: Execution | None = None
    for group in _candidates(limit, device):
        try:
            found = [Execution(group, count, _measure(task, group, count, device)) for count in _thread_counts(device)]
        except RuntimeError as error:
            if best is None:
                raise
            why = str(error).splitlines()[0]
            reason = f"does not vectorise ({why}): its networks train one after another, with the same result"
            return replace(best, reason=reason)
        # Measurements are noisy: only a clear gain justifies more threads or a larger group.
        fastest = found[0]
        for one in found[1:]:
            if one.seconds * _CLEARLY < fastest.seconds:
                fastest = one
        if best is None or fastest.seconds * _CLEARLY < best.seconds:
            best = fastest
        elif fastest.seconds > 1.5 * best.seconds:
            break
    assert best is not None
    return best


def _thread_counts(device: str) -> list[int | None]:
    """Thread counts worth trying: what the user asked for, else one and PyTorch's own number."""
    if device != "cpu":
        return [None]
    if threads.requested() is not None:
        return [threads.requested()]
    return [1, *([torch.get_num_threads()] if torch.get_num_threads() > 1 else [])]


def _candidates(limit: int, device: str) -> Iterator[int]:
    sizes = _GROUPS["cuda" if device.startswith("cuda") else "cpu"]
    yield from (size for size in sizes if size < limit)
    yield min(limit, sizes[-1])


def _measure(task: Task, group: int, count: int | None, device: str) -> float:
    """Seconds of one step of one network, the fastest of several: noise only ever adds."""
    trainer = _trainer(task, task.architecture, group, count, device)
    trainer.run(2)
    best = float("inf")
    began = time.perf_counter()
    runs = 0
    while runs < 5 or (time.perf_counter() - began < _SECONDS and runs < 50):
        start = time.perf_counter()
        trainer.run(trainer.step + 1)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best / group


def _trainer(task: Task, architecture: Architecture, group: int, count: int | None, device: str) -> Trainer:
    module = architecture.build_seeded(0)
    layout = Layout.of(module)
    state = module.state_dict()
    return Trainer(
        architecture,
        task.train,
        task.loss,
        task.recipe,
        weights=layout.pack(state).repeat(group, 1),
        masks=None,
        buffers={b.name: state[b.name].repeat(group, *[1] * state[b.name].ndim) for b in layout.buffers},
        individual=Individual(range(group), data=_sets(task, group)),
        group_size=group,
        threads=count,
        device=device,
    )


def _sets(task: Task, group: int) -> list[int | None] | None:
    """Numbers of own data for networks that are only timed."""
    return [i % task.train.sets for i in range(group)] if isinstance(task.train, OwnData) else None


def _input_shape(task: Task) -> Any:
    """The shape of one sample's inputs."""
    x = task.train.head(1).x
    return list(x.shape[1:]) if isinstance(x, Tensor) else trees.shapes(x)


def _source(architecture: Architecture) -> str:
    """The text of a user's factory, where Python knows it: another text may vectorise differently."""
    try:
        return inspect.getsource(architecture.factory) if architecture.factory is not None else ""
    except (OSError, TypeError):
        return ""


def _cache_file(task: Task, limit: int, device: str) -> Path:
    recipe = task.recipe.to_json()
    recipe.pop("length")
    recipe.pop("watch", None)
    key = [
        task.architecture.layout().to_json(),
        task.architecture.to_json(),
        recipe,
        _input_shape(task),
        repr(task.architecture.build_seeded(0)),
        _source(task.architecture),
        limit,
        device,
        torch.get_num_threads(),
        threads.requested(),
        torch.__version__,
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "weightspace" / f"probe-{digest}.json"


_BLOCK = 64


_BLOCK_CUDA = 1024


def block_size(task: Task, memory_gb: float | None = None, *, device: str = "cpu", copies: int = 1) -> int:
    """Networks in memory at once, and in one file on disk: 64 (CUDA: 1,024), or as many as the budget allows.

    Args:
        memory_gb: Memory budget in GiB; by default a quarter of the machine's, or of the device's.
        copies: Networks kept of each training run.
    """
    if isinstance(task, LoopTask):
        return task.together
    fits = budget_bytes(memory_gb, device) // network_bytes(task)
    return max(1, min(_BLOCK if device == "cpu" else _BLOCK_CUDA, fits) // copies)

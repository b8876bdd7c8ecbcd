"""The command line's verbs that make or bring in collections of networks."""

import multiprocessing
import pickle
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from tyro.conf import Positional

from weightspace.cli.describe import report_done
from weightspace.cli.inputs import (
    Common,
    Folder,
    Shared,
    find_factory,
    find_task,
    imported,
    open_collection,
    read_arguments,
    task_of,
)
from weightspace.errors import InputError, StorageError
from weightspace.networks.architecture import Architecture
from weightspace.networks.importing import from_state_dicts
from weightspace.networks.merging import merge as merge_folders
from weightspace.recipes.step import Step
from weightspace.runtime.executor import end_with_parent
from weightspace.training import collect as train_collection
from weightspace.training import train as train_on
from weightspace.training.distributed import OnRay, collect_on
from weightspace.training.plans import CollectionPlan, Grid, Independent, SharedStart, Trajectory


def collect(
    *,
    out: Path,
    task: str = "digits",
    hidden: tuple[int, ...] | None = None,
    model: str | None = None,
    arguments: str = "{}",
    n: int = 300,
    seed: int = 0,
    length: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    shared_start: str | None = None,
    trajectory: str | None = None,
    grid_lr: tuple[float, ...] = (),
    grid_weight_decay: tuple[float, ...] = (),
    grid_label_noise: tuple[float, ...] = (),
    shard: str | None = None,
    workers: int = 1,
    ray: bool = False,
    memory_gb: float | None = None,
    common: Shared = Common(),
) -> None:
    """Train many networks on a task, side by side.

    Args:
        out: folder to write.
        task: digits, iris, wine, breast_cancer, mnist, fashion_mnist, cifar10, or MODULE:FUNCTION that returns a Task.
        hidden: sizes of the hidden layers of the task's MLP; by default the task's.
        model: another built-in network, such as LeNet5 or ResNet20.
        arguments: its arguments as YAML, such as '{width: 0.5}'.
        n: number of training runs (for each cell of a grid).
        seed: of the collection.
        length: how long to train, such as 30ep or 500it; by default the task's recipe.
        batch_size: samples a step; by default the task's recipe.
        lr: learning rate; by default the task's recipe.
        shared_start: train one network for so long (2ep), then n copies on, each in its own data order.
        trajectory: keep the network of every run each so often (1ep), not only the last.
        grid_lr: n runs for each of these learning rates.
        grid_weight_decay: n runs for each of these weight decays.
        grid_label_noise: n runs for each of these fractions of training labels drawn anew.
        shard: I/K trains the I-th of K equal parts, I from 0; `weightspace merge` puts them together.
        workers: processes on this machine, one thread each.
        ray: run the parts on a Ray cluster instead (RAY_ADDRESS, or one on this machine).
        memory_gb: memory budget in gigabytes; by default a quarter of the machine's.
    """
    built = find_task(task, common, **({"hidden": hidden} if hidden is not None else {}))
    if model is not None and hidden is not None:
        raise InputError("--hidden is of the task's own MLP: give --arguments to --model")
    if model is None and arguments != "{}":
        raise InputError("--arguments belong to --model")
    if model is not None:
        built = replace(built, architecture=Architecture(model, read_arguments(arguments)))
    recipe = built.recipe
    if length is not None:
        recipe = replace(recipe, length=Step.of(length))
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    if lr is not None:
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=lr))
    built = replace(built, recipe=recipe)
    plan = _plan(shared_start, trajectory, grid_lr, grid_weight_decay, grid_label_noise)
    if workers < 1:
        raise InputError(f"--workers must be at least 1, got {workers}")
    if ray or workers > 1:
        common.only_cpu("collect --workers")
        if shard is not None or memory_gb is not None:
            raise InputError("--shard and --memory-gb do not go with --workers or --ray, which make their own parts")
        executor = (
            OnRay() if ray else ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
        )
        parts = max(1, min(4 * workers if workers > 1 else 8, n))
        try:
            networks = collect_on(executor, built, n, shards=parts, folder=out, seed=seed, plan=plan)
        except BrokenExecutor as error:
            raise StorageError(
                f"a worker ended ({error}): run the same command again, finished parts are kept"
            ) from error
        except (pickle.PicklingError, AttributeError) as error:
            raise InputError(f"the task cannot be sent to other processes ({error}): leave --workers out") from error
    else:
        networks = train_collection(
            built, n, seed=seed, plan=plan, folder=out, shard=_shard(shard), memory_gb=memory_gb, device=common.device
        )
    report_done(networks, out)


def train(networks: Folder, *, out: Path, length: str, task: str | None = None, common: Shared = Common()) -> None:
    """Train a collection on, each network under its own mask.

    Args:
        networks: folder of networks; add @START:STOP to take a part.
        out: folder to write.
        length: how much longer, such as 5ep.
        task: what the networks were trained on; by default what their records say.
    """
    collection = open_collection(networks, common)
    longer = train_on(collection, task_of(collection, task, common), length, folder=out, device=common.device)
    report_done(longer, out)


def merge(folders: Positional[tuple[str, ...]], *, out: Path, common: Shared = Common()) -> None:
    """Put collections from several machines together, in order.

    Args:
        folders: of the collections.
        out: folder to write.
    """
    report_done(merge_folders(folders, out, factory=find_factory(common)), out)


def import_folder(
    folder: Folder,
    *,
    out: Path,
    model: str | None = None,
    arguments: str = "{}",
    zeros_are_pruned: bool = False,
    common: Shared = Common(),
) -> None:
    """Make a collection of a folder of state-dict files (.safetensors, .pt, .pth).

    Args:
        folder: one file per network.
        out: folder to write.
        model: a built-in network, such as MLP; or give --factory for one of your own.
        arguments: its arguments as YAML, such as '{sizes: [64, 128, 64, 10]}'.
        zeros_are_pruned: take weights that are exactly zero as pruned.
    """
    if (model is None) == (common.factory is None):
        raise InputError("say what network the files belong to: --model MLP --arguments '{sizes: [...]}' or --factory")
    if model is not None:
        architecture = Architecture(model, read_arguments(arguments))
    else:
        assert common.factory is not None
        architecture = Architecture.of(imported(common.factory))
    networks = from_state_dicts(folder, architecture, zeros_are_pruned=zeros_are_pruned)
    networks.save(out)
    report_done(networks, out)


def _plan(
    shared_start: str | None,
    trajectory: str | None,
    lr: tuple[float, ...],
    weight_decay: tuple[float, ...],
    label_noise: tuple[float, ...],
) -> CollectionPlan:
    chosen: list[CollectionPlan] = []
    if shared_start is not None:
        chosen.append(SharedStart(Step.of(shared_start)))
    if trajectory is not None:
        chosen.append(Trajectory(Step.of(trajectory)))
    if lr or weight_decay or label_noise:
        chosen.append(Grid(lr, weight_decay, label_noise))
    if len(chosen) > 1:
        raise InputError("choose one of --shared-start, --trajectory and --grid-*: a collection is of one kind")
    return chosen[0] if chosen else Independent()


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit()):
        raise InputError(f"a shard is written I/K, such as 0/4, got {text!r}")
    return int(part), int(parts)

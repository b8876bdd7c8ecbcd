"""The command line's verbs that make or bring in collections of networks."""

import re
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from weightspace.cli.describe import report_done
from weightspace.cli.inputs import (
    Common,
    Folder,
    Folders,
    Shared,
    find_factory,
    find_task,
    imported,
    open_collection,
    read_arguments,
    task_of,
)
from weightspace.cli.texts import fitting
from weightspace.cli.workers import parts_for, workers_of
from weightspace.errors import InputError
from weightspace.models.libraries import is_of_library
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.importing import from_state_dict, from_state_dicts
from weightspace.networks.merging import merge as merge_folders
from weightspace.networks.zoo import from_zoo
from weightspace.recipes.by_length import ByLength
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime.executor import Executor
from weightspace.storage.again import write_again
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task
from weightspace.training import collect as train_collection
from weightspace.training import collect_on, train, train_on
from weightspace.training.plans import CollectionPlan, Grid, Independent, SharedStart, Trajectory


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Settings of a grid; without any, all runs have those of the task's recipe.

    Args:
        lr: Learning rates.
        weight_decay: Weight decays.
        label_noise: Fractions of training labels drawn anew.
    """

    lr: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()
    label_noise: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Train many networks on a task, side by side.

    Args:
        out: Folder to write.
        task: Task: digits, iris, wine, breast_cancer, mnist, fashion_mnist, cifar10, cartpole, lunar_lander, acrobot,
            text, masked_words, next_token, or MODULE:FUNCTION that returns one.
        hidden: Sizes of the hidden layers of the task's MLP; None is the task's.
        model: Another built-in network, such as LeNet5 or ResNet20; None is the task's.
        arguments: Arguments of the other network as YAML, such as '{width: 0.5}'.
        n: Number of training runs (of each cell of a grid).
        seed: Seed of the collection.
        length: Length of training, such as 30ep or 500it; None is that of the task's recipe.
        batch_size: Samples in each step; None is that of the task's recipe.
        lr: Learning rate; None is that of the task's recipe.
        max_gradient_norm: Norm that each network's gradient is cut to; None is that of the task's recipe.
        no_decay: Parameters without weight decay: biases, norms, or names or globs; None is those of the task's recipe.
        by_length: Token id of padding: batches gather samples of similar length. None is as the task's recipe has it.
        shared_start: Length of training (2ep) of one network, of which n copies train on, each in its own data order.
        trajectory: Length between two networks that are kept of every run (1ep); None keeps the last only.
        grid: Settings of which every combination is trained n times.
        shard: I/K trains the I-th of K equal parts, I from 0; `weightspace merge` puts them together.
        workers: Number of processes on this machine, one thread each.
        ray: Whether the parts run on a Ray cluster instead (RAY_ADDRESS, or one on this machine).
        memory_gb: Memory budget in GiB; None is a quarter of the machine's.
        common: Options that mean the same in every verb.
    """

    out: Path
    task: str = "digits"
    hidden: tuple[int, ...] | None = None
    model: str | None = None
    arguments: str = "{}"
    n: int = 300
    seed: int = 0
    length: Step | None = None
    batch_size: int | None = None
    lr: float | None = None
    max_gradient_norm: float | None = None
    no_decay: tuple[str, ...] | None = None
    by_length: int | None = None
    shared_start: Step | None = None
    trajectory: Step | None = None
    grid: GridOptions = GridOptions()
    shard: str | None = None
    workers: int = 1
    ray: bool = False
    memory_gb: float | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Train the collection."""
        task, plan = self._task(), self._plan()
        with workers_of(self.workers, self.ray, "collect", self.common) as executor:
            if executor is not None:
                networks = self._in_parts(executor, task, plan)
            else:
                networks = train_collection(
                    task,
                    self.n,
                    seed=self.seed,
                    plan=plan,
                    folder=self.out,
                    shard=_shard(self.shard),
                    memory_gb=self.memory_gb,
                    device=self.common.device,
                )
        report_done(networks, self.out)

    def _task(self) -> Task:
        """The task with the options in place of its own network and recipe."""
        factory = find_factory(self.common)  # one of the user's own is the task's, or says what is wrong with it
        task = find_task(self.task, self.common, {} if self.hidden is None else {"hidden": self.hidden})
        if self.model is not None and self.hidden is not None:
            raise InputError("--hidden is of the task's own MLP: give --arguments to --model")
        if self.model is None and self.arguments != "{}":
            raise InputError("--arguments belong to --model")
        if self.model is not None:
            network = Architecture(self.model, read_arguments(self.arguments))
            task = replace(task, architecture=fitting(network, task))
        if self.common.factory is not None and is_of_library(self.common.factory):
            if self.model is not None or self.hidden is not None:
                raise InputError("--factory names the network: leave --model and --hidden out")
            assert factory is not None
            task = replace(task, architecture=fitting(Architecture.of(factory), task))
        own = (self.batch_size, self.lr, self.max_gradient_norm, self.no_decay, self.by_length)
        if isinstance(task, LoopTask) and any(setting is not None for setting in own):
            raise InputError(
                "--batch-size, --lr, --max-gradient-norm, --no-decay, --by-length are of weightspace's own training; "
                f"task {self.task} is a loop, set them in it"
            )
        return replace(task, recipe=self._recipe(task.recipe))

    def _recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with the options in place of its own settings."""
        if self.length is not None:
            recipe = replace(recipe, length=self.length)
        if self.batch_size is not None:
            recipe = replace(recipe, batch_size=self.batch_size)
        if self.lr is not None:
            recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=self.lr))
        if self.max_gradient_norm is not None:
            recipe = replace(recipe, max_gradient_norm=self.max_gradient_norm)
        if self.no_decay is not None:
            recipe = replace(recipe, no_decay=self.no_decay)
        if self.by_length is not None:
            recipe = replace(recipe, batches=ByLength(padding=self.by_length))
        return recipe

    def _plan(self) -> CollectionPlan:
        """What the networks of the collection have in common."""
        chosen: list[CollectionPlan] = []
        if self.shared_start is not None:
            chosen.append(SharedStart(self.shared_start))
        if self.trajectory is not None:
            chosen.append(Trajectory(self.trajectory))
        if self.grid != GridOptions():
            chosen.append(Grid(self.grid.lr, self.grid.weight_decay, self.grid.label_noise))
        if len(chosen) > 1:
            raise InputError("choose one of --shared-start, --trajectory and --grid.*: a collection is of one kind")
        return chosen[0] if chosen else Independent()

    def _in_parts(self, executor: Executor, task: Task, plan: CollectionPlan) -> Collection:
        """Train in several processes, or on a cluster."""
        if self.shard is not None or self.memory_gb is not None:
            raise InputError("--shard and --memory-gb do not go with --workers or --ray, which make their own parts")
        parts = parts_for(self.workers, self.n)
        return collect_on(executor, task, self.n, shards=parts, folder=self.out, seed=self.seed, plan=plan)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a collection on, each network under its own mask.

    Args:
        networks: Folder of networks; add @START:STOP to take a part.
        out: Folder to write.
        length: Length of the further training, such as 5ep.
        task: Task that the networks were trained on; None is what their records say.
        workers: Number of processes on this machine, one thread each.
        ray: Whether the parts run on a Ray cluster instead (RAY_ADDRESS, or one on this machine).
        common: Options that mean the same in every verb.
    """

    networks: Folder
    out: Path
    length: Step
    task: str | None = None
    workers: int = 1
    ray: bool = False
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Train the networks."""
        collection = open_collection(self.networks, self.common, self.task)
        task = task_of(collection, self.task, self.common)
        with workers_of(self.workers, self.ray, "train", self.common) as executor:
            if executor is None:
                longer = train(collection, task, self.length, folder=self.out, device=self.common.device)
            else:
                parts = parts_for(self.workers, len(collection))
                longer = train_on(executor, collection, task, self.length, shards=parts, folder=self.out)
        report_done(longer, self.out)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Put collections from several machines together, in order.

    Args:
        folders: Folders of the collections.
        out: Folder to write.
        common: Options that mean the same in every verb.
    """

    folders: Folders
    out: Path
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Merge the collections."""
        if not self.folders:
            raise InputError("give the folders of the collections that are put together")
        factory = find_factory(self.common)
        write_again(self.out, lambda out: merge_folders(self.folders, out, factory=factory))
        report_done(Collection.load(self.out, factory=factory), self.out)


@dataclass(frozen=True, kw_only=True)
class ImportFolder:
    """Make a collection of a folder of state-dict files (.safetensors, .pt, .pth, .bin, .ckpt, .pth.tar), or of one.

    What is found and taken off (prefixes, wrappers, entries around the state dict) or left out is printed.

    Args:
        folder: Folder with one file or one sub-folder per network, or one file; of a model zoo, a folder of runs.
        out: Folder to write.
        model: A built-in network, such as MLP; or give --factory for one of your own.
        arguments: Arguments of the built-in network as YAML, such as '{sizes: [64, 128, 64, 10]}'.
        zeros_are_pruned: Whether weights that are exactly zero count as pruned.
        key: Entry of each file that holds the state dict, such as model_ema; None finds it.
        prefix: Prefix of the network's names, such as encoder.; other names are left out. None finds it.
        strict: Whether it is an error that tensors are missing, or are not the network's.
        rename: MODULE:FUNCTION from a name in a file to the network's, or to None for what is to be left out.
        zoo: Whether the folder is a model zoo of runs (params.json, result.json, checkpoint_000050/checkpoints).
        epochs: Checkpoints that are taken of each run of a zoo: last, all, or numbers such as 10,50.
        common: Options that mean the same in every verb.
    """

    folder: Folder
    out: Path
    model: str | None = None
    arguments: str = "{}"
    zeros_are_pruned: bool = False
    key: str | None = None
    prefix: str | None = None
    strict: bool = True
    rename: str | None = None
    zoo: bool = False
    epochs: str = "last"
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Read the files."""
        if self.epochs != "last" and not self.zoo:
            raise InputError("--epochs are those of a zoo's runs: give --zoo, or leave it out")
        factory = find_factory(self.common)
        if (self.model is None) == (factory is None):
            raise InputError(
                "say what network the files belong to: --model MLP --arguments '{sizes: [...]}' or --factory"
            )
        if self.model is not None:
            architecture = Architecture(self.model, read_arguments(self.arguments))
        else:
            assert factory is not None
            architecture = Architecture.of(factory)
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            one = from_state_dict if Path(self.folder).is_file() else from_state_dicts
            networks = (partial(from_zoo, epochs=_epochs(self.epochs)) if self.zoo else one)(
                self.folder,
                architecture,
                zeros_are_pruned=self.zeros_are_pruned,
                key=self.key,
                prefix=self.prefix,
                strict=self.strict,
                rename=None if self.rename is None else imported(self.rename, self.common),
            )
        for remark in remarks:
            print(remark.message)
        write_again(self.out, networks.save)
        report_done(networks, self.out)


def _epochs(text: str) -> Literal["last", "all"] | list[int]:
    if text == "last" or text == "all":
        return text
    if not re.fullmatch("[0-9]{1,12}(,[0-9]{1,12})*", text):
        raise InputError(f"--epochs is last, all, or numbers such as 10,50, got {text!r}")
    return [int(number) for number in text.split(",")]


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise InputError(f"--shard is written I/K, such as 0/4, got {text!r}")
    return int(match[1]), int(match[2])

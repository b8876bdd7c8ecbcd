"""What the command line reads and says: collections by folder, tasks and factories by name."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from tyro.conf import OmitArgPrefixes, Positional

from weightspace import tasks
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import devices, threads
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class Common:
    """Options that mean the same in every verb.

    Args:
        device: where to compute: cpu, cuda, or auto for a card where there is one.
        threads: CPU threads; by default PyTorch decides.
        data_root: folder of the data sets; by default $WEIGHTSPACE_DATA, else ./data.
        factory: MODULE:FUNCTION that builds the network, for modules that are not built in.
        config: YAML file that sets options by name; options on the command line win.
    """

    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    factory: str | None = None
    config: Path | None = None  # read by weightspace.cli before the options are parsed

    def __post_init__(self) -> None:
        if self.threads is not None:
            if self.threads < 1:
                raise InputError(f"--threads must be at least 1, got {self.threads}")
            threads.use(self.threads)
        devices.pick(self.device)

    def only_cpu(self, verb: str) -> None:
        """Raise InputError for a device that a verb cannot use yet."""
        if self.device not in ("auto", "cpu"):
            raise InputError(f"`weightspace {verb}` computes on the cpu in this version: leave --device out")


Shared = OmitArgPrefixes[Common]
Folder = Positional[str]


def open_collection(text: str, common: Common) -> Collection:
    """A collection folder, or a part of it: FOLDER@START:STOP."""
    part = re.fullmatch(r"(.*)@(-?\d*):(-?\d*)", text)
    if part is None and "@" in text and not Path(text).exists():
        raise InputError(f"a part of a collection is written FOLDER@START:STOP, got {text!r}")
    collection = Collection.load(part[1] if part else text, factory=find_factory(common))
    if part is None:
        return collection
    start, stop = (int(end) if end else None for end in part.groups()[1:])
    return collection[start:stop]


def read_arguments(text: str) -> dict[str, Any]:
    """Arguments of a network, written as a YAML mapping."""
    try:
        arguments = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--arguments is not YAML: {error}") from error
    if not isinstance(arguments, dict):
        raise InputError(f"--arguments must be a mapping such as '{{sizes: [64, 10]}}', got {text!r}")
    return arguments


def task_of(networks: Collection, name: str | None, common: Common) -> Task:
    """The task of trained networks, with their own architecture and recipe."""
    record = networks.records[0]
    chosen = name or record.get("task")
    if chosen is None:
        raise InputError("the records do not say which task the networks were trained on: give --task")
    task = find_task(chosen, common)
    recipe = Recipe.from_json(record["recipe"]) if "recipe" in record else task.recipe
    architecture = networks.architecture if networks.architecture.known else task.architecture
    return replace(task, architecture=architecture, recipe=recipe)


def find_task(name: str, common: Common, **arguments: Any) -> Task:
    built_in = {k: v for k, v in vars(tasks).items() if inspect.isfunction(v) and not k.startswith("from_")}
    if ":" in name:
        make = imported(name)
    elif name in built_in:
        make = built_in[name]
    else:
        raise InputError(
            f"no task is called {name!r}: there are {', '.join(sorted(built_in))}, or give MODULE:FUNCTION"
        )
    accepted = inspect.signature(make).parameters
    if "data_root" in accepted:
        arguments["data_root"] = common.data_root
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise InputError(f"task {name!r} has no option {unknown[0]!r}")
    try:
        task = make(**arguments)
    except InputError:
        raise
    except Exception as error:  # a user's own code can raise anything
        raise InputError(f"task {name!r} could not be made: {error!r}") from error
    if not isinstance(task, Task):
        raise InputError(f"{name} returned a {type(task).__name__}, not a weightspace.Task")
    return task


def find_factory(common: Common) -> Callable[[], nn.Module] | None:
    return None if common.factory is None else imported(common.factory)


def imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"a function of your own is written MODULE:FUNCTION, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's own module can raise anything
        raise InputError(f"{name} cannot be imported: {error!r}") from error


def named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not equals:
        raise InputError(f"a collection for comparison is written NAME=FOLDER, got {text!r}")
    return name, folder


def read_conditions(given: Sequence[str]) -> dict[str, float | str]:
    """NAME=VALUE on the command line; numbers where they can be read as such."""
    found: dict[str, float | str] = {}
    for one in given:
        name, equal, value = one.partition("=")
        if not (name and equal and value):
            raise InputError(f"a condition is written NAME=VALUE, such as density=0.1; got {one!r}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found

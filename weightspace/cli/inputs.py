"""What the command line reads: collections by folder, tasks and factories by name."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from torch import nn
from tyro.conf import OmitArgPrefixes, Positional, arg

from weightspace import tasks
from weightspace.adapt.lora import LoRA, architecture_of
from weightspace.cli import texts
from weightspace.cli.texts import TextOptions
from weightspace.control import PolicyTask, acrobot, cartpole, lunar_lander
from weightspace.errors import InputError
from weightspace.generator.description import Value
from weightspace.generator.fitted_generator import FittedGenerator
from weightspace.models.libraries import from_library, is_of_library
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import checks, devices, threads
from weightspace.runtime.user_code import describe
from weightspace.storage.yaml_text import parse_yaml
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task

_THREADS = 1024  # more take memory and make nothing faster


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that mean the same in every verb.

    Args:
        device: Where to compute: cpu, cuda, or auto for a card where there is one.
        threads: CPU threads; None leaves the number to PyTorch.
        data_root: Folder of the data sets; None is $WEIGHTSPACE_DATA, else ./data.
        factory: MODULE:FUNCTION that builds a network of your own, or a network of torchvision, timm or transformers,
            such as "timm:resnet18(num_classes=10)".
        import_from: Folder to look for MODULE in, beside installed packages; `.` is the working folder.
        adapters_of: Folder of the base, in verbs that read adapters; @I:I+1 takes one network of several.
        config: YAML file that sets options by name; options on the command line win.
        quiet: Show no progress; warnings, errors and results are printed.
        track: Where losses go beside metrics.jsonl: tensorboard:FOLDER, wandb:PROJECT, csv:FILE or jsonl:FILE.
        texts: Texts and body of the tasks text, masked_words and next_token.

    Raises:
        InputError: The device is not available, or the number of threads is below 1.
    """

    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    factory: str | None = None
    import_from: Path | None = None
    adapters_of: str | None = None
    config: Path | None = None  # read by weightspace.cli.main before the options are parsed
    quiet: bool = False  # this and the next are read by weightspace.cli.telling
    track: str | None = None
    texts: Annotated[OmitArgPrefixes[TextOptions], arg(prefix_name=False)] = TextOptions()

    def __post_init__(self) -> None:
        if self.threads is not None:
            threads.use(checks.count(self.threads, "--threads", at_least=1, at_most=_THREADS))
        devices.pick(self.device)

    def only_cpu(self, verb: str) -> None:
        """Raise InputError for a device that a verb cannot use yet."""
        if self.device not in ("auto", "cpu"):
            raise InputError(f"`weightspace {verb}` computes on the cpu in this version: leave --device out")


Shared = Annotated[
    OmitArgPrefixes[Common],
    arg(help="The same in every verb; for texts also --texts, --body, ... (`weightspace collect --help`)."),
]
Folder = Positional[Annotated[str, arg(metavar="FOLDER")]]
Folders = Positional[Annotated[tuple[str, ...], arg(metavar="FOLDER ...", help_behavior_hint="(one or more)")]]


def open_collection(text: str, common: Common, task: str | None = None) -> Collection:
    """Open a collection folder, or a part of it: FOLDER@START:STOP.

    Args:
        text: The folder, and the part.
        common: Options of all verbs.
        task: The task as the command line names it. One of the user's own builds networks that are not built in, where
            there is no --factory.

    Raises:
        InputError: The part is written in another way, or the folder is no collection.
    """
    part = re.fullmatch(r"(.*)@(-?\d*):(-?\d*)", text)
    if part is None and "@" in text and not Path(text).exists():
        raise InputError(f"a part of a collection is written FOLDER@START:STOP, got {text!r}")
    folder = part[1] if part else text
    if common.adapters_of is None:
        collection = Collection.load(folder, factory=find_factory(common, task))
    else:
        collection = LoRA.load(folder, base_of_adapters(common, task))
    if part is None:
        return collection
    start, stop = (int(end) if end else None for end in part.groups()[1:])
    return collection[start:stop]


def open_generator(folder: Path, common: Common, task: str | None = None) -> FittedGenerator:
    """Open the folder of a generator, of networks or of adapters.

    Args:
        folder: The folder.
        common: Options of all verbs.
        task: The task as the command line names it.
    """
    if common.adapters_of is None:
        return FittedGenerator.load(folder, factory=find_factory(common, task))
    said = FittedGenerator.load(folder).trained_on.get("records", {})
    architecture = architecture_of(said, base_of_adapters(common, task), str(folder))
    return FittedGenerator.load(folder, factory=architecture.factory)


def base_of_adapters(common: Common, task: str | None = None) -> Collection:
    """The base that --adapters-of names.

    Args:
        common: Options of all verbs.
        task: The task as the command line names it.
    """
    assert common.adapters_of is not None
    return open_collection(common.adapters_of, replace(common, adapters_of=None), task)


def read_arguments(text: str) -> dict[str, Any]:
    """Read the arguments of a network, written as a YAML mapping.

    Raises:
        InputError: The text is no mapping.
    """
    try:
        arguments = parse_yaml(text, "--arguments")
    except InputError as error:
        raise InputError(f"--arguments is not YAML: {error}") from error
    if not isinstance(arguments, dict):
        raise InputError(f"--arguments must be a mapping such as '{{sizes: [64, 10]}}', got {text!r}")
    return arguments


def task_of(networks: Collection, name: str | None, common: Common) -> Task:
    """The task of trained networks, with their own architecture and recipe.

    Args:
        networks: Networks, whose records name the task.
        name: The task as the command line names it; None reads it from the records, which may name built-in tasks only.
        common: Options of all verbs.

    Raises:
        InputError: The task is not named, or cannot be made.
    """
    record = networks.records[0]
    recorded = record.get("task")
    if name is None and recorded is None:
        raise InputError("the records do not say which task the networks were trained on: give --task")
    task = find_task(name, common) if name is not None else recorded_task(recorded, common)
    if isinstance(task, PolicyTask):
        return task.as_recorded(record, networks.architecture)
    if isinstance(task, LoopTask):
        return task
    recipe = Recipe.from_json(record["recipe"]) if "recipe" in record else task.recipe
    architecture = begun_as(networks.architecture, task) if networks.architecture.known else task.architecture
    task = replace(task, architecture=architecture, recipe=recipe)
    if name is not None:
        task.try_out()  # another task's data may have other shapes
    return task


def begun_as(architecture: Architecture, task: Task) -> Architecture:
    """The architecture of stored networks, with the pre-trained values that the task's body names.

    Args:
        architecture: Architecture of stored networks, which keeps the checksum of its body alone.
        task: Task that names the body.

    Raises:
        InputError: The task's body is another.
    """
    begun = architecture.pretrained
    return (
        architecture
        if begun is None
        else replace(architecture, pretrained=begun.known_by(task.architecture.pretrained))
    )


def recorded_task(name: object, common: Common) -> Task:
    """A task that a file names: a built-in one, as data must not run code.

    Raises:
        InputError: The name is not that of a built-in task.
    """
    if name == "unknown":  # as a generator has it
        raise InputError("the records do not say which task the networks were trained on: give --task")
    if not isinstance(name, str) or name not in _built_in():
        raise InputError(
            f"the networks were trained on {name!r}, which is not a built-in task, and what a file names is never "
            "imported: give --task MODULE:FUNCTION, if you trust it"
        )
    return _made(name, _built_in()[name], common, {})


def find_task(name: str, common: Common, arguments: Mapping[str, Any] | None = None) -> Task:
    """A task that the command line names: a built-in one, or MODULE:FUNCTION.

    Raises:
        InputError: There is no such task, or it cannot be made.
    """
    if ":" in name and not arguments:
        return _own_task(name, common)
    if ":" in name:
        make = imported(name, common)
    elif name in _built_in():
        make = _built_in()[name]
    else:
        raise InputError(
            f"no task is called {name!r}: there are {', '.join(sorted(_built_in()))}, or give MODULE:FUNCTION"
        )
    return _made(name, make, common, dict(arguments or {}))


@lru_cache(maxsize=1)
def _own_task(name: str, common: Common) -> Task:
    """A user's task, made once in a command, as it may load data."""
    return _made(name, imported(name, common), common, {})


def _built_in() -> dict[str, Callable[..., Any]]:
    found = {k: v for k, v in vars(tasks).items() if inspect.isfunction(v) and not k.startswith("from_")}
    return {**found, **{make.__name__: make for make in (acrobot, cartpole, lunar_lander)}, **texts.TASKS}


def _made(name: str, make: Callable[..., Any], common: Common, arguments: dict[str, Any]) -> Task:
    accepted = inspect.signature(make).parameters
    if "data_root" in accepted:
        arguments["data_root"] = common.data_root
    if make in texts.TASKS.values():
        arguments["options"] = common.texts
    elif common.texts != TextOptions():
        raise InputError(
            f"--texts, --body and what goes with them are for --task text, masked_words or next_token, not {name}"
        )
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise InputError(f"task {name!r} has no option {unknown[0]!r}: leave it out")
    try:
        task = make(**arguments)
    except InputError:
        raise
    except Exception as error:  # a user's own code can raise anything
        raise InputError(f"task {name!r} could not be made: {describe(error)}; it must take no arguments") from error
    if not isinstance(task, Task):
        raise InputError(f"{name} returned a {type(task).__name__}, not a weightspace.Task: return one")
    return task


def find_factory(common: Common, task: str | None = None) -> Callable[[], nn.Module] | None:
    """The function of --factory, or else of the user's own task, if one was given.

    Args:
        common: Options of all verbs.
        task: The task as the command line names it.
    """
    if common.factory is not None:
        return from_library(common.factory) if is_of_library(common.factory) else imported(common.factory, common)
    return find_task(task, common).architecture.factory if task is not None and ":" in task else None


def imported(name: str, common: Common) -> Callable[..., Any]:
    """Import MODULE:FUNCTION, never from the working folder unless --import-from names it.

    Raises:
        InputError: The name is written in another way, or cannot be imported.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"a function of your own is written MODULE:FUNCTION, got {name!r}")
    path = list(sys.path)
    if common.import_from is not None:
        checks.path(common.import_from, "--import-from")
        sys.path[:] = [str(common.import_from.resolve()), *path]  # and stays, for what the module imports later
        path = list(sys.path)
    else:
        sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != Path.cwd()]
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's own module can raise anything
        raise InputError(
            f"{name} cannot be imported: {describe(error)} (--import-from FOLDER says where to look, `.` is here)"
        ) from error
    finally:
        sys.path[:] = path
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, not a function: give the name of a function")
    return found


def named(text: str) -> tuple[str, str]:
    """Read NAME=FOLDER.

    Raises:
        InputError: The text is written in another way.
    """
    name, equals, folder = text.partition("=")
    if not equals:
        raise InputError(f"a collection for comparison is written NAME=FOLDER, got {text!r}")
    return name, folder


def read_conditions(words: Sequence[str]) -> dict[str, Value]:
    """Read NAME=VALUE of each condition; values are numbers, or numbers with commas, where they can be read as such.

    Raises:
        InputError: A word is written in another way.
    """
    conditions: dict[str, Value] = {}
    for word in words:
        name, equal, value = word.partition("=")
        if not (name and equal and value):
            raise InputError(
                f"a condition is written NAME=VALUE, such as density=0.1 or description=0.5,-1,1; got {word!r}"
            )
        try:
            numbers = [float(part) for part in value.split(",")]
            conditions[name] = numbers if len(numbers) > 1 else numbers[0]
        except ValueError:
            conditions[name] = value
    return conditions

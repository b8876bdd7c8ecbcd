"""A training loop of your own as a task."""

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import LossOnly, OutputKind
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks, seeds
from weightspace.tasks.data import Data
from weightspace.tasks.metrics import Metric
from weightspace.tasks.task import Task

_OFFERED = ("seed", "part", "lr_factor", "device")  # what a loop is called with, if it takes it
_WORKS = (
    "collect, train, tickets.IMP, tickets.PruneAtInit with MagnitudeScore or RandomScore, tickets.GradualPruning "
    "between the parts, and TicketControls"
)


class NoSamples(Data):
    """In the place of data: a loop reads its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __len__(self) -> int:
        return 1  # one part of the loop is one iteration, and one epoch

    @property
    def x(self) -> Any:
        """There are no inputs: whatever is read of this raises InputError."""
        return self

    @property
    def y(self) -> Any:
        """There are no targets: whatever is read of this raises InputError."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()

    def __getitem__(self, rows: Any) -> Any:
        self._refuse()

    def head(self, n: int) -> Any:  # noqa: ARG002
        """There are no samples."""
        self._refuse()

    def batch(self, rows: Any) -> Any:  # noqa: ARG002
        """There are no samples."""
        self._refuse()

    def batches(self, index: Any, sets: Any) -> Any:  # noqa: ARG002
        """There are no samples."""
        self._refuse()

    def of(self, number: int | None) -> "NoSamples":  # noqa: ARG002
        """The same for every network."""
        return self

    def to(self, device: str) -> "NoSamples":  # noqa: ARG002
        """There is nothing to move."""
        return self

    def update(self, digest: Any) -> None:
        """There is nothing to add to a checksum."""

    def _refuse(self) -> NoReturn:
        raise InputError(_no_samples(self._name, "this"))


def _no_samples(task: str, who: str) -> str:
    return (
        f"{who} needs samples and gradients of single batches, and task {task!r} is a training loop of your own, which "
        f"gives neither. With it work: {_WORKS}. For the others make a task of the data with tasks.from_tensors or "
        "tasks.from_dataset"
    )


def require_samples(task: Task, who: str) -> None:
    """Refuse a task that is a training loop.

    Args:
        task: Task of a user.
        who: What cannot work with it.

    Raises:
        InputError: The task is a loop; the message says what works with it.
    """
    if isinstance(task, LoopTask):
        raise InputError(_no_samples(task.name, who))


@dataclass(frozen=True)
class LoopRecipe(Recipe):
    """The budget of a loop; its length counts parts, the calls of the training function.

    Args:
        budget: Arguments of the training function by name.
    """

    budget: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What identifies the training of a network."""
        return {"length": str(self.length), "loop": dict(self.budget)}


@dataclass(frozen=True)
class LoopTask(Task):
    """A task whose networks are trained by a function of the user; see `from_loop`.

    Args:
        loop: Function that trains a module in place.
        evaluate: Function that returns figures of a module by name; None for none.
        lower_is_better: Names of figures of which less is better.
    """

    loop: Callable[..., Any] = lambda _module: None
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None
    lower_is_better: Sequence[str] = ("loss",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.function(self.loop, "loop", "that trains a module in place")
        checks.given(self.evaluate, "evaluate", checks.function, what="of a module that returns figures by name")
        checks.settle(self, checks.several, "lower_is_better", check=checks.text)

    @property
    def together(self) -> int:
        """Number of networks that are trained, and kept, at once: each is kept when it is done."""
        return 1

    def own_trainer(self, networks: Collection, device: str) -> Any:  # noqa: ARG002
        """A trainer of the task's own; None for the one that calls the training function.

        Args:
            networks: Networks to start from, under their masks.
            device: Device to train on.
        """
        return None

    @property
    def budget(self) -> Mapping[str, Any]:
        """Arguments of the training function by name."""
        return self.recipe.budget if isinstance(self.recipe, LoopRecipe) else {}

    def takes(self, argument: str) -> bool:
        """Does the training function take this argument by name?"""
        return _takes(self.loop, argument)

    def require_lr_factor(self) -> None:
        """Check that the training function can train at a part of its learning rate.

        Raises:
            InputError: It cannot.
        """
        if not self.takes("lr_factor"):
            raise InputError(
                "fine-tuning trains at a tenth of the learning rate: give the training function of task "
                f"{self.name!r} an argument lr_factor to multiply its own with, or use after_pruning='lr_rewind'"
            )

    def train_module(self, module: nn.Module, *, seed: int, part: int, lr_factor: float, device: str) -> None:
        """Train a module in place by the user's function; PyTorch draws from the seed.

        Args:
            module: Module, which carries its mask.
            seed: Seed of this part.
            part: Number of the part, from 0.
            lr_factor: Factor of the learning rate, for fine-tuning.
            device: Device that the module is on.

        Raises:
            InputError: The function failed, or returned another module.
        """
        offered = {"seed": seed, "part": part, "lr_factor": lr_factor, "device": device}
        arguments = {name: value for name, value in offered.items() if self.takes(name)}
        try:
            with seeds.seeded_modules(seed, "own loop"):
                returned = self.loop(module, **arguments, **self.budget)
        except InputError:
            raise
        except Exception as error:  # a user's own code can raise anything
            raise InputError(f"the training function of task {self.name!r} failed: {error!r}") from error
        if isinstance(returned, nn.Module) and returned is not module:
            raise InputError(
                f"the training function of task {self.name!r} returned another module: train the one that it gets, in "
                "place, or copy the result into it with module.load_state_dict(...)"
            )

    def figures(self, module: nn.Module) -> dict[str, float]:
        """What the user's `evaluate` says of a module.

        Args:
            module: Module to evaluate; it is set to evaluation mode.

        Raises:
            InputError: The function failed, or returned no figures by name.
        """
        if self.evaluate is None:
            return {}
        try:
            with seeds.seeded_modules(0, "own evaluation"):
                returned = self.evaluate(module.eval())
        except InputError:
            raise
        except Exception as error:  # a user's own code can raise anything
            raise InputError(f"the evaluation function of task {self.name!r} failed: {error!r}") from error
        numbers = isinstance(returned, Mapping) and all(
            isinstance(name, str)
            and name.isidentifier()
            and (isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1))
            for name, value in returned.items()
        )
        if not numbers or not returned:
            raise InputError(
                f"the evaluation function of task {self.name!r} must return figures by name, such as "
                f'{{"accuracy": 0.9}}, got {returned!r}'
            )
        return {name: float(value) for name, value in returned.items()}

    def measure(
        self, layout: Layout, weights: Float[Tensor, "n d"], buffers: Mapping[str, Tensor], device: str = "cpu"
    ) -> dict[str, list[float]]:
        """Figures of networks: a list for each name.

        Args:
            layout: Layout of the networks.
            weights: Weights, (n, D), zero where they are pruned.
            buffers: Buffers (n, *shape) by name.
            device: Device to evaluate on.

        Raises:
            InputError: A figure is not finite, or names differ from network to network.
        """
        found: list[dict[str, float]] = []
        for i, row in enumerate(weights):
            module = self.architecture.build_seeded(0)
            module.load_state_dict(
                layout.unpack(row.cpu()) | {name: buffer[i].cpu() for name, buffer in buffers.items()}
            )
            found.append(self.figures(module.to(device)))
            wrong = [name for name, value in found[-1].items() if not math.isfinite(value)]
            if wrong or found[-1].keys() != found[0].keys():
                raise InputError(
                    f"the evaluation function of task {self.name!r} gave {found[-1]} for network {i} of its block: "
                    f"figures must be finite, and have the same names for all networks ({', '.join(found[0])})"
                )
        return {name: [one[name] for one in found] for name in found[0]}

    def measured(self, networks: Collection) -> list[dict[str, float]]:
        """The user's figures of each network of a collection.

        Args:
            networks: Networks of the task's architecture.
        """
        table = self.measure(networks.layout, networks.weights, networks.buffers)
        return [{name: values[i] for name, values in table.items()} for i in range(len(networks))]

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.figures(self.architecture.build_seeded(0)))

    @cached_property
    def output_kind(self) -> OutputKind:
        """Not known: a loop has its own losses."""
        return LossOnly()

    @cached_property
    def scores(self) -> tuple[Metric, ...]:
        """The figures of `evaluate` by name, with their directions; their functions cannot be called on outputs."""

        def refuse(*_: Any) -> float:
            raise InputError(_no_samples(self.name, "a metric of outputs"))

        return tuple(Metric(name, refuse, name not in self.lower_is_better) for name in self._names if name != "loss")

    def try_out(self) -> float:
        """Check the functions before training: arguments, and the figures of an untrained network. The loss is unknown.

        Raises:
            InputError: The training function does not take the budget, or `evaluate` gives no figures.
        """
        unknown = [name for name in self.budget if not self.takes(name)]
        if unknown:
            raise InputError(
                f"the training function of task {self.name!r} takes no argument {unknown[0]!r} of the budget"
            )
        missing = [
            p.name
            for p in list(_parameters(self.loop).values())[1:]
            if p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and p.name not in {*_OFFERED, *self.budget}
        ]
        if missing:
            raise InputError(
                f"the training function of task {self.name!r} needs an argument {missing[0]!r}: it is called with the "
                f"module, with {', '.join(_OFFERED)} if it takes them, and with the budget: from_loop(..., "
                f"budget={{{missing[0]!r}: ...}})"
            )
        if self._names:
            self.scores  # noqa: B018  # names that are no metrics are refused
        return math.nan

    def to_json(self) -> dict[str, Any]:
        """What a run's configuration says of the task; the name stands for the functions, whose code is not compared.

        Raises:
            InputError: The functions do not fit the task.
        """
        self.try_out()
        return {
            "name": self.name,
            "architecture": self.architecture.to_json(),
            "layout": self.architecture.layout().to_json(),
            "loop": dict(self.budget),
            "metrics": list(self._names),
        }


def from_loop(
    name: str,
    network: Architecture | Callable[[], nn.Module],
    *,
    train: Callable[..., Any],
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
    budget: Mapping[str, Any] | None = None,
    parts: int = 1,
    lower_is_better: Sequence[str] = ("loss",),
) -> LoopTask:
    """A task whose networks are trained by a loop of your own: plain PyTorch, Lightning, transformers, an RL library.

    `train(module, ...)` trains the module in place. The module carries its mask and stays sparse, whatever optimiser
    is used. The function is called with those of these arguments that it takes: `seed` (PyTorch's random state is set
    by it as well), `part` (from 0), `lr_factor` (0.1 when IMP fine-tunes) and `device`; and with the budget.

    Args:
        name: Name in records and reports; it identifies the loop, whose code cannot be compared.
        network: A built-in architecture, or a function that returns a fresh module.
        train: Function that trains a module in place.
        evaluate: Function that returns figures of a module by name, the main one first; records have "accuracy" as
            "validation_accuracy".
        budget: Further arguments of `train` by name, such as {"epochs": 3}: data that JSON can hold.
        parts: Number of calls that train a network, each with a seed of its own. Between parts networks can be rewound
            to ("3it" is after three), pruned gradually, and resumed; optimisers start anew.
        lower_is_better: Names of figures of which less is better.

    Raises:
        InputError: The budget cannot be written as JSON, or `parts` is below 1.
    """
    checks.function(train, "train", "that trains a module in place")
    checks.given(budget, "budget", checks.mapping, what="of arguments of the training function")
    parts = checks.count(parts, "parts", at_least=1)
    try:
        budget = json.loads(json.dumps(dict(budget or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the budget holds what JSON cannot ({error}): give numbers, texts and lists") from error
    assert budget is not None
    if set(budget) & set(_OFFERED):
        raise InputError(f"{', '.join(_OFFERED)} are set for each network: leave them out of the budget, got {budget}")
    if not isinstance(network, Architecture):
        checks.function(network, "network", "that returns a fresh module, or an Architecture")
    architecture = network if isinstance(network, Architecture) else Architecture.of(network)
    data: Any = NoSamples(name)
    recipe = LoopRecipe(Step(iterations=parts), 1, budget=budget)
    return LoopTask(
        name, architecture, data, data, data, recipe, loop=train, evaluate=evaluate, lower_is_better=lower_is_better
    )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the arguments of the training function cannot be read ({error}): wrap it in a def"
        ) from error


def _takes(function: Callable[..., Any], argument: str) -> bool:
    parameters = list(_parameters(function).values())[1:]
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)

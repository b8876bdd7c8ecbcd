"""Does every wrong call of the API end in an error of the library's own, or in a right result?

    python -m experiments.fuzz.calls --tries 500 --seed 0

Every public class, function and method that `good_calls` can call is called with one or two of its arguments replaced
by a value out of range or of another type; hypothesis draws which. A new name is covered when its arguments have known
names.
"""

import dataclasses
import functools
import inspect
import itertools
import json
import math
import shutil
import tempfile
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from beartype.door import is_bearable
from beartype.roar import BeartypeException
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

import weightspace as ws
from experiments.fuzz import world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings, Hang, has_remedy, watchdog
from weightspace import compress, evaluation, flow, generator, masks, networks, recipes, report, training
from weightspace.align import FittedMatching
from weightspace.errors import InputError

OUTCOMES = ["refused", "right", "interrupted", "traceback", "wrong", "hang", "no remedy"]
PACKAGES = [
    ws, ws.align, ws.models, ws.sparse, ws.symmetry, ws.tasks, ws.tickets, compress, evaluation, flow, generator, masks,
    networks, recipes, report, training,
]  # fmt: skip
BLOCK = 100  # calls that hypothesis draws in one go
LEFT_OUT = {"OnRay", "collect_on", "mnist", "fashion_mnist", "cifar10", "accelerate", "bench"}
"""What needs a cluster, data or minutes."""
METHODS_LEFT_OUT = {"plot", "html", "push", "pull"}
PASSED_ON = {"Layout.unpack", "Layout.tensors"}
"""What gives back the numbers that it gets, NaN too."""

WRONG: Sequence[Any] = (
    None, True, 0, -1, 1.5, -0.5, math.nan, math.inf, -math.inf, 10**12, 10**400, 1e308, "", "x", "²", "\0",
    "n" * 300, b"x",
    "nan", "1:0", "2:4", "0.5", "-1it", [], [1], ["x"], [None], [math.nan], (0, 0), {}, {"x": 1}, {1, 2}, object(),
    print,
    range(0), Path("nowhere"), Path("file"), torch.tensor(math.nan), torch.zeros(0), torch.zeros(2, 3), torch.ones(4,
    35),
    torch.ones(4, 35, dtype=torch.bool), torch.full((4, 35), math.nan), torch.ones(3, dtype=torch.int64), 1j,
)  # fmt: skip


_VALUES: dict[tuple[str, str, bool], list[Any]] = {}


@dataclass(frozen=True)
class Call:
    """A call that works.

    Args:
        name: What is called, as it is written.
        of: Package or class that it is of.
        function: What is called.
        arguments: Arguments that work.
        names: All arguments that it takes.
    """

    name: str
    of: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    names: tuple[str, ...]

    def values(self, name: str, *, types: bool) -> list[Any]:
        """Values that an argument may get: of its type, but perhaps out of range, or of another type."""
        key = (self.name, name, types)
        if key not in _VALUES:
            function = self.function.__init__ if inspect.isclass(self.function) else self.function
            hint = _hints(function).get(name, Any)
            _VALUES[key] = [value for value in WRONG if _fits(value, hint) is not types]
        return _VALUES[key]


def pool(place: world.World) -> dict[str, Any]:
    """Good values by the name of the argument."""
    root = place.root
    tickets, dense = ws.Collection.load(root / "rewound"), ws.Collection.load(root / "dense")
    task = world.small_task()
    module = dense[0].module()
    x = task.train.head(6).x
    values: dict[str, Any] = dict.fromkeys(
        ["networks", "collection", "tickets", "samples", "training", "parents"], tickets
    )
    values |= dict.fromkeys(["first", "second", "dense", "starts", "a", "b"], dense)
    values |= dict.fromkeys(["module", "model"], module)
    values |= dict.fromkeys(["x", "inputs", "example"], x)
    values |= dict.fromkeys(["n", "count", "components", "steps", "every", "width", "blocks", "classes", "m"], 2)
    values |= dict.fromkeys(["density", "rate", "fraction", "lr", "quantile", "level"], 0.5)
    values |= {
        "task": task, "seed": 0, "pattern": ws.Unstructured(0.5), "length": ws.Step.of("2it"),
        "step": ws.Step.of("1it"),
        "folder": Path("made"), "path": Path("made.json"), "layout": dense.layout, "architecture": dense.architecture,
        "weights": dense.weights, "masks": tickets.masks, "mask": tickets.masks[0], "network": tickets[0],
        "records": [],
        "symmetry": FittedMatching.load(root / "matching").symmetry, "text": "2it", "scores": tickets.weights,
        "sizes": (4, 4, 3), "y": task.train.head(6).y, "recipe": task.recipe, "dataset": None, "codes": torch.zeros(2,
        1),
        "vectors": dense.weights, "vector": dense.weights[0], "state": dense[0].state_dict(), "names": ("*",),
        "name": "x",
        "states": [network.state_dict() for network in (dense[0], dense[1])], "rows": [0, 1],
        "predicate": lambda _record: True,
        "device": "cpu", "of": "validation_accuracy", "n_": 2, "train": task.train, "validation": task.validation,
        "test": task.test, "folders": [root / "dense", root / "others"], "collections": [dense, dense], "reports": {},
        "metric": "validation_accuracy", "like": dense, "state_dict": dense[0].state_dict(), "k": 2,
        "keep": lambda _record: True, "i": 0, "factory": lambda: module, "x_0": torch.zeros(2, 1), "ends": tickets[:2],
        "original": dense, "aligned": dense, "shape": (4,), "matrix": torch.randn(4, 8), "pruned": tickets,
        "per_epoch": 5,
        "total": 10, "samples_": 90, "globs": ["*"], "number": 0, "generator": torch.Generator(), "out": Path("made"),
        "permutations": {}, "role": "weight", "dtype": "torch.float32", "function": torch.nn.functional.mse_loss,
        "lowest": False,
        "entries": dense.layout.entries, "goal": ws.Unstructured(0.2), "others": tickets.masks[:, :28],
        "targets": dense,
        "reference": None, "counts": [3, 2, 1, 1],
    }  # fmt: skip
    return values


def specific(place: world.World) -> dict[str, dict[str, Any]]:
    """Good arguments of calls for which those of the pool do not do."""
    root = place.root
    task, dense = world.small_task(), ws.Collection.load(root / "dense")
    x, y = task.train.head(20).x, task.train.head(20).y
    return {
        **{f"{kind}.load": {"folder": root / kind_folder} for kind, kind_folder in {
            "Collection": "dense", "FittedGenerator": "generator", "FittedPCA": "pca", "FittedFlow": "flow",
            "FittedMatching": "matching"}.items()},
        "FittedGenerator.sample": {"n": 2, "density": 0.5}, "FittedGenerator.ensemble": {"n": 2, "density": 0.5},
        "IMP.find": {"networks": dense[:2], "task": task}, "load_ticket": {"path": root / "ticket.safetensors"},
        "Report.load": {"path": root / "report" / "report.json"}, "Recipe.per_epoch": {"samples": 90},
        "from_tensors": {"name": "a", "x": x, "y": y, "network": dense.architecture},
        "from_state_dict": {"state": dense[0].state_dict(), "factory": dense.architecture},
        "from_state_dicts": {"folder": root / "states", "factory": dense.architecture},
        "Layout.require": {"other": dense.layout},
        "NM.of": {"text": "2:4"}, "Comparison": {"reports": {"a": ws.Report.load(root / "report" / "report.json")}},
        "Grid": {"lr": (0.1,)}, "Split.of": {"number": None}, "FlowMatching.fit": {"codes": torch.randn(8, 1)},
        "Collection.best": {"k": 2, "metric": "validation_accuracy"}, "Entry": {"name": "a", "shape": (2,),
        "role": "weight",
            "dtype": "torch.float32"}, "kept_magnitude": {"matrix": torch.randn(4, 8), "pattern": ws.NM(2, 4)},
        "find_order": {"matrix": torch.randn(4, 8), "seconds": 0.1}, "overlap_matrix": {"masks": dense.masks,
        "others": dense.masks},
        "evaluate": {"samples": ws.Collection.load(root / "samples"), "task": task, "training": dense, "align": None,
            "dropout": None},
        "Symmetry.permute": {"vector": dense.weights[0], "permutations": {}},
        "Pruner": {"module": dense[0].module(), "schedule": ws.tickets.GradualSchedule(ws.Unstructured(0.5), 0, 10)},
    }  # fmt: skip


def subjects(place: world.World) -> dict[str, Any]:
    """Objects whose methods are called."""
    root = place.root
    dense, tickets = ws.Collection.load(root / "dense"), ws.Collection.load(root / "rewound")
    return {
        "Collection": tickets, "Network": dense[0], "Ensemble": dense.ensemble(), "Layout": dense.layout,
        "FittedGenerator": ws.FittedGenerator.load(root / "generator"),
        "FittedPCA": compress.FittedPCA.load(root / "pca"),
        "FittedFlow": flow.FittedFlow.load(root / "flow"), "FittedMatching": FittedMatching.load(root / "matching"),
        "Symmetry": FittedMatching.load(root / "matching").symmetry,
        "Report": ws.Report.load(root / "report" / "report.json"),
        "Step": ws.Step.of("2it"), "Schedule": ws.Schedule(), "Recipe": world.small_task().recipe,
        "Task": world.small_task(),
        "Architecture": dense.architecture, "Split": world.small_task().train, "Unstructured": ws.Unstructured(0.5),
        "NM": ws.NM(2, 4), "TicketControls": ws.tickets.TicketControls(), "PCA": ws.PCA(1),
        "WeightMatching": ws.WeightMatching(), "IMP": ws.tickets.IMP(density=0.5),
        "FlowMatching": ws.FlowMatching(width=4, blocks=1, steps=2, batch_size=4, solver_steps=2),
    }  # fmt: skip


def good_calls(place: world.World) -> tuple[list[Call], list[str]]:
    """Calls that work, and the names that could not be called with arguments from the pool."""
    values = pool(place)
    found: dict[str, Call] = {}
    not_called: list[str] = []
    public = {
        name: (package, value) for package in PACKAGES for name, value in vars(package).items() if _public(name, value)
    }
    own = specific(place)
    candidates = [(name, package.__name__, value) for name, (package, value) in public.items()]
    for name, subject in subjects(place).items():
        for method in dir(type(subject)):
            value = getattr(type(subject), method)
            if method.startswith("_") or method in METHODS_LEFT_OUT or not callable(value) or isinstance(value, type):
                continue
            candidates.append((f"{name}.{method}", name, getattr(subject, method)))
    for name, of, function in candidates:
        parameters = _parameters(function)
        arguments = {p.name: values[p.name] for p in parameters if p.name in values and p.default is p.empty}
        arguments = own.get(name, arguments)
        call = Call(name, of, function, arguments, tuple(p.name for p in parameters))
        if call.names and _works(call):
            found[name] = call
        elif call.names:
            not_called.append(name)
    return list(found.values()), not_called


def _public(name: str, value: Any) -> bool:
    own = getattr(value, "__module__", "").startswith("weightspace")
    kind = inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))
    protocol = getattr(value, "_is_protocol", False)
    error = inspect.isclass(value) and issubclass(value, Exception)
    return own and kind and not protocol and not error and not name.startswith("_") and name not in LEFT_OUT


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _works(call: Call) -> bool:
    try:
        with watchdog(3.0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.function(**call.arguments)
    except (Exception, KeyboardInterrupt, Hang):
        return False
    finally:
        _tidy()
    return True


def _tidy() -> None:
    """Remove what a call wrote."""
    for path in Path().glob("made*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def faults(function: Callable[..., Any], arguments: Mapping[str, Any], result: Any) -> str | None:
    """What is wrong with a result that came without an error: NaN, another count, or settings of another type."""
    if nan := _not_a_number(result):
        return f"NaN in {nan}"
    if inspect.isclass(function) and dataclasses.is_dataclass(function):
        hints = _hints(function)
        for field in dataclasses.fields(function):
            value = getattr(result, field.name, None)
            if field.init and field.name in arguments and field.name in hints and not _fits(value, hints[field.name]):
                return f"{field.name} = {value!r:.60} was taken for {hints[field.name]}"
    n = arguments.get("n")
    if isinstance(n, int) and isinstance(result, ws.Collection) and len(result) != n:
        return f"{len(result)} networks, {n} were asked for"
    return None


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):
        return {}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; integers are numbers where a float is meant, and lists are sequences."""
    return _is(value, hint) or any(_is(other, hint) for other in _alike(value))


def _alike(value: object) -> Iterator[object]:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        yield float(value)
    if isinstance(value, list | tuple):
        floats = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value]
        yield from (tuple(value), tuple(floats))


def _is(value: object, hint: Any) -> bool:
    try:
        return is_bearable(value, hint)
    except TypeError:  # a tensor without dimensions has no length
        return False
    except BeartypeException:
        return True


def _not_a_number(value: Any, where: str = "the result", depth: int = 0) -> str | None:
    if isinstance(value, torch.Tensor):
        return where if value.is_floating_point() and bool(value.isnan().any()) else None
    if isinstance(value, float):
        return where if math.isnan(value) else None
    if depth > 3:
        return None
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, ws.Collection):
        pairs = [("weights", value.weights)]
    elif isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))[:20]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return next((found for key, one in pairs if (found := _not_a_number(one, f"{where}.{key}", depth + 1))), None)


def judge(call: Call, changed: Mapping[str, Any]) -> tuple[str, str | None]:
    """The outcome of a call with other arguments, and what is wrong with it."""
    arguments = {**call.arguments, **changed}
    try:
        with watchdog(2.0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call.function(**arguments)
            if isinstance(result, types.GeneratorType):
                result = next(result, None)
    except InputError as error:
        return ("refused", None) if has_remedy(str(error)) else ("no remedy", str(error))
    except KeyboardInterrupt:
        return "interrupted", None
    except Hang:
        return "hang", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc(limit=-3)[:2000]
    wrong = None if call.name in PASSED_ON else faults(call.function, arguments, result)
    return ("right", None) if wrong is None else ("wrong", wrong)


@functools.cache
def _calls_of(place: world.World) -> tuple[list[Call], list[str]]:
    return good_calls(place)


def fuzz_types(place: world.World, seed: int, numbers: Iterable[int], findings: Findings) -> Findings:
    """As `fuzz`, with values that are not of the type that the argument is said to have."""
    return fuzz(place, seed, numbers, findings, types=True)


def fuzz(place: world.World, seed: int, numbers: Iterable[int], findings: Findings, *, types: bool = False) -> Findings:
    """Make calls by number, with values of the right types.

    Args:
        place: The folders.
        seed: Seed of all.
        numbers: Which calls to make.
        findings: Where they are counted.
        types: Whether the values are of other types than those that the arguments are said to have.
    """
    with inside(place.root):
        calls, not_called = _calls_of(place)
        findings.notes.append(f"not called: {', '.join(sorted(not_called))}")
        rest = iter(numbers)
        for first in rest:
            _draw(
                f"{seed} {first}",
                itertools.chain([first], itertools.islice(rest, BLOCK - 1)),
                calls,
                findings,
                types=types,
            )
    return findings


def _draw(seed: str, numbers: Iterable[int], calls: Sequence[Call], findings: Findings, *, types: bool) -> None:
    """Let hypothesis draw a block of calls."""
    rest = iter(numbers)
    names_of = {call.name: [name for name in call.names if call.values(name, types=types)] for call in calls}
    calls = [call for call in calls if names_of[call.name]]

    @seeded(seed)
    @settings(
        max_examples=BLOCK,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(calls))
        names = data.draw(st.lists(st.sampled_from(names_of[call.name]), min_size=1, max_size=2, unique=True))
        changed = {name: data.draw(st.sampled_from(call.values(name, types=types))) for name in names}
        if (number := next(rest, None)) is not None:
            _try(call, changed, f"{seed}, {number}", findings)

    draw()


def _try(call: Call, changed: Mapping[str, Any], number: str, findings: Findings) -> None:
    """Make a call and count it."""
    outcome, wrong = judge(call, changed)
    _tidy()
    words = ", ".join(f"{name}={value!r:.60}" for name, value in changed.items())
    again = json.dumps([call.name, {name: _place(value) for name, value in changed.items()}])
    findings.add(call.of, outcome, None if wrong is None else f"{number}: {call.name}({words})\n{wrong}", again)


def _place(value: object) -> int:
    """Where a value stands among the wrong ones."""
    return next(i for i, one in enumerate(WRONG) if one is value)


def again(place: world.World, seed: int, number: str, findings: Findings) -> Findings:
    """Make a call again that fell.

    Args:
        place: The folders.
        seed: Seed of the try, which says nothing here.
        number: Name of the call, and places of its wrong values.
        findings: Where it is counted.
    """
    name, places = json.loads(number)
    with inside(place.root):
        calls = {call.name: call for call in _calls_of(place)[0]}
        if name in calls:
            _try(calls[name], {key: WRONG[i] for key, i in places.items()}, f"{seed}", findings)
    return findings


def main(tries: int = 500, seed: int = 0, types: bool = False) -> None:
    """Make wrong calls and print what is to be mended.

    Args:
        tries: Number of calls.
        seed: Seed.
        types: Whether values are of other types.
    """
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        fuzz(world.make(Path(folder) / "world"), seed, range(tries), findings, types=types)
    print(*findings.wrong, *findings.notes, sep="\n\n")
    print({outcome: findings.number(outcome) for outcome in OUTCOMES})


if __name__ == "__main__":
    tyro.cli(main)

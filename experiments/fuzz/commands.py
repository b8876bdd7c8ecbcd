"""Does every command line end in a result or in a message that says what to do?

    python -m experiments.fuzz.commands --tries 200 --seed 0
    python -m experiments.fuzz.commands --seed 0 --only 17      (one of them, with all that it wrote)

Command lines are drawn from the real parser's verbs and options: a new option is covered as soon as it is there. Values
are of the right kind, of a neighbouring one, or hostile. The folders that they name must be as they were afterwards.
"""

import contextlib
import os
import random
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.fuzz import alone, world
from experiments.fuzz.outcomes import Ended, Findings, has_remedy, run_main
from weightspace.cli.main import VERBS, _union
from weightspace.cli.main import main as command_line
from weightspace.cli.rules import REGISTRY

OUTCOMES = ["done", "refused", "wrong line", "interrupted", "traceback", "hang", "no remedy", "changed"]

HOSTILE = [
    "nan", "inf", "-inf", "100000000000", "1e308", "1e-320", "-1", "²", "٣", "\0", "a\0b", "n" * 300, "", " ", "-",
    "--",
    "ünïcode-☃", "\ud800", "None", "null", "[]", "{}", "{a: {b: [1]}}", "!!python/object:os.system", "%s%n", "../..",
    "/",
    "/proc/self/mem", "/dev/zero", "/dev/full", "$(true)", "*", "a=b", "=", ":", "@", "1:2:3", "true", "0x10", "1_0",
    "+1",
    "9" * 400, "dense@:", "dense@9:", "dense@1:2:3", "dense@²:", "\n", "{", "~", "NaN:4", "2:²",
]  # fmt: skip
WORDS: Mapping[str, Sequence[str]] = {
    "INT": ["1", "2", "3", "4", "0", "-1", "1.5", "1e3", "True", "x"],
    "FLOAT": ["0.5", "0.1", "1", "1.0", "0.9", "0", "-1", "2", "1:2", "x", "1e-9"],
    "STEP": ["1it", "2it", "1ep", "1ep1it", "0it", "-1it", "1.5ep", "1", "ep", "it", "2 it", "1it1ep", "²it", "1e3it"],
    "PATTERN": [
        "0.5", "1", "2:4", "erk:0.5", "channels:0.5", "0.5 only *", "2:4 except layers.0*", "0.5 only nothing", "0",
        "1.5",
        "4:2", "2:0", "0:4", "erk:", "erk:x", "balanced:0.5", "unstructured:0.5,scope=layer", "erk:0.5,density=2",
        "nm:2", "nm:2,m=4", "only *", "0.5 only", "erk:nan", "-2:4", "2:4:8", "layerrates:0.5", "lrates:[1]",
    ],
    "COST": ["weights", "weights:parent", "weights:weights+parent", "wasserstein", "precision", "x", "weights:", ":"],
    "PATH": ["new", "new/below", "dense", "file", "pipe", "link", "empty", "link/below", "file/below", "dense/new"],
    "FOLDER": [
        "dense", "others", "tickets", "rewound", "saved", "aligned", "generator", "samples", "report", "study",
        "matching", "states",
        "dense@0:2", "tickets@1:", "dense@2:1", "dense@0:0", "empty", "file", "pipe", "link", "nowhere",
        "ticket.safetensors",
    ],
    "STR": ["x", "a b", "iris", "MLP", "1", "dense"],
}  # fmt: skip
"""Values by what the help calls them: the first are of the right kind, the others of neighbouring ones."""

NAMED: Mapping[str, Sequence[str]] = {
    "--task": ["iris", "iris", "wine", "own_code:task", "own_code:raises", "own_code:number", "nothing", "json:loads",
    ":"],
    "--model": ["MLP", "MLP", "LeNet300", "SmallConv", "None", "Nothing", "mlp"],
    "--arguments": ["{sizes: [4, 4, 3]}", "{sizes: [4]}", "{sizes: x}", "{}", "[1]", "{sizes: [4, 1000000000, 3]}",
    "{a: 1}"],
    "--device": ["cpu", "auto", "cuda", "meta", "cpu:1", "cpu:x", "mps", "CPU"],
    "--factory": ["own_code:network", "own_code:task", "own_code:raises", "own_code:number", "json:loads",
    "nothing:x", "x"],
    "--rename": ["own_code:keep", "own_code:raises", "own_code:number", "own_code:network", "x"],
    "--import-from": [".", ".", "nowhere", "file"],
    "--config": ["set.yaml", "list.yaml", "broken.yaml", "broken.json", "dense", "nowhere", "pipe", "own_code.py"],
    "--training": ["tickets", "dense", "others", "tickets@0:2", "nowhere", "generator", "report"],
    "--held-out": ["others", "dense", "nowhere"], "--others": ["a=dense", "a=nowhere", "dense", "=dense",
    "samples=dense"],
    "--to": ["others", "nowhere", "saved"], "--conditions": ["density", "metrics.validation_accuracy", "nothing"],
    "--condition": ["density=0.5", "density=x", "nothing=1", "x"], "--shard": ["0/2", "1/2", "2/2", "0/0", "-1/2",
    "1", "²/3"],
    "--key": ["model", "None", "nothing"], "--prefix": ["layers.", "None", "nothing."], "--workers": ["1", "1", "0",
    "-1"],
    "--threads": ["1", "None", "0", "-1"], "--csv": ["new.csv", "dense", "nowhere/new.csv"],
    "--html": ["new.html", "dense", "nowhere/new.html"], "--deterministic": ["layers.0", "nothing"],
    "--data-root": ["nowhere", "empty", "file"],
}  # fmt: skip
"""Values of options that name something."""

SMALL: Mapping[str, Sequence[str]] = {
    "--n": ["2"], "--density": ["0.5"], "--length": ["3it"], "--hidden": ["4"], "--task": ["iris"], "--out": ["new"],
    "--every": ["1"],
    "--flow.steps": ["2"], "--flow.width": ["4"], "--flow.blocks": ["1"], "--flow.solver-steps": ["2"],
    "--flow.batch-size": ["4"], "--flow.validation-fraction": ["0"], "--compress.components": ["1"],
    "--refine.steps": ["1"],
    "--draws": ["2"], "--scores": ["magnitude"], "--dropout": [], "--training": ["tickets"], "--batches": ["1"],
    "--rounds": ["1"],
}  # fmt: skip
"""Values that make a verb's work small, where the option is not drawn otherwise."""

LEFT_OUT = {"--ray"}
"""Options that are not drawn: a cluster takes seconds to start."""
FLAGS = {"bench": ["--no-compiled"]}
OF_ALL = {"--device", "--threads", "--data-root", "--factory", "--import-from", "--config"}
RIGHT: Mapping[str, Sequence[str]] = {
    "sample": ["generator"], "import": ["states", "states/0.safetensors"], "tickets control": ["rewound"],
    "fit": ["tickets"],
    "train": ["tickets"], "evaluate": ["samples"], "show": ["dense", "tickets", "generator", "report", "study",
    "aligned"],
    "merge": ["dense", "others"], "bench": ["tickets"], "export": ["tickets", "samples"],
}  # fmt: skip
"""Folders that a verb is for; of the others, dense ones."""
HEAVY = {"evaluate": 6, "bayes": 4, "align": 2, "bench": 2}
"""Verbs that take seconds: drawn less often, and in most of their command lines something that is required is wrong."""


@dataclass(frozen=True)
class Option:
    """An option of the parser.

    Args:
        names: Its spellings; none for a folder without a name.
        many: Whether it takes several values.
        flag: Whether it takes none.
        metavar: What the help calls its value.
        choices: The values that it may have, if they are listed.
        required: Whether it must be given.
    """

    names: tuple[str, ...]
    many: bool
    flag: bool
    metavar: str
    choices: tuple[str, ...]
    required: bool


def grammar() -> dict[str, list[Option]]:
    """The options of each verb, as the command line's own parser has them."""
    with REGISTRY, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = tyro.extras.get_parser(_union(VERBS))
    return dict(_verbs(parser, ()))


def _verbs(parser: Any, path: tuple[str, ...]) -> Iterator[tuple[str, list[Option]]]:
    actions = [action for action in parser._actions if action.dest != "help"]
    inner = [action for action in actions if isinstance(action.choices, Mapping)]
    if not inner:
        yield " ".join(path), [_option(action) for action in actions]
    for action in inner:
        for name, parser_of_verb in action.choices.items():
            yield from _verbs(parser_of_verb, (*path, name))


def _option(action: Any) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return Option(
        tuple(action.option_strings),
        action.nargs in ("*", "+"),
        action.nargs == 0,
        metavar.strip("{[").partition(" ")[0].strip("]}"),
        tuple(map(str, action.choices or ())),
        bool(action.required),
    )


def value(option: Option, random_: random.Random) -> str:
    """A value for an option: of its kind, of a neighbouring kind, or hostile."""
    known = NAMED.get(
        option.names[0] if option.names else "", option.choices or WORDS.get(option.metavar, WORDS["STR"])
    )
    kind = random_.random()
    if kind < 0.45:
        return random_.choice(known[: max(2, len(known) // 2)])
    if kind < 0.75:
        return random_.choice([*known, *WORDS[random_.choice(list(WORDS))]])
    return random_.choice(HOSTILE)


def command(verb: str, options: Sequence[Option], random_: random.Random) -> list[str]:
    """A command line of a verb."""
    words: list[str] = []
    drawn = random_.choices([0, 1, 2, 3, 5], [15, 45, 25, 10, 5])[0]
    named = [option for option in options if option.names and option.names[0] not in LEFT_OUT]
    others = [option for option in named if option.names[0] not in OF_ALL or random_.random() < 0.2]
    chosen = {option.names for option in random_.sample(others, min(drawn, len(others)))}
    heavy = random_.randrange(HEAVY.get(verb, 1)) > 0
    for option in options:
        if not option.names:
            right = RIGHT.get(verb, ["dense"])
            many = random_.choice([0, 1, 2, 3]) if option.many else 1
            spoiled = random_.random() < 0.25 or (heavy and not chosen)
            words += [value(option, random_) if spoiled else random_.choice(right) for _ in range(many)]
        elif option.names in chosen:
            words += _written(option, random_)
        elif option.names[0] in SMALL and random_.random() < 0.97:
            wrong = heavy and option.required and random_.random() < 0.5
            words += [option.names[0], *(["nowhere"] if wrong else SMALL[option.names[0]])]
        elif option.required and random_.random() < 0.95:
            words += [option.names[0], random_.choice(option.choices[:3] or ["new"])]
    words = [*words, *FLAGS.get(verb, [])]
    words += ["--import-from", "."] if any("own_code" in word for word in words) and random_.random() < 0.8 else []
    return [*verb.split(), *(_spoiled(words, random_) if random_.random() < 0.1 else words)]


def _written(option: Option, random_: random.Random) -> list[str]:
    if option.flag:
        return [random_.choice(option.names)]
    count = random_.choice([0, 1, 1, 2, 3]) if option.many else 1
    values = [value(option, random_) for _ in range(count)]
    if count == 1 and random_.random() < 0.2:
        return [f"{option.names[0]}={values[0]}"]
    return [option.names[0], *values]


def _spoiled(words: list[str], random_: random.Random) -> list[str]:
    """A word is missing, twice there, in another place, cut short, or from elsewhere."""
    words = list(words)
    at = random_.randrange(len(words)) if words else 0
    match random_.randrange(6):
        case 0 if words:
            del words[at]
        case 1 if words:
            words.insert(at, words[at])
        case 2:
            random_.shuffle(words)
        case 3 if words:
            words[at] = words[at][: len(words[at]) // 2]
        case 4:
            words.insert(
                at, random_.choice(["--nothing", "--out", "--config", "-x", "--help", "--nm", "--memory", "show"])
            )
        case _:
            words.insert(at, random_.choice(HOSTILE))
    return words


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def judge(ended: Ended, *, changed: Sequence[str] = ()) -> tuple[str, str | None]:
    """The outcome of a command line, and what is wrong with it."""
    if ended.how in ("traceback", "hang"):
        return ended.how, ended.text
    if changed:
        return "changed", f"changed or removed {', '.join(changed)}\n{ended.text}"
    if ended.how == "refused" and not has_remedy(ended.text):
        return "no remedy", ended.text
    return ended.how, None


def fuzz(place: world.World, seed: int, numbers: Iterable[int], findings: Findings) -> Findings:
    """Run command lines by number, each its own random stream.

    Args:
        place: The folders that they name.
        seed: Seed of all.
        numbers: Which of them to run.
        findings: Where they are counted.
    """
    verbs = grammar()
    root, copy = place.root, place.root.with_name(place.root.name + " kept")
    shutil.copytree(root, copy, symlinks=True, ignore=lambda _folder, names: [n for n in names if n == "pipe"])
    before = place.files()
    with inside(root), world.cheap():
        for number in numbers:
            random_ = random.Random(f"{seed} {number}")
            verb = random_.choices(list(verbs), [0.3 if verb in HEAVY else 1.0 for verb in verbs])[0]
            words = command(verb, verbs[verb], random_)
            ended = run_main(command_line, words)
            changed = tidy(place, before, copy, words)
            outcome, wrong = judge(ended, changed=changed)
            findings.add(verb, outcome, None if wrong is None else f"{seed} {number}: {words!r}\n{wrong}", number)
    shutil.rmtree(copy)
    return findings


def tidy(place: world.World, before: Mapping[str, tuple[int, int]], copy: Path, words: Sequence[str]) -> list[str]:
    """Remove what a command line wrote, put back what it changed, and name what it should have left alone."""
    now = place.files()
    for name in now.keys() - before.keys():
        (place.root / name).unlink(missing_ok=True)
    changed = sorted(name for name in before if now.get(name) != before[name])
    for name in changed:
        target = place.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(copy / name, target)
    for folder in sorted((p for p in place.root.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        if not (copy / folder.relative_to(place.root)).exists():
            shutil.rmtree(folder)
    asked = {word.partition("=")[2] or word for word in words}  # a table or page written over a file, as was asked
    return [name for name in changed if name not in asked and not name.startswith(tuple(f"{word}/" for word in asked))]


def main(tries: int = 200, seed: int = 0, only: int | None = None) -> None:
    """Run random command lines and print what is to be mended.

    Args:
        tries: Number of command lines.
        seed: Seed.
        only: Run this one alone.
    """
    alone.run(fuzz, OUTCOMES, seed, range(tries) if only is None else [only])


if __name__ == "__main__":
    tyro.cli(main)

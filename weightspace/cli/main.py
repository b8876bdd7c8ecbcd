"""The command line: `weightspace VERB ...`, a verb for each stage.

Exit codes: 0 done, 1 something given cannot be used (the message says what and how to mend it),
2 a wrong command line, 130 interrupted (the same command continues).
"""

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
import yaml

from weightspace.cli import align, bayes, collect, evaluate, generator, sparse, tickets
from weightspace.errors import InputError
from weightspace.recipes.step import Step
from weightspace.runtime import allocator

_VERBS: dict[str, Callable[..., None]] = {
    "collect": collect.collect,
    "merge": collect.merge,
    "import": collect.import_folder,
    "train": collect.train,
    "tickets gradual": tickets.gradual,
    "tickets imp": tickets.imp,
    "tickets start": tickets.start,
    "tickets dynamic": tickets.dynamic,
    "tickets popup": tickets.popup,
    "tickets continuous": tickets.continuous,
    "tickets bird": tickets.bird,
    "tickets control": tickets.control,
    "align": align.align,
    "fit": generator.fit,
    "sample": generator.sample,
    "evaluate": evaluate.evaluate,
    "bayes": bayes.bayes,
    "bench": sparse.bench_speed,
    "export": sparse.export,
    "show": evaluate.show,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"]):
        print(importlib.metadata.version("weightspace"))
        return 0
    name = next((verb for verb in _VERBS if words[: len(verb.split())] == verb.split()), None)
    if name is None:
        print(_overview(), file=sys.stdout if words in ([], ["-h"], ["--help"], ["tickets", "--help"]) else sys.stderr)
        return 0 if words and words[-1] in ("-h", "--help") else 2
    try:
        arguments = _with_config(words[len(name.split()) :])
        allocator.keep()
        _run(_VERBS[name], name, arguments)
    except (InputError, OSError) as error:
        print(f"weightspace {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _run(verb: Callable[..., None], name: str, arguments: list[str]) -> None:
    """Parse the arguments and call the verb; a wrong command line ends the process with exit code 2."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Step] | None:
        if info.type is not Step:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="STEP", instance_from_str=lambda words: Step.of(words[0]),
            is_instance=lambda value: isinstance(value, Step), str_from_instance=lambda value: [str(value)],
        )  # fmt: skip

    with registry:
        tyro.cli(verb, prog=f"weightspace {name}", args=arguments)


def _with_config(arguments: list[str]) -> list[str]:
    """Put the options of `--config FILE.yaml` before the others; explicit options win."""
    arguments = [part for word in arguments for part in _split_equals(word)]
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise InputError("--config needs a YAML file")
    path = Path(arguments[at + 1])
    rest = arguments[:at] + arguments[at + 2 :]
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"--config {path} must map option names to values, such as 'n: 100'")
    flags = (word.partition("=")[0].removeprefix("--") for word in rest if word.startswith("--"))
    given = {flag.removeprefix("no-").replace("_", "-") for flag in flags}
    extra: list[str] = []
    for key, value in options.items():
        flag = str(key).replace("_", "-")
        if flag in given:
            continue
        if isinstance(value, bool):
            extra.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            extra += [f"--{flag}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return rest + extra


def _split_equals(word: str) -> list[str]:
    """--config=FILE as two words."""
    return ["--config", word.removeprefix("--config=")] if word.startswith("--config=") else [word]


def _overview() -> str:
    lines = ["usage: weightspace VERB [options]", "", "Each verb is a stage from folders to a folder:"]
    lines += [f"  {name:<19}{(verb.__doc__ or '').splitlines()[0]}" for name, verb in _VERBS.items()]
    lines += [
        "",
        "`weightspace VERB --help` explains every option and its default. Every verb takes --config FILE.yaml,",
        "which sets options by name; options on the command line win. Running a verb again into the same --out",
        "returns at once if it is complete and continues it if it was interrupted.",
        "Exit codes: 0 done, 1 unusable input, 2 wrong command line, 130 interrupted.",
    ]
    return "\n".join(lines)

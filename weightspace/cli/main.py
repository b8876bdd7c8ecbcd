"""The command line: `weightspace VERB ...`, a verb for each stage.

Exit codes: 0 done, 1 something given cannot be used (the message says what and how to mend it),
2 a wrong command line, 130 interrupted (143 by SIGTERM, 129 by the end of the terminal; the same command continues),
141 nobody reads the output any more. With WEIGHTSPACE_TRACEBACK=1 an error ends in its traceback, with
WEIGHTSPACE_QUIET=1 or --quiet there are no progress bars.
"""

import difflib
import importlib.metadata
import inspect
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union

import tyro
from tyro.conf import subcommand

from weightspace.cli import adapt, align, bayes, collect, evaluate, generator, prune, sparse, tickets
from weightspace.cli.help_text import help_in_lines
from weightspace.cli.named import keep_names, reminder
from weightspace.cli.renamed import hints
from weightspace.cli.rules import REGISTRY, WrongSettingError, without
from weightspace.cli.running import Command, Running, is_unread, with_output
from weightspace.cli.telling import telling, warnings_as_lines
from weightspace.cli.texts import TextOptions
from weightspace.errors import InputError
from weightspace.runtime import allocator, stopping
from weightspace.runtime.user_code import describe, place_of
from weightspace.storage.reading import read_text
from weightspace.storage.system_errors import described
from weightspace.storage.yaml_text import parse_yaml

VERBS: Mapping[str, Any] = {
    "collect": collect.Collect,
    "merge": collect.Merge,
    "import": collect.ImportFolder,
    "train": collect.Train,
    "tickets": tickets.VERBS,
    "prune": prune.Prune,
    "adapt": adapt.VERBS,
    "align": align.Align,
    "fit": generator.Fit,
    "sample": generator.Sample,
    "evaluate": evaluate.Evaluate,
    "bayes": bayes.Bayes,
    "bench": sparse.Bench,
    "export": sparse.Export,
    "show": evaluate.Show,
}
"""The dataclass of each verb: its fields are the options, its docstring is the help."""

TRACEBACK = "WEIGHTSPACE_TRACEBACK"
"""Environment variable that asks for the traceback of an error, to look for it in code of one's own."""

_GROUPS = {
    "tickets": "Find tickets: sparse networks that train as well as dense ones.",
    "adapt": "Adapt networks by sparse or low-rank changes, and merge the changes.",
}

_DESCRIPTION = """Trained networks as data: each verb is a stage, from folders to a folder.

Ask `weightspace VERB --help` for the options of a verb and their defaults. Every verb takes --config FILE.yaml, which
sets options by name; options on the command line win. A verb that is run again into the same --out returns at once if
it is complete, and goes on if it was interrupted; merge, import, `tickets control`, `adapt merge` and `adapt apply`,
which write at the end, do their work again and leave a folder of the same files as it is.

Exit codes: 0 done, 1 unusable input, 2 wrong command line, 130 interrupted (143 by SIGTERM)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; a wrong command line ends the process with exit code 2.

    Args:
        argv: The words after `weightspace`. None takes those of this process, which is then the command: signals end
            it (`weightspace.runtime.stopping`).
    """
    if argv is not None:
        running = Running(list(argv))
        try:
            return _run(running)
        except KeyboardInterrupt:
            print(f"\n{running.stopped()}", file=sys.stderr)
            return stopping.code()
    stopping.install()
    running = Running(sys.argv[1:])
    return stopping.work(running.stopped, partial(with_output, partial(_run, running), f"weightspace {running.verb}"))


def _run(running: Running) -> int:
    """Run a verb; the errors that a user can mend are printed in a line."""
    words, verb = running.words, running.verb
    if words in (["--version"], ["-V"]):
        print(importlib.metadata.version("weightspace"))
        return 0
    try:
        with warnings_as_lines(verb):
            running.command = parse(verb, _with_refinement(verb, _with_config(words)))
            allocator.keep()
            with telling(verb, running.command):
                running.command.run()
            keep_names(running.command)
    except (InputError, OSError) as error:
        if os.environ.get(TRACEBACK) or is_unread(error):
            raise
        place = place_of(error)
        where = "" if place is None or place in str(error) else f" ({place})"
        said = described(error) if isinstance(error, OSError) else error
        print(f"weightspace {verb}: {said}{where}", file=sys.stderr)
        again = reminder(running.command, str(said))
        if again is not None:
            print(again, file=sys.stderr)
        return 1
    except Exception as error:
        # Code of a user's own can raise anything; an error of this package's keeps its traceback.
        if place_of(error) is None or os.environ.get(TRACEBACK):
            raise
        print(f"weightspace {verb}: {describe(error)}\n{TRACEBACK}=1 shows the whole traceback", file=sys.stderr)
        return 1
    return 0


def parse(verb: str, words: Sequence[str]) -> Command:
    """Read a command line.

    Args:
        verb: The verb, whose options alone are read, suggested and explained.
        words: The command line.

    Raises:
        SystemExit: The command line is wrong (2), or help was printed (0).
    """
    own, kind = _verb_of(words)
    text = _DESCRIPTION if not own else _GROUPS[own] if isinstance(kind, Mapping) else _said_of(kind)
    rest = list(words)[len(own.split()) :]
    with REGISTRY, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The field", category=UserWarning)
        try:
            if isinstance(kind, Mapping) and rest and not rest[0].startswith("-"):
                _refuse_verb(own, rest[0], kind)
            read = _union(kind) if isinstance(kind, Mapping) else kind
            brief = own != "collect" and bool({"-h", "--help"} & set(rest))
            with help_in_lines(), without(*[TextOptions] if brief else []):
                return tyro.cli(read, prog=f"weightspace {own}".rstrip(), description=text, args=rest)
        except WrongSettingError as error:
            print(f"weightspace {own}: {error.said_of(rest)}; `weightspace {own} --help` says more", file=sys.stderr)
            raise SystemExit(2) from error
        except SystemExit as stop:
            if stop.code:
                print("\n".join(hints(verb, words)), file=sys.stderr)
            raise


def _verb_of(words: Sequence[str]) -> tuple[str, Any]:
    """The verb of a command line, and its dataclass, or the verbs among which nothing was chosen."""
    own: list[str] = []
    kind: Any = VERBS
    for word in words:
        if not isinstance(kind, Mapping) or word not in kind:
            break
        own.append(word)
        kind = kind[word]
    return " ".join(own), kind


def _refuse_verb(group: str, word: str, verbs: Mapping[str, Any]) -> NoReturn:
    """End a command line whose verb there is not."""
    near = difflib.get_close_matches(word, verbs, n=1)
    meant = f", did you mean {near[0]}?" if near else ":"
    print(f"weightspace {group}".rstrip() + f": no verb is called {word!r}{meant}", file=sys.stderr)
    print(f"there are {', '.join(verbs)}; `weightspace --help` explains them", file=sys.stderr)
    raise SystemExit(2)


def _said_of(kind: Any) -> str:
    """What a verb does: its docstring without the options."""
    return (inspect.getdoc(tickets.documented(kind)) or "").partition("\n\nArgs:")[0]


def _union(verbs: Mapping[str, Any]) -> Any:
    """One subcommand a verb; a mapping is a verb with verbs of its own."""
    arms: list[Any] = []
    for name, kind in verbs.items():
        if isinstance(kind, Mapping):
            inner = partial(_union, kind)
            arms.append(Annotated[Any, subcommand(name, constructor_factory=inner, description=_GROUPS[name])])
        else:
            arms.append(Annotated[kind, subcommand(name, description=_said_of(kind).partition("\n\n")[0])])
    return Union[tuple(arms)]  # noqa: UP007


def _with_refinement(verb: str, words: list[str]) -> list[str]:
    """An option of the refinement asks for the refinement."""
    implied = verb == "fit" and any(word.startswith("--refine.") for word in words)
    return [*words, "--refine"] if implied and not {"--refine", "--no-refine"} & set(words) else words


def _with_config(words: list[str]) -> list[str]:
    """Put the options of `--config FILE.yaml` behind the others; explicit options win."""
    words = [part for word in words for part in _split_equals(word)]
    if "--config" not in words:
        return words
    at = words.index("--config")
    if at + 1 == len(words):
        raise InputError("--config needs a YAML file")
    path = Path(words[at + 1])
    rest = words[:at] + words[at + 2 :]
    try:
        options = parse_yaml(read_text(path, at_most=2**20), str(path)) or {}
    except InputError as error:
        raise InputError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"--config {path} must map option names to values, such as 'n: 100'")
    flags = (word.partition("=")[0].removeprefix("--") for word in rest if word.startswith("--"))
    explicit = {_positive(flag).replace("_", "-") for flag in flags}
    extra: list[str] = []
    for key, value in _flat(options, ""):
        flag = key.replace("_", "-")
        if flag in explicit:
            continue
        if isinstance(value, bool):
            group, dot, name = flag.rpartition(".")
            extra.append(f"--{flag}" if value else f"--{group}{dot}no-{name}")
        else:
            extra += [f"--{flag}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return rest + extra


def _flat(options: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    """{"flow": {"steps": 9}} as ("flow.steps", 9)."""
    pairs: list[tuple[str, Any]] = []
    for key, value in options.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _positive(flag: str) -> str:
    """flow.no-x as flow.x."""
    group, dot, name = flag.rpartition(".")
    return f"{group}{dot}{name.removeprefix('no-')}"


def _split_equals(word: str) -> list[str]:
    """--config=FILE as two words."""
    return ["--config", word.removeprefix("--config=")] if word.startswith("--config=") else [word]

"""A command tells what it does in lines where there is no terminal, and nothing with --quiet."""

import sys
import warnings
from types import SimpleNamespace

import pytest

from weightspace.cli.main import parse
from weightspace.cli.telling import telling, warnings_as_lines
from weightspace.runtime import progress


def shown(message, category, filename, lineno, file=None, line=None) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def verb(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(warnings, "showwarning", shown)  # pytest's own keeps them to itself
    command = SimpleNamespace(common=SimpleNamespace(quiet=quiet))
    with warnings_as_lines("fit"), telling("fit", command), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in progress.progress(range(2), "training the flow"):
            pass
        warnings.warn("two layers are empty", stacklevel=1)


@pytest.mark.parametrize("quiet", [False, True])
def test_what_a_verb_says(quiet: bool, capsys, monkeypatch) -> None:
    before = progress.LOGGER.level, list(progress.LOGGER.handlers)
    verb(quiet, monkeypatch)
    said = capsys.readouterr().err.splitlines()
    done = ["weightspace fit: training the flow: done after 0.0 s"]
    assert said == [*([] if quiet else done), "weightspace fit: two layers are empty"]
    assert (progress.LOGGER.level, progress.LOGGER.handlers) == before
    assert not progress.is_quiet()


def test_every_verb_can_be_quiet() -> None:
    command = parse("show", ["show", "zoo", "--quiet"])
    assert command.common.quiet  # pyright: ignore[reportAttributeAccessIssue]

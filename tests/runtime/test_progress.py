"""Bars: one line for all that is nested, nothing where nobody watches, and none stays when its work was interrupted."""

import io
import logging
import multiprocessing
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import weightspace as ws
from weightspace.runtime import progress as bars
from weightspace.runtime.progress import above, is_live, line_is_open, progress, quiet, whole


def still_open() -> int:
    return len(bars._open)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """What stands on a terminal after this text; only what bars write is known."""
    lines = [""]
    for part in re.findall(r"\r\x1b\[K|\n|[^\r\n\x1b]+|.", text, re.DOTALL):
        if part == "\n":
            lines.append("")
        elif part == "\r\x1b[K":
            lines[-1] = ""
        else:
            assert not part.startswith(("\r", "\x1b")), "a movement of the cursor to another line"
            lines[-1] += part
    return lines


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """A terminal on which everything is drawn at once."""
    found = Terminal()
    monkeypatch.setattr(bars, "sys", SimpleNamespace(stderr=found))
    monkeypatch.delenv("WEIGHTSPACE_QUIET", raising=False)
    monkeypatch.setattr(bars, "_DELAY", 0.0)
    monkeypatch.setattr(bars, "_EVERY", 0.0)
    return found


def nested() -> None:
    with whole("evaluating"):
        for _ in progress(range(2), "levels"):
            for _ in progress(range(3), "inner"):
                pass
    for _ in progress(range(2), "after"):
        pass


def test_nested_bars_share_one_line_and_leave_one_each_outermost_step(terminal: Terminal) -> None:
    nested()
    first, second, end = screen(terminal.getvalue())
    assert first.startswith("evaluating [")
    assert second.startswith("after: 100%")
    assert end == ""
    assert "evaluating › levels 2/2 › inner:  67%" in terminal.getvalue()  # the control: it was shown on the way
    assert max(map(len, re.split(r"\r\x1b\[K|\n", terminal.getvalue()))) < 80


def test_what_is_written_meanwhile_has_lines_of_its_own(terminal: Terminal) -> None:
    for _ in progress(range(3), "working"):
        above(lambda: terminal.write("a warning\n"))
    lines = screen(terminal.getvalue())
    assert lines[:3] == ["a warning"] * 3
    assert lines[3].startswith("working: 100%")
    terminal.truncate(0)
    for _ in progress(range(3), "working"):
        terminal.write("a warning\n")  # the control
    assert any("%" in line and "a warning" in line for line in screen(terminal.getvalue()))


def test_short_steps_show_nothing(terminal: Terminal, monkeypatch) -> None:
    monkeypatch.setattr(bars, "_DELAY", 60.0)
    nested()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("how", ["variable", "call"])
def test_quiet(terminal: Terminal, monkeypatch, how: str) -> None:
    assert is_live()
    if how == "variable":
        monkeypatch.setenv("WEIGHTSPACE_QUIET", "1")
    else:
        quiet()
    try:
        assert not is_live()
        nested()
    finally:
        quiet(False)
    assert terminal.getvalue() == ""


def test_without_a_terminal_the_log_says_what_ended(monkeypatch, caplog) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(bars, "_DELAY", 0.0)
    with caplog.at_level(logging.INFO, logger="weightspace"):
        nested()
        with pytest.raises(ValueError, match="stop"), whole("broken"):
            raise ValueError("stop")
    said = [re.sub(r"[\d.]+ s", "T", record.message) for record in caplog.records]
    assert said == ["evaluating: done after T", "after: done after T", "broken: stopped after T"]
    assert sys.stderr.getvalue() == ""  # the library prints nothing


def test_long_steps_are_logged_on_the_way(monkeypatch, caplog) -> None:
    monkeypatch.setattr(bars, "_TOLD_EVERY", 0.0)
    monkeypatch.setattr(bars, "_DELAY", 60.0)
    with caplog.at_level(logging.INFO, logger="weightspace"):
        for _ in progress(range(2), "outer"):
            for _ in progress(range(2), "inner"):
                pass
    assert [record.message.partition("|")[0].strip() for record in caplog.records] == ["outer:  50%", "outer: 100%"]


def test_the_line_says_a_loss_and_forgets_an_earlier_process(terminal: Terminal) -> None:
    bar = progress(range(10), "training")
    bar.update(8)
    with bar:
        bar.note(loss=0.123456)
        bar.update(2)
        assert line_is_open()
        assert "10/10" in bar.line(79)
        assert "loss=0.123" in bar.line(79)
    assert not line_is_open()


def test_bars_end_with_their_loops() -> None:
    before = still_open()
    with pytest.raises(KeyboardInterrupt) as remembered:
        for i in progress(range(3), "outer"):
            for j in progress(range(3), "inner"):
                if i == j == 1:
                    assert still_open() == before + 2
                    raise KeyboardInterrupt
    assert remembered.value.__traceback__ is not None  # which keeps the variables, as a notebook does
    assert still_open() == before
    kept = iter(progress(range(3), "in a variable"))
    next(kept)
    assert still_open() == before + 1  # the control
    del kept
    assert still_open() == before


def test_an_interrupted_call_leaves_no_bar_no_lock_and_no_process(task: ws.Task, tmp_path: Path, monkeypatch) -> None:
    calls = 0

    def loss(outputs, y):
        nonlocal calls
        calls += 1
        if calls == 12:
            signal.raise_signal(signal.SIGINT)
        return task.loss(outputs, y)

    before = still_open()
    short = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=1)))
    interrupted = replace(short, loss=loss)
    folder = tmp_path / "zoo"
    with pytest.raises(KeyboardInterrupt):
        ws.collect(interrupted, 2, folder=folder)
    assert calls == 12
    assert still_open() == before
    assert not (folder / ".lock.holder").exists()
    assert multiprocessing.active_children() == []
    assert len(ws.collect(short, 2, folder=folder)) == 2

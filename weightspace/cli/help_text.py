"""Help that fits the terminal: tyro wraps what is in its boxes, and this what is above them."""

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

_BOX = "╭│╰"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class _Held(io.TextIOWrapper):
    """What is printed for standard output, with its signs, and in colour where it has colours."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(io.BytesIO(), encoding=getattr(stream, "encoding", None) or "utf-8", errors="replace")
        self.stream = stream

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def text(self) -> str:
        self.seek(0)
        return self.read()


@contextlib.contextmanager
def help_in_lines() -> Iterator[None]:
    """Break the long lines of help that is printed inside; standard error stays as it is."""
    held = _Held(sys.stdout)
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        if lines := held.text().splitlines():
            print("\n".join(map(_broken, lines)))


def _broken(line: str) -> str:
    """A line outside of boxes, in lines that fit."""
    plain = _STYLE.sub("", line)
    width = shutil.get_terminal_size().columns
    if len(plain) <= width or plain[:1] in _BOX:
        return line
    indent = "  " if plain.startswith("usage:") else ""
    # A list of verbs breaks after its commas.
    words = re.sub(r"(?<=\w),(?=\w)", ", ", line) if indent else line
    broken = textwrap.fill(words, min(width, 100), subsequent_indent=indent, break_on_hyphens=False)
    return broken.replace(", ", ",") if indent else broken

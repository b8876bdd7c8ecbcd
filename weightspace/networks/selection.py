"""Selections: parameters by their names, with globs such as "encoder.*"."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime import checks

_SHOWN = 4


def matching(globs: Sequence[str], choice: Sequence[str], names: Mapping[str, str], what: str) -> tuple[str, ...]:
    """The names that globs select, in the order of the choice.

    Args:
        globs: Names, or globs as of `fnmatch`: "*" stands for anything, dots included, and "?" for one character.
        choice: Names that can be selected.
        names: All names that there are, such as those of tied tensors, with the names that they stand for.
        what: What can be selected, for the error.

    Raises:
        InputError: The globs are no sequence of strings, or one matches nothing that can be selected.
    """
    several = isinstance(globs, Collection) and not isinstance(globs, str | bytes | Mapping | Tensor)
    if not several or not all(isinstance(glob, str) for glob in globs):
        shown = checks.shown(globs)
        raise InputError(f'globs must be a sequence of names or globs of tensors, such as ["encoder.*"], got {shown}')
    selected: set[str] = set()
    for glob in globs:
        found = {entry for name, entry in names.items() if fnmatchcase(name, glob)}
        if not found:
            near = _near(glob, list(names))
            raise InputError(f"no tensor is called {glob!r}: give a name or a glob of these, say: {near}")
        if not found & set(choice):
            raise InputError(
                f"{glob!r} matches {_some(sorted(found))}, of which none is {what}: those are {_near(glob, choice)}"
            )
        selected |= found
    return tuple(name for name in choice if name in selected)


def _near(glob: str, names: Sequence[str]) -> str:
    """The names that look most like a glob; the first ones, if none does."""
    return _some(difflib.get_close_matches(glob.strip("*."), names, _SHOWN, 0.3) or list(names)) or "none"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

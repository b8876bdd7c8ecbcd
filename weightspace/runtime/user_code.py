"""Where an error of a user's own code was raised: the place in his file, not in this package or a library."""

import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]

_PLACE = "_weightspace_place"


def place_of(error: BaseException) -> str | None:
    """File, line and function of a user's own that an error comes from; None if it passed through none.

    Args:
        error: The error, as it was caught.
    """
    kept = getattr(error, _PLACE, None)
    if kept is not None:
        return kept
    if isinstance(error, SyntaxError) and error.filename is not None and _is_own(error.filename):
        return f"{error.filename}:{error.lineno}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if own:
        return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}"
    return place_of(error.__cause__) if error.__cause__ is not None else None


def keep_place(error: BaseException, place: str | None = None) -> None:
    """Keep the place in the error itself, which then has it in another process.

    Args:
        error: The error, as it was caught.
        place: The place; None finds it.
    """
    setattr(error, _PLACE, place or place_of(error))


def describe(error: BaseException) -> str:
    """An error in a line: what was raised, and where if that is known.

    Args:
        error: The error, as it was caught.
    """
    place = place_of(error)
    said = str(error).strip() if not isinstance(error, SyntaxError) else error.msg
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return what if place is None else f"{what} ({place})"


def _is_own(filename: str) -> bool:
    """True for a file that is neither this package's nor a library's, nor made up, such as <frozen importlib>."""
    if filename.startswith("<") or filename.endswith(".pyx"):  # compiled libraries name files that are not here
        return False
    path = Path(filename).resolve()
    return not any(path.is_relative_to(folder) for folder in (_PACKAGE, *_LIBRARIES))

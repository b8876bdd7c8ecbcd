"""Parts of an evaluation that are kept in its folder as they are measured: one that was stopped goes on after them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from weightspace.errors import StorageError
from weightspace.storage.files import dump_json, read_manifest, write_text
from weightspace.storage.system_errors import exists
from weightspace.storage.typed import from_json, to_json

T = TypeVar("T")
_FORMAT, _VERSION = "weightspace.part", 1


@dataclass(frozen=True)
class Parts:
    """What has been measured, a JSON file a part with the checksum of what it holds.

    Args:
        folder: Folder of the run; None keeps nothing.
    """

    folder: Path | None = None

    def kept(self, name: str, what: str, kind: type[T], measure: Callable[[], T | None]) -> T | None:
        """A part that is in the folder, else one that is measured now and put there.

        Args:
            name: Name of its file, without the ending.
            what: What is measured, in words that are the same whenever the same is measured.
            kind: Class of the result.
            measure: Measures it; None means that a figure was not finite.

        Raises:
            StorageError: The file in the folder is damaged, or holds another part.
        """
        if self.folder is None:
            return measure()
        path = self.folder / f"{name}.json"
        if not exists(path):
            measured = measure()
            data = None if measured is None else to_json(measured)
            content = {"format": _FORMAT, "version": _VERSION, "what": what, "sha256": _sum(what, data), "result": data}
            write_text(path, dump_json(content, f"what was measured of {what!r}"))
        return _read(path, what, kind)


def _read(path: Path, what: str, kind: type[T]) -> T | None:
    """A part of this run, through its file even when it was just measured: a resumed run goes on with the same."""
    remedy = "delete it, and the same evaluation measures this part again"
    try:
        content = read_manifest(path, _FORMAT, _VERSION, ("what", "sha256", "result"))
    except StorageError as error:
        raise StorageError(f"{error}; or {remedy}") from error
    if content["sha256"] != _sum(content["what"], content["result"]):
        raise StorageError(f"{path} was changed or damaged since it was written (another SHA-256): {remedy}")
    if content["what"] != what:
        found = f"{content['what']!r:.80}, not {what!r:.80}"
        raise StorageError(f"{path} holds {found}: it was begun by another version; {remedy}")
    return None if content["result"] is None else from_json(kind, content["result"], str(path))


def _sum(what: Any, data: Any) -> str:
    return hashlib.sha256(json.dumps([what, data], sort_keys=True).encode()).hexdigest()

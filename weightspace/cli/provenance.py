"""Where a folder comes from: the runs that it was made by, found by fingerprints among the folders beside it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.errors import StorageError
from weightspace.generator import MANIFEST as GENERATOR
from weightspace.generator import FittedGenerator
from weightspace.storage.files import dump_json
from weightspace.storage.reading import read_json
from weightspace.storage.runs import CONFIG, read_config
from weightspace.storage.shards import MANIFEST as COLLECTION

_DEEPEST = 12  # generations
_MOST = 200  # folders that are looked at
_SHOWN = 4  # settings of a run in a line


@dataclass(frozen=True)
class _Known:
    """A folder, and how its content is recognised."""

    folder: Path
    whole: str
    networks: int = 0
    shards: str = ""

    def is_of(self, fingerprint: str) -> bool:
        """Whether the fingerprint is that of its content, or of the first or the last of its networks."""
        if fingerprint == self.whole:
            return True
        n = self.networks
        parts = [*(range(0, stop) for stop in range(1, n)), *(range(start, n) for start in range(1, n))]
        return any(_fingerprint(rows, self.shards) == fingerprint for rows in parts)


def provenance(folder: Path) -> list[tuple[str, str, str]]:
    """What a folder was made from, as rows of a tree: (what, folder, how it was made), the folder itself first.

    A run folder says by fingerprints what went into it. What has such a fingerprint is looked for beside the folder.

    Args:
        folder: Folder of a collection or a generator.
    """
    folder = folder.resolve()
    known = [one for path in _around(folder) if (one := _known(path)) is not None]
    return list(_rows(folder, known, "", folder.parent, 0))


def _rows(folder: Path, known: list[_Known], before: str, root: Path, depth: int) -> Iterator[tuple[str, str, str]]:
    what = "generator" if (folder / GENERATOR).exists() else "networks"
    config = _config(folder)
    branch = f"{before}└─ " if depth else ""
    place = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.as_posix()
    yield f"{branch}{what}", place, _how(config)
    inputs = config.get("inputs", {})
    for name, fingerprint in inputs.items() if depth < _DEEPEST else ():
        inner = f"{before}   " if depth else ""
        found = next((one for one in known if one.folder != folder and one.is_of(str(fingerprint))), None)
        if found is not None:
            yield from _rows(found.folder, known, inner, root, depth + 1)
        else:
            yield f"{inner}└─ {name}", "-", f"not found beside it (fingerprint {fingerprint})"


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder) if (folder / CONFIG).exists() else {}
    except StorageError:  # what it holds can be shown all the same
        return {}


def _how(config: dict[str, Any]) -> str:
    """The verb of a run, and the first of its settings."""
    if not config:
        return "no run: saved, imported or merged"
    settings = config["config"]
    method = settings.get("method")
    named = {**settings, **(method if isinstance(method, dict) else {})}
    plain = {key: value for key, value in named.items() if isinstance(value, str | int | float) and key != "name"}
    words = [f"{key} {value}" for key, value in list(plain.items())[:_SHOWN]]
    verb = config["stage"] if not isinstance(method, dict) else f"{config['stage']} {method.get('name', '')}".strip()
    return ", ".join([verb, *words])


def _around(folder: Path) -> list[Path]:
    """The folders beside a folder, and in those, and the same one level up."""
    found: list[Path] = []
    for place in (folder.parent, folder.parent.parent):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if not path.is_dir():
                continue
            found += [path, *(inner for inner in sorted(path.iterdir()) if inner.is_dir())]
    return list(dict.fromkeys(found))[:_MOST]


def _known(folder: Path) -> _Known | None:
    """How the content of a folder is recognised; None for other folders, and for what cannot be read."""
    try:
        if (folder / COLLECTION).exists():
            manifest = read_json(folder / COLLECTION)
            shards = dump_json(manifest["shards"], "the manifest")
            count = int(manifest["count"])
            return _Known(folder, _fingerprint(range(count), shards), count, shards)
        if (folder / GENERATOR).exists():
            return _Known(folder, FittedGenerator.load(folder).fingerprint())
    except (StorageError, KeyError, TypeError, ValueError, OSError):
        return None
    return None


def _fingerprint(rows: range, shards: str) -> str:
    """As `Collection.fingerprint` of these networks of a folder."""
    digest = hashlib.sha256(repr(list(rows)).encode())
    digest.update(shards.encode())
    return digest.hexdigest()[:16]

"""Put collections from several machines together."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from weightspace.errors import InputError
from weightspace.networks.collection import Collection, writer_for
from weightspace.runtime import checks
from weightspace.runtime.progress import progress
from weightspace.storage.files import new_folder
from weightspace.storage.manifests import write_manifest

_ROWS = 256


def merge(
    folders: Sequence[str | Path], out: str | Path, *, factory: Callable[[], nn.Module] | None = None
) -> Collection:
    """Copy the networks of several collection folders into one, in order; a few at a time in memory.

    Raises:
        InputError: There are no folders, dense and sparse ones together, or the same network is there twice.
        LayoutMismatch: The collections have different layouts.
        StorageError: A folder is not a collection, or `out` is not empty.
    """
    checks.several(folders, "folders", checks.path, least=1)
    checks.path(out, "out")
    checks.given(factory, "factory", checks.function, what="that builds the network")
    if not folders:
        raise InputError("nothing to merge: give at least one folder")
    parts = [Collection.load(folder, factory=factory) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        parts[0].layout.require(part.layout, str(folder))
    if len({part.dense for part in parts}) > 1:
        raise InputError("some of the collections are sparse and some dense: merge them apart")
    known = [
        (r["collection_seed"], r["index"], r.get("step")) for p in parts for r in p.records if "collection_seed" in r
    ]
    if len(set(known)) < len(known):
        raise InputError("a network is in two of the folders: one was given twice, give each once")
    with new_folder(Path(out)) as temporary:
        writer = writer_for(temporary, parts[0].layout, parts[0].architecture)
        for part in progress(parts, "merging"):
            for start in range(0, len(part), _ROWS):
                part[start : start + _ROWS].write_to(writer)
        writer.close()
        write_manifest(temporary)
    return Collection.load(out, factory=factory)

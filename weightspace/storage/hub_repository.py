"""Repositories of the Hugging Face hub: what is uploaded is a folder, what is downloaded are named files of one."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

from weightspace.errors import InputError, StorageError

CARD = "README.md"
_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")

Kind = Literal["model", "dataset"]


def hub() -> ModuleType:
    """The package huggingface_hub.

    Raises:
        InputError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError("the hub needs huggingface_hub: pip install 'weightspace[hub]'") from error
    return huggingface_hub


def download(
    name: str | Path, files: Sequence[str], *, kind: Kind, revision: str | None, offline: bool, cache: str | Path | None
) -> Path:
    """The folder of a repository's files, from the hub or its local cache.

    Args:
        name: "owner/repository".
        files: Names or globs of the files.
        kind: Kind of the repository.
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether only the cache is read.
        cache: Folder of the cache; None is the hub's own.

    Raises:
        StorageError: There is no such repository.
    """
    if isinstance(name, Path) or not _NAME.fullmatch(name):
        raise StorageError(f"{name} is neither a folder nor a repository of the hub (owner/name)")
    package = hub()
    try:
        folder = package.snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            cache_dir=cache,
            local_files_only=offline,
            allow_patterns=list(files),
        )
    except (package.errors.HfHubHTTPError, package.errors.LocalEntryNotFoundError, OSError) as error:
        where = "the local cache" if offline else "the hub"
        raise StorageError(f"{name} was not found in {where}: {error}") from error
    return Path(folder)

"""A fitted stage as a folder: safetensors for what was fitted, a JSON manifest for its settings; no pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.storage.files import (
    SizeAndSum,
    atomic_file,
    check_file,
    dump_json,
    file_hash,
    new_folder,
    read_manifest,
    write_text,
)
from weightspace.storage.manifests import add_to_manifest, check_listed
from weightspace.storage.reading import require_file
from weightspace.storage.system_errors import told
from weightspace.storage.tensors import load_tensors
from weightspace.storage.typed import from_json


@dataclass(frozen=True)
class FittedFormat:
    """The files of one kind of fitted stage.

    Args:
        name: Name of the files, such as "generator" for generator.json and generator.safetensors.
        version: Format version that is written.
        readable: Format versions that can be read.
        keys: Keys that the manifest must have beside format, version and tensors.
    """

    name: str
    version: int
    readable: Sequence[int]
    keys: Sequence[str]

    @property
    def manifest(self) -> str:
        """File name of the manifest."""
        return f"{self.name}.json"

    @property
    def tensors(self) -> str:
        """File name of the tensors."""
        return f"{self.name}.safetensors"

    def write(self, folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors, then the manifest that makes the folder complete.

        Args:
            folder: An existing folder; files of the same names are replaced.
            settings: What the manifest says, as JSON.
            tensors: What was fitted, by name.

        Raises:
            InputError: The settings cannot be written as JSON.
            StorageError: The folder cannot be written.
        """
        path = folder / self.tensors
        with atomic_file(path) as temporary:
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)
        manifest = {"format": f"weightspace.{self.name}", "version": self.version, **settings}
        manifest["tensors"] = {"size": require_file(path).st_size, "sha256": file_hash(path)}
        write_text(folder / self.manifest, dump_json(manifest, f"the {self.name}", indent=1))
        add_to_manifest(folder, [self.manifest, self.tensors])

    def save(self, folder: str | Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Write a new or empty folder, which appears in one step.

        Args:
            folder: Folder to write.
            settings: What the manifest says, as JSON.
            tensors: What was fitted, by name.

        Raises:
            StorageError: The folder is not empty or cannot be written.
        """
        folder = Path(folder)
        with new_folder(folder) as temporary:
            self.write(temporary, settings, tensors)
        return folder

    def load(self, folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The manifest and the tensors of a folder.

        Args:
            folder: Folder that was written by `save` or `write`.

        Raises:
            StorageError: A file is missing, damaged or of a version that cannot be read.
        """
        folder = Path(folder)
        with told("read", folder):
            return self._load(folder)

    def _load(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if not (folder / self.manifest).exists():
            raise StorageError(
                f"{folder} has no {self.manifest}: it is not a {self.name}, or its fit was interrupted (run it again)"
            )
        manifest = read_manifest(
            folder / self.manifest, f"weightspace.{self.name}", self.readable, [*self.keys, "tensors"]
        )
        check_listed(folder, required=[self.manifest, self.tensors])
        expected = from_json(SizeAndSum, manifest["tensors"], f"{folder / self.manifest}, tensors,")
        check_file(folder / self.tensors, expected.size, expected.sha256)
        return manifest, load_tensors(folder / self.tensors)


def require_tensor(tensors: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    """A tensor by its name.

    Args:
        tensors: Tensors of a file.
        name: Name of the tensor.
        what: What is read, for the error.

    Raises:
        StorageError: The tensor is missing.
    """
    if name not in tensors:
        raise StorageError(f"{what} is damaged (its tensors lack {name!r}): restore it from a copy")
    return tensors[name]

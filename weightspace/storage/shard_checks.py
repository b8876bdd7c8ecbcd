"""What collection.json says against what the shards hold, before any of it is read: names, counts, shapes, records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.errors import StorageError
from weightspace.storage.files import SizeAndSum
from weightspace.storage.reading import parse_json
from weightspace.storage.tensors import open_tensors
from weightspace.storage.typed import from_json


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the manifest lists it.

    Args:
        file: Name of the file.
        count: Networks in it.
        bytes: Size of the file.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    file: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The files of a collection, as its manifest lists them.

    Args:
        columns: Names of the tensors in each shard.
        count: Number of networks.
        shards: Shards in order.
        records: The file of records.
    """

    columns: list[str]
    count: int
    shards: list[ShardEntry]
    records: SizeAndSum

    @classmethod
    def of(cls, manifest: Mapping[str, Any], path: Path) -> "Contents":
        """Read and check a manifest's own words.

        Args:
            manifest: The data of collection.json.
            path: The file, for errors.

        Raises:
            StorageError: A key is missing, unknown or of another type, or the numbers do not agree.
        """
        listed = {name: manifest[name] for name in ("columns", "count", "shards", "records")}
        found = from_json(cls, listed, str(path))
        counts = [shard.count for shard in found.shards]
        if min(counts, default=0) < 1 or sum(counts) != found.count:
            raise StorageError(
                f"{path} is damaged (shards of {counts!r:.200} networks, {found.count} in all): restore it from a copy"
            )
        names = [shard.file for shard in found.shards]
        if names != [f"shard-{number:05d}.safetensors" for number in range(len(names))]:
            raise StorageError(
                f"{path} lists the shards {names!r:.200}: they are numbered from 0, in the order of the records; "
                "restore it from a copy"
            )
        return found


def records_of(file: Any, path: Path) -> list[dict[str, Any]]:
    """The records that a shard keeps of its own networks.

    Args:
        file: The open safetensors file.
        path: Its path, for errors.

    Raises:
        StorageError: It has none, or damaged ones.
    """
    text = (file.metadata() or {}).get("records")
    found = None if text is None else parse_json(text, f"{path}, records,")
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise StorageError(f"{path} is no shard of a collection (it keeps no records): delete it or restore a copy")
    return found


def check_shard(path: Path, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Compare a shard with what is expected of it: the columns of the collection, and its networks' records.

    Args:
        path: The shard.
        columns: Names of its tensors.
        records: Records of its networks.

    Raises:
        StorageError: It has other columns, or the networks of other records.
    """
    with open_tensors(path) as file:
        found, own = sorted(file.keys()), records_of(file, path)
    if found != sorted(columns):
        raise StorageError(
            f"{path} holds the columns {', '.join(found)}, collection.json lists {', '.join(columns)}: one of the two "
            "was changed; restore them from a copy"
        )
    if own != list(records):
        raise StorageError(
            f"{path} holds the networks of other records than records.jsonl has in their place: a file was changed or "
            "swapped; restore them from a copy"
        )


def check_shapes(path: Path, count: int, size: int, buffers: Mapping[str, Sequence[int]]) -> None:
    """Compare the shapes in a shard with a layout, without reading its tensors.

    Args:
        path: The shard.
        count: Networks in it.
        size: Length of a network's vector.
        buffers: Shape of each buffer by name.

    Raises:
        StorageError: A column has another shape, or is missing or unknown.
    """
    with open_tensors(path) as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: [count, size] for name in shapes if name == "weights" or name.startswith("extra.")}
    expected |= {f"buffer.{name}": [count, *shape] for name, shape in buffers.items()}
    if "masks" in shapes:
        expected["masks"] = [count, math.ceil(size / 8)]
    if "values" in shapes:
        expected |= {"kept": [count], "values": [math.prod(shapes["values"])]}
    elif "weights" not in shapes:
        expected["weights"] = [count, size]
    for name in sorted({*shapes, *expected}):
        if shapes.get(name) != expected.get(name):
            raise StorageError(
                f"{path} does not fit the layout in collection.json: {name} has the shape {shapes.get(name)}, expected "
                f"{expected.get(name)}; one of the two was changed, restore them from a copy"
            )

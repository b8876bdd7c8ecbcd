"""Collections on disk: safetensors shards, a line of JSON per network, a manifest with checksums.

Every file is written under a temporary name, synced and renamed; the manifest `collection.json` comes
last and marks the folder complete. Anyone can read a folder with safetensors and a JSON parser:

    collection.json            format, version, layout, architecture, columns, files and checksums
    records.jsonl              one line per network
    shard-00000.safetensors    columns over consecutive networks: "weights" (n, D), or of sparse networks
                               "masks" (n, D/8) as bits, most significant first, "values", the kept weights
                               of one network after another, and "kept" (n,), how many each has;
                               "extra.*" (n, D); "buffer.*"
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.storage.checksums import check_sum, drop_sum, write_sum
from weightspace.storage.files import (
    atomic_file,
    check_file,
    dump_json,
    file_hash,
    make_folder,
    read_manifest,
    write_text,
)
from weightspace.storage.manifests import check_listed
from weightspace.storage.reading import read_lines, require_file
from weightspace.storage.shard_checks import Contents, check_shapes, check_shard, records_of
from weightspace.storage.system_errors import exists, told
from weightspace.storage.tensors import open_tensors

FORMAT = "weightspace.collection"
VERSION = 2  # version 1 had dense weights beside the masks
_READABLE = (1, 2)
MANIFEST = "collection.json"
RECORDS = "records.jsonl"
_KEYS = ("layout", "architecture", "columns", "count", "shards", "records")
_SHARD = re.compile(r"shard-(\d{5})\.safetensors")


def pack_bits(mask: Tensor) -> Tensor:
    """Booleans (n, D) as bits (n, ceil(D/8)), most significant first."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=-1))


def pack_values(weights: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Columns of sparse networks (n, D): the kept weights, how many each network has, and the masks as bits."""
    return {"values": weights[masks], "kept": masks.sum(1), "masks": pack_bits(masks)}


def unpack_bits(bits: Tensor, size: int) -> Tensor:
    """The inverse of `pack_bits`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=size)).bool()


class ShardWriter:
    """Adds shards to a folder; a folder that an earlier process left unfinished is continued."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        self.header = dict(header)
        self.records: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._shards: list[dict[str, Any]] = []
        if exists(folder / MANIFEST):
            raise StorageError(f"{folder} already holds a collection: choose another folder, or delete it first")
        make_folder(folder)
        for path in _shard_files(folder):
            require_file(path)
            sha256 = file_hash(path)
            check_sum(path, "delete it and the shards after it: the run makes them anew", found=sha256)
            with open_tensors(path) as file:
                self._register(path, sorted(file.keys()), records_of(file, path), sha256)

    def __len__(self) -> int:
        """Networks written so far, by this process and by earlier ones."""
        return len(self.records)

    def add(self, columns: Mapping[str, Tensor], records: Sequence[Mapping[str, Any]]) -> None:
        """Write one shard of consecutive networks; it is complete or absent, never in between."""
        path = self.folder / f"shard-{len(self._shards):05d}.safetensors"
        lines = [dict(record) for record in records]
        metadata = {"records": dump_json(lines, "the records")}
        with atomic_file(path) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in columns.items()}, temporary, metadata)
            sha256 = file_hash(temporary)
            write_sum(path, sha256)
        self._register(path, sorted(columns), lines, sha256)

    def close(self) -> None:
        """Write the records and the manifest: from here on the folder is a collection."""
        lines = "".join(dump_json(record, "a record") + "\n" for record in self.records)
        write_text(self.folder / RECORDS, lines)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            **self.header,
            "columns": self._columns,
            "count": len(self.records),
            "shards": self._shards,
            "records": {"size": len(lines), "sha256": hashlib.sha256(lines.encode()).hexdigest()},
        }
        write_text(self.folder / MANIFEST, dump_json(manifest, "the manifest", indent=1))
        for shard in self._shards:  # the manifest has it from here on
            drop_sum(self.folder / shard["file"])

    def _register(self, path: Path, columns: list[str], records: list[dict[str, Any]], sha256: str) -> None:
        if self._shards and columns != self._columns:
            raise StorageError(
                f"{path} has the columns {columns}, earlier shards {self._columns}: delete {self.folder}"
            )
        self._columns = columns
        self.records += records
        size = require_file(path).st_size
        self._shards.append({"file": path.name, "count": len(records), "bytes": size, "sha256": sha256})


@dataclass(frozen=True)
class ShardReader:
    """A complete collection folder; rows are read when asked for."""

    folder: Path
    manifest: Mapping[str, Any]
    records: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, *, verify: bool) -> "ShardReader":
        """Check a folder and open it.

        Args:
            verify: True to compare every shard with its checksum, which reads each file once; otherwise only its
                size is compared.

        Raises:
            StorageError: The folder is absent, empty, unfinished, damaged or of another version.
        """
        with told("read", folder):
            return cls._open(folder, verify)

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> "ShardReader":
        if not folder.is_dir():
            raise StorageError(f"{folder} is not a folder: give the folder of a collection")
        if not (folder / MANIFEST).exists():
            hint = (
                "an unfinished run: start it again and it continues"
                if _shard_files(folder)
                else "not a collection (for a folder of state dicts use `weightspace import`)"
            )
            raise StorageError(f"{folder} has no {MANIFEST}: it is {hint}")
        manifest = read_manifest(folder / MANIFEST, FORMAT, _READABLE, _KEYS)
        contents = Contents.of(manifest, folder / MANIFEST)
        check_listed(folder, required=[MANIFEST, RECORDS, *(shard.file for shard in contents.shards)])
        for shard in contents.shards:
            check_file(folder / shard.file, shard.bytes, shard.sha256, verify=verify)
        check_file(folder / RECORDS, contents.records.size, contents.records.sha256)
        records = read_lines(folder / RECORDS)
        if len(records) != contents.count:
            raise StorageError(
                f"{folder / RECORDS} has {len(records)} records, {MANIFEST} says {contents.count}: restore it from a "
                "copy"
            )
        start = 0
        for shard in contents.shards:
            check_shard(folder / shard.file, contents.columns, records[start : start + shard.count])
            start += shard.count
        return cls(folder, manifest, records)

    def check_shapes(self, size: int, buffers: Mapping[str, Sequence[int]]) -> None:
        """Compare the shapes in all shards with a layout, without reading their tensors.

        Args:
            size: Length of a network's vector.
            buffers: Shape of each buffer by name.

        Raises:
            StorageError: A column has another shape, or is missing or unknown.
        """
        for shard in self.manifest["shards"]:
            check_shapes(self.folder / shard["file"], shard["count"], size, buffers)

    @property
    def columns(self) -> list[str]:
        """Names of the columns; packed weights are one."""
        names = set(self.manifest["columns"])
        return sorted((names - {"values", "kept"}) | {"weights"})

    def weights(self, rows: Tensor, size: int, within: slice | None = None) -> Tensor:
        """The weights of the given networks, (len(rows), size), however they are stored.

        Args:
            within: Positions of each row to read; None for all.
        """
        if "values" not in self.manifest["columns"]:
            return self.read("weights", rows, within)
        at = slice(0, size) if within is None else within
        parts: list[Tensor] = []
        order: list[Tensor] = []
        start = 0
        for shard in self.manifest["shards"]:
            here = ((rows >= start) & (rows < start + shard["count"])).nonzero().flatten()
            if len(here):
                with open_tensors(self.folder / shard["file"]) as file:
                    ends = _ends(file, self.folder / shard["file"])
                    bits, values = file.get_slice("masks"), file.get_slice("values")
                    for row in (rows[here] - start).tolist():
                        own, before = _within(bits[row : row + 1].numpy()[0], at)
                        first = (ends[row - 1] if row else 0) + before
                        kept = values[first : first + int(own.sum())]
                        if len(kept) != int(own.sum()) or (within is None and first + len(kept) != ends[row]):
                            raise StorageError(
                                f"{self.folder / shard['file']} is damaged (network {row} has another number of values "
                                "than its mask keeps): restore it from a copy"
                            )
                        parts.append(kept.new_zeros(len(own)).masked_scatter_(own, kept))
                order.append(here)
            start += shard["count"]
        found = torch.stack(parts)
        return found[torch.cat(order).argsort()]

    def read(self, column: str, rows: Tensor, within: slice | None = None) -> Tensor:
        """One column of the given networks, in their order; other rows stay on disk.

        Args:
            within: Positions of each row to read; None for all.
        """
        part = () if within is None else (within,)
        parts: list[Tensor] = []
        order: list[Tensor] = []
        start = 0
        for shard in self.manifest["shards"]:
            stop = start + shard["count"]
            here = ((rows >= start) & (rows < stop)).nonzero().flatten()
            if len(here):
                local = rows[here] - start
                first, last = int(local.min()), int(local.max())
                with open_tensors(self.folder / shard["file"]) as file:
                    lazy = file.get_slice(column)
                    if last - first < 2 * len(local):  # dense enough to read as one piece
                        parts.append(lazy[(slice(first, last + 1), *part)][local - first])
                    else:
                        parts.append(torch.cat([lazy[(slice(i, i + 1), *part)] for i in local.tolist()]))
                order.append(here)
            start = stop
        values = torch.cat(parts)
        result = torch.empty_like(values)
        result[torch.cat(order)] = values
        return result


def _within(bits: np.ndarray, at: slice) -> tuple[Tensor, int]:
    """A part of a mask, and how many weights are kept before it; only the bits of the part are unpacked."""
    byte, stop = at.start // 8, max(at.start, at.stop)
    mask = np.unpackbits(bits[byte : -(-stop // 8)], count=stop - 8 * byte).astype(bool)
    skipped = at.start - 8 * byte
    before = int(np.bitwise_count(bits[:byte]).sum(dtype=np.int64)) + int(np.count_nonzero(mask[:skipped]))
    return torch.from_numpy(mask[skipped:]), before


def _ends(file: Any, path: Path) -> list[int]:
    """Where the kept weights of each network of a shard end."""
    kept, (total,) = file.get_tensor("kept"), file.get_slice("values").get_shape()
    if kept.dtype != torch.int64 or int(kept.min()) < 0 or int(kept.max()) > total or int(kept.sum()) != total:
        raise StorageError(f"{path} is damaged (kept does not add up to its {total} values): restore it from a copy")
    return kept.cumsum(0).tolist()


def _shard_files(folder: Path) -> list[Path]:
    """The shards of a folder, numbered from 0 without a gap."""
    with told("read", folder):
        paths = sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    for number, path in enumerate(paths):
        if path.name != f"shard-{number:05d}.safetensors":
            raise StorageError(
                f"{folder}: shard {number} is missing (found {path.name}): delete the shards after the gap, the run "
                "makes them anew"
            )
    return paths

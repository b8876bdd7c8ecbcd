"""Collection: N networks of one layout. Every stage takes one and returns one."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.errors import InputError, LayoutMismatch
from weightspace.networks.architecture import Architecture
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.forward import at_once, blocks
from weightspace.networks.given import check_index, check_masks, check_parts
from weightspace.networks.layout import Layout
from weightspace.networks.network import Network
from weightspace.networks.outputs import Classes, OutputKind, stored_kind
from weightspace.networks.record import Record
from weightspace.networks.record_table import write_records
from weightspace.runtime import checks
from weightspace.runtime.hashing import raw_bytes
from weightspace.storage.files import dump_json, new_folder
from weightspace.storage.manifests import write_manifest
from weightspace.storage.shards import ShardReader, ShardWriter, pack_values, unpack_bits

_SHARD_BYTES = 256 * 2**20
_READ = 64  # networks whose masks are read at once

C = TypeVar("C", bound="Collection")


class Collection:
    """N networks of one layout: weights, masks, buffers and a record each.

    Rows of a collection loaded from disk are read when their tensors are asked for; slicing and
    filtering read nothing.

    Tensors are kept, not copied: what is written into them later changes the networks. `save` looks at them again.

    Args:
        layout: Layout of all networks.
        weights: (N, D), finite, zero where the mask is False.
        masks: (N, D), True where a weight is kept, always True off the prunable weights; None for
            dense networks.
        buffers: (N, *shape) by name.
        extras: Further vectors of each network that live in weight space, (N, D) by name, such as
            "rewind"; permutations act on them as on the weights. Their names are in `Extra`.
        records: How each network came about: a `Record`, or any JSON-like mapping, for each.
        architecture: Architecture that builds a module of each.

    Raises:
        InputError: A shape is wrong, weights are NaN or infinite, or masked weights are not zero.
        LayoutMismatch: A tensor is of another layout.
    """

    def __init__(
        self,
        layout: Layout,
        weights: Float[Tensor, "n d"],
        *,
        architecture: Architecture,
        masks: Bool[Tensor, "n d"] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        extras: Mapping[str, Tensor] | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        given = {"weights": weights, "masks": masks, "buffers": buffers, "extras": extras}
        check_parts(layout, architecture, given, records)
        columns = {"weights": weights}
        if masks is not None:
            columns["masks"] = masks
        columns |= {f"extra.{name}": tensor for name, tensor in (extras or {}).items()}
        columns |= {f"buffer.{name}": tensor for name, tensor in (buffers or {}).items()}
        self.layout = layout
        self.architecture = architecture.following(layout)
        self.records: list[Record] = [Record.of(r) for r in ([{}] * len(weights) if records is None else records)]
        self._reader: ShardReader | None = None
        self._rows: Tensor = torch.arange(len(weights))
        self._columns: dict[str, Tensor] = {}
        self._names = list(columns)
        for name, tensor in columns.items():
            self._columns[name] = self._checked(name, tensor)
        missing = [b.name for b in layout.buffers if f"buffer.{b.name}" not in columns]
        if missing:
            raise LayoutMismatch(f"the layout has buffers that were not given: {missing}")
        if len(self.records) != len(weights):
            raise InputError(f"records must be one for each of the {len(weights)} networks, got {len(self.records)}")

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get: of a view its own rows, where a pickle of its tensors would hold all."""
        columns = {n: c.clone() if c.untyped_storage().nbytes() > c.nbytes else c for n, c in self._columns.items()}
        return self.__dict__ | {"_columns": columns}

    @property
    def weights(self) -> Float[Tensor, "n d"]:
        """(N, D); pruned weights are exactly zero."""
        return self._column("weights")

    def weight_columns(self, at: slice) -> Float[Tensor, "n b"]:
        """Some positions of the weights of all networks; the others stay on disk."""
        checks.instance(at, "at", slice, "a slice of positions")
        if "weights" in self._columns:
            return self._columns["weights"][:, at]
        assert self._reader is not None
        return self._reader.weights(self._rows, self.layout.size, slice(*at.indices(self.layout.size)))

    @property
    def masks(self) -> Bool[Tensor, "n d"]:
        """(N, D), True where a weight is kept; all True for dense networks."""
        if self.dense:
            return torch.ones(1, 1, dtype=torch.bool).expand(len(self), self.layout.size)
        return self._column("masks")

    @property
    def buffers(self) -> dict[str, Tensor]:
        """(N, *shape) by state-dict name."""
        return {b.name: self._column(f"buffer.{b.name}") for b in self.layout.buffers}

    @property
    def extras(self) -> dict[str, Tensor]:
        """(N, D) by name: further vectors in weight space, such as "rewind"."""
        names = [name.removeprefix("extra.") for name in self._names if name.startswith("extra.")]
        return {name: self._column(f"extra.{name}") for name in names}

    @property
    def dense(self) -> bool:
        """True if the networks carry no masks."""
        return "masks" not in self._names

    @property
    def densities(self) -> Float[Tensor, " n"]:
        """Fraction of all prunable weights kept by each network's mask; 1 where none is prunable."""
        if self.dense or not self.layout.num_prunable:
            return torch.ones(len(self), dtype=torch.float64)
        always = self.layout.size - self.layout.num_prunable  # what is not prunable is True in every mask
        rows = blocks(len(self), at_once(_READ, self.layout.size))
        counts = [np.count_nonzero(row) for at in rows for row in self.view(at).masks.cpu().numpy()]
        return (torch.tensor(counts, dtype=torch.float64) - always) / self.layout.num_prunable

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        kind = "dense" if self.dense else "sparse"
        return f"{type(self).__name__}({len(self)} {kind} networks, {self.architecture.name}, D = {self.layout.size:,})"

    @overload
    def __getitem__(self, index: int) -> Network: ...
    @overload
    def __getitem__(self: C, index: slice | Sequence[int] | Tensor) -> C: ...
    def __getitem__(self: C, index: SupportsIndex | slice | Sequence[int] | Tensor) -> Network | C:
        """One network for an integer; a collection for a slice, a list of indices or a boolean mask."""
        index = check_index(index, len(self))
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"network {index} of {len(self)}")
            one = self[[index % len(self)]]
            buffers = {name: buffer[0] for name, buffer in one.buffers.items()}
            return Network(self.layout, self.architecture, one.weights[0], one.masks[0], buffers, one.records[0])
        positions = torch.arange(len(self))[index]
        return self._selected(positions, [self.records[i] for i in positions.tolist()])

    def view(self: C, rows: slice) -> C:
        """The networks of a slice, with the same tensors: what is in memory is not copied, what is on disk not read."""
        return self._selected(rows, self.records[checks.instance(rows, "rows", slice, "a slice, such as slice(0, 10)")])

    def _selected(self: C, rows: slice | Tensor, records: list[Record]) -> C:
        if not records:
            raise InputError(f"the selection is empty: a collection needs at least one network (of {len(self)})")
        part = object.__new__(type(self))
        part.layout, part.architecture = self.layout, self.architecture
        part._reader, part._names, part.records = self._reader, self._names, records
        part._rows, part._columns = self._rows[rows], {name: column[rows] for name, column in self._columns.items()}
        return part

    def __iter__(self) -> Iterator[Network]:
        return (self[i] for i in range(len(self)))

    def module(self, i: int) -> nn.Module:
        """A plain nn.Module of network i; its pruned weights stay zero under further training."""
        return self[checks.count(i, "i", at_least=-len(self), at_most=len(self) - 1)].module()

    def ensemble(self, outputs: OutputKind | None = None) -> Ensemble:
        """All networks as one predictor; what outputs mean is read from records, or they are logits of classes."""
        checks.given(outputs, "outputs", checks.having, methods=("predictions",), wanted="what outputs mean: Classes()")
        kind = outputs or stored_kind(self.records[0]) or Classes()
        return Ensemble(self.architecture.build_seeded(0), self.layout, self.weights, self.buffers, kind)

    def filter(self: C, keep: Callable[[Record], bool]) -> C:
        """The networks whose record satisfies a condition; reads no weights."""
        checks.function(keep, "keep", "of a record that returns True or False")
        return self[[i for i, record in enumerate(self.records) if keep(record)]]

    def best(self, k: int, metric: str | None = None, *, lowest: bool = False) -> "Collection":
        """The k networks with the highest (or lowest) value of a metric in their records, best first.

        Args:
            k: Number of networks.
            metric: Name of the metric; by default the main one, or the validation loss where there is none.
            lowest: Whether small values are good; the main metric knows it by itself.

        Raises:
            InputError: There are fewer networks, or a record without the metric, or with NaN as it.
        """
        k, lowest = checks.count(k, "k", at_least=1, at_most=len(self)), checks.flag(lowest, "lowest")
        checks.given(metric, "metric", checks.text)
        main, higher_is_better = self.records[0].main_metric
        metric = metric or main
        lowest = lowest or (metric == main and not higher_is_better)
        missing = [i for i, record in enumerate(self.records) if record.metrics.get(metric) is None]
        if missing:
            known = ", ".join(sorted(self.records[missing[0]].metrics)) or "none"
            raise InputError(f"metric must be in all records: network {missing[0]} has {known}, and no {metric!r:.80}")
        values = [record.metrics[metric] for record in self.records]
        if any(value != value for value in values):
            raise InputError(f"{metric} of a network is NaN, which cannot be ranked: leave it out, with filter()")
        order = sorted(range(len(self)), key=values.__getitem__, reverse=not lowest)
        return self[order[:k]]

    def split(self, *counts: int) -> list["Collection"]:
        """Consecutive parts of the given sizes, which must add up to the whole."""
        counts = checks.several(counts, "counts", checks.count, at_least=1)
        if sum(counts) != len(self):
            raise InputError(f"cannot split {len(self)} networks into {counts}: the counts must add up")
        stops = torch.tensor(counts).cumsum(0).tolist()
        return [self[stop - count : stop] for stop, count in zip(stops, counts, strict=True)]

    @classmethod
    def concatenate(cls, collections: Sequence["Collection"]) -> "Collection":
        """One collection of all networks, in order. Extras that not all have are dropped."""
        collections = checks.several(collections, "collections", _require_collection, least=1)
        first = collections[0]
        for other in collections[1:]:
            first.layout.require(other.layout, "a collection to concatenate")
        shared = set.intersection(*(set(c.extras) for c in collections))
        return cls(
            first.layout,
            torch.cat([c.weights for c in collections]),
            architecture=first.architecture,
            masks=None if all(c.dense for c in collections) else torch.cat([c.masks for c in collections]),
            buffers={b.name: torch.cat([c.buffers[b.name] for c in collections]) for b in first.layout.buffers},
            extras={name: torch.cat([c.extras[name] for c in collections]) for name in sorted(shared)},
            records=[record for c in collections for record in c.records],
        )

    def replace(self: C, **changes: Any) -> C:
        """A collection with some of layout (of the same tensors), weights, masks, buffers, extras, records changed."""
        masks = None if self.dense else self.masks
        current = {
            "layout": self.layout,
            "weights": self.weights,
            "masks": masks,
            "buffers": self.buffers,
            "extras": self.extras,
            "records": self.records,
            "architecture": self.architecture,
        }
        return type(self)(**(current | changes))

    def save(self, folder: str | Path) -> Path:
        """Write to a new folder; it appears complete or not at all.

        Raises:
            StorageError: The folder exists and is not empty, or cannot be written.
        """
        folder = Path(checks.path(folder, "folder"))
        with new_folder(folder) as temporary:
            writer = writer_for(temporary, self.layout, self.architecture)
            first = self[slice(0, 1)]  # as it is in memory
            row_bytes = max(1, sum(c.element_size() * c[0].numel() for c in map(first._column, self._names)))
            for rows in blocks(len(self), max(1, _SHARD_BYTES // row_bytes)):
                writer.add(self._stored(rows), self.records[rows])
            writer.close()
            write_manifest(temporary)
        return folder

    def write_to(self, writer: ShardWriter) -> None:
        """Add all networks to a writer as one shard."""
        writer.add(self._stored(slice(None)), self.records)

    @classmethod
    def load(
        cls: type[C], folder: str | Path, *, factory: Callable[[], nn.Module] | None = None, verify: bool = True
    ) -> C:
        """Open a collection folder; tensors are read when asked for.

        Args:
            factory: Function that builds the network; needed for modules where the architecture is not built in.
            verify: Whether every file is compared with its checksum first.

        Raises:
            StorageError: The folder is absent, empty, unfinished, damaged or of another version.
            LayoutMismatch: The factory's network has another layout.
        """
        checks.given(factory, "factory", checks.function, what="that builds the network")
        folder, verify = Path(checks.path(folder, "folder")), checks.flag(verify, "verify")
        reader = ShardReader.open(folder, verify=verify)
        layout = Layout.from_json(reader.manifest["layout"])
        architecture = Architecture.from_json(reader.manifest["architecture"])
        reader.check_shapes(layout.size, {buffer.name: buffer.shape for buffer in layout.buffers})
        if factory is None:
            architecture.require(layout, f"{folder}/collection.json")
        else:
            architecture = Architecture.of(factory)
            layout.require_tensors(architecture.layout(), "the network of the given factory")
        loaded = object.__new__(cls)
        loaded.layout, loaded.architecture, loaded._reader = layout, architecture.following(layout), reader
        loaded._rows, loaded._columns = torch.arange(len(reader.records)), {}
        loaded._names, loaded.records = reader.columns, [Record(record) for record in reader.records]
        return loaded

    def fingerprint(self) -> str:
        """Identifies the content: from the checksums on disk, or from the tensors in memory."""
        digest = hashlib.sha256(repr(self._rows.tolist()).encode())
        if self._reader is not None:
            digest.update(dump_json(self._reader.manifest["shards"], "the manifest").encode())
        else:
            for name in self._names:
                digest.update(raw_bytes(self._columns[name]))
            digest.update(dump_json([record.to_json() for record in self.records], "the records").encode())
        return digest.hexdigest()[:16]

    def to_csv(self, path: str | Path) -> None:
        """Write the records as a table; nested entries become dotted columns."""
        checks.path(path, "path")
        write_records(Path(path), self.records)

    def _column(self, name: str) -> Tensor:
        if name not in self._columns:
            assert self._reader is not None
            packed = name == "weights"
            tensor = (
                self._reader.weights(self._rows, self.layout.size) if packed else self._reader.read(name, self._rows)
            )
            if name == "masks":
                tensor = unpack_bits(tensor, self.layout.size)
            self._columns[name] = self._checked(name, tensor)
        return self._columns[name]

    def _stored(self, rows: slice) -> dict[str, Tensor]:
        """Columns as they go to disk. Rows of a lazy collection are read here and not kept."""
        part = self[rows]
        for name, tensor in part._columns.items():
            part._checked(name, tensor)  # the caller's own tensors, who may have written to them
        columns = {name: part._column(name) for name in self._names}
        if "masks" in columns:
            columns |= pack_values(columns.pop("weights"), columns["masks"])
        return columns

    def _checked(self, name: str, tensor: Tensor) -> Tensor:
        kind, _, detail = name.partition(".")
        if kind == "buffer":
            entry = next((b for b in self.layout.buffers if b.name == detail), None)
            if entry is None:
                raise LayoutMismatch(f"the layout has no buffer {detail!r}")
            expected = (len(self), *entry.shape)
        else:
            expected = (len(self), self.layout.size)
        if not len(self) or tuple(tensor.shape) != expected:
            raise LayoutMismatch(
                f"{name} has shape {tuple(tensor.shape)}, expected {expected}: "
                "at least one network, and a row of the layout's size for each"
            )
        if kind in ("weights", "extra") and tensor.dtype != self.layout.dtype:
            raise InputError(
                f"{name} are {tensor.dtype}, the layout's parameters are {self.layout.dtype}: convert them with .to()"
            )
        if kind == "masks":
            check_masks(self._columns.get("weights"), tensor, self.layout)
        elif tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
            bad = (~tensor.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"{name} of network {bad[0]} holds NaN or infinite values (first: "
                f"{_tensor_name(self.layout, bad[1])}): "
                "leave diverged networks out, or train them with a lower learning rate"
            )
        return tensor.detach()


def _require_collection(value: object, name: str) -> Collection:
    return checks.instance(value, name, Collection, "a Collection")


def writer_for(folder: Path, layout: Layout, architecture: Architecture) -> ShardWriter:
    """A writer for networks of one layout; continues a folder that was left unfinished."""
    return ShardWriter(folder, {"layout": layout.to_json(), "architecture": architecture.to_json()})


def _tensor_name(layout: Layout, position: int) -> str:
    return next((name for name, at in layout.slices.items() if at.start <= position < at.stop), "a buffer")

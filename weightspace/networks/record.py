"""Record: what is known of one network, as it is written to `records.jsonl`."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from weightspace.errors import InputError
from weightspace.recipes.recipe import Recipe


class Extra:
    """Names of the further vectors that networks have in weight space (`Collection.extras`)."""

    REWIND: Final = "rewind"
    """Weights that a ticket is trained from."""
    STD: Final = "std"
    """Standard deviations of the weights, of a posterior."""
    GATE_LOGITS: Final = "gate logits"
    """Logits of the probability that a weight is kept."""
    PARENT: Final = "parent"
    """Weights of the dense network that a sparse one was pruned from."""
    TRAINED: Final = "trained"
    """One where a weight is trained, zero where it stays as it is."""


TASK_VECTOR: Final = "task vector"
"""Kind of records of changes from a base, and what samples of a generator of such say that they are `of`."""


class Record(Mapping[str, Any]):
    """An immutable JSON-like object that says how a network came about; one line of `records.jsonl`.

    It is used as a mapping (`record["seed"]`, `{**record}`), changed by making a new one (`record | {"index": 3}`), and
    read through its properties, which check what they return.

    Args:
        data: Keys and JSON-like values, in the order in which they are written.
    """

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        for key in data or ():
            if not isinstance(key, str):
                raise InputError(f"the keys of a record are texts, as in JSON, got {key!r}: write it as text")
        self._data = {key: dict(v) if isinstance(v, Record) else v for key, v in (data or {}).items()}

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"Record({self._data!r})"

    def __or__(self, other: Mapping[str, Any]) -> "Record":
        return Record({**self._data, **other}) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> "Record":
        return Record({**other, **self._data}) if isinstance(other, Mapping) else NotImplemented

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Record":
        """A record of any mapping; a record stays as it is."""
        return data if isinstance(data, Record) else cls(data)

    def to_json(self) -> dict[str, Any]:
        """The object that is written, with keys in their order."""
        return dict(self._data)

    def without(self, *keys: str) -> "Record":
        """The record without some of its keys."""
        return Record({key: value for key, value in self._data.items() if key not in keys})

    @property
    def seed(self) -> int:
        """Seed of initialisation, data order and all else that is drawn in training.

        Raises:
            InputError: The record has no seed, or it is not an integer.
        """
        if "seed" not in self._data:
            raise InputError(
                "a network has no seed in its record, so its initialisation and data order are not defined: "
                'give records a "seed", for example collection.replace(records=[{**r, "seed": i} ...])'
            )
        return self._integer("seed") or 0

    @property
    def index(self) -> int | None:
        """Position in the collection that it was made in."""
        return self._integer("index")

    @property
    def data(self) -> int | None:
        """Number of the network's own data, for a task in which each network has its own; by default its index."""
        number = self._integer("data")
        return self.index if number is None else number

    @property
    def collection_seed(self) -> int | None:
        """Seed of the collection that it was made in."""
        return self._integer("collection_seed")

    @property
    def step(self) -> int | None:
        """Iteration of the training run, for a network of a trajectory."""
        return self._integer("step")

    @property
    def kind(self) -> str | None:
        """How the network came about: the plan of its collection, "ticket", "sample", "imported", ..."""
        return self._checked("kind", str, "a word")

    @property
    def is_start(self) -> bool:
        """Whether training begins at the network's own weights: it was imported, or made a start by `starts`."""
        return self.kind in ("imported", "start")

    @property
    def from_start(self) -> bool:
        """Whether it is a start, or was made from one: its seed does not say where its training began.

        Records of what is made from a network keep the entries that say so: "start", or the imported "file".
        """
        return self.is_start or "start" in self._data or "file" in self._data

    @property
    def task(self) -> str | None:
        """Name of the task that it was trained on."""
        return self._checked("task", str, "a word")

    @property
    def recipe(self) -> Recipe | None:
        """Recipe of its training.

        Raises:
            StorageError: The recipe lacks a field, or has one of another type.
        """
        data = self._checked("recipe", Mapping, "an object")
        return None if data is None else Recipe.from_json(data)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Losses and accuracies on validation data by name; empty where nothing was measured."""
        return self._checked("metrics", Mapping, "an object") or {}

    @property
    def main_metric(self) -> tuple[str, bool]:
        """Name of the main metric in `metrics`, and whether more of it is better; the loss where there is no other."""
        stored = self._checked("main_metric", Mapping, "an object")
        if stored is not None:
            return str(stored["name"]), bool(stored["higher_is_better"])
        known = "validation_accuracy" in self.metrics
        return ("validation_accuracy", True) if known else ("validation_loss", False)

    @property
    def individual(self) -> Mapping[str, Any]:
        """Settings in which it departs from the recipe."""
        return self._checked("individual", Mapping, "an object") or {}

    @property
    def method(self) -> Mapping[str, Any] | None:
        """Name and settings of the finder, for a ticket."""
        return self._checked("method", Mapping, "an object")

    @property
    def density(self) -> float | None:
        """Fraction of the prunable weights that its mask keeps, for a ticket."""
        value = self._checked("density", (int, float), "a number")
        return None if value is None else float(value)

    @property
    def parent(self) -> int | Mapping[str, Any] | None:
        """Index of the network that it was made from, or the seed and step of a common ancestor."""
        value = self._data.get("parent")
        return value if isinstance(value, Mapping) else self._integer("parent")

    @property
    def aligned_to(self) -> str | None:
        """Fingerprint of the basin that it was aligned to; None if it was not aligned."""
        return self._checked("aligned", str, "a fingerprint")

    def _checked(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self._data.get(key)
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        raise InputError(f"the record of a network has {key} = {value!r}, expected {what}: correct it in the records")

    def _integer(self, key: str) -> int | None:
        value = self._checked(key, (int, np.integer), "an integer")
        return None if value is None else int(value)

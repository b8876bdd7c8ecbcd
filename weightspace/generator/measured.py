"""What was measured of a generator when it was fitted, in a file of its own: the generator is the same without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightspace.report.knowledge import FlowKnowledge
from weightspace.storage.files import dump_json, read_manifest, write_text
from weightspace.storage.manifests import add_to_manifest, check_one
from weightspace.storage.system_errors import exists
from weightspace.storage.typed import from_json, to_json

MEASURED = "measured.json"
_FORMAT, _VERSION = "weightspace.measured", 1
_KEYS = ("knowledge", "temperatures")


@dataclass(frozen=True)
class Temperature:
    """The temperature of an ensemble of samples, fitted on validation data; test data are not read.

    Args:
        pattern: Pattern of the samples, in words.
        density: Its density; None where it has no one.
        networks: Samples in the ensemble that it was fitted for.
        temperature: T; the ensemble's probabilities are raised to the power 1/T and divided by their sum.
        nll: Validation NLL before.
        nll_at: Validation NLL at T.
        ece: Validation ECE before, in 15 bins of equal width.
        ece_at: Validation ECE at T.
    """

    pattern: str
    density: float | None
    networks: int
    temperature: float
    nll: float
    nll_at: float
    ece: float
    ece_at: float


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Args:
        knowledge: What the flow knows beyond a Gaussian.
        temperatures: Temperatures of ensembles.
    """

    knowledge: FlowKnowledge | None = None
    temperatures: Sequence[Temperature] = ()


def write_measured(folder: Path, measured: Measured) -> None:
    """Write beside the generator; nothing where nothing was measured.

    Args:
        folder: Folder of the generator.
        measured: What was measured.
    """
    if measured == Measured():
        return
    content = {"format": _FORMAT, "version": _VERSION, **to_json(measured)}
    write_text(folder / MEASURED, dump_json(content, "what was measured", indent=1))
    add_to_manifest(folder, [MEASURED])


def read_measured(folder: Path) -> Measured:
    """What was measured of a generator; nothing in folders of before it was.

    Args:
        folder: Folder of the generator.

    Raises:
        StorageError: The file is damaged.
    """
    path = folder / MEASURED
    if not exists(path):
        return Measured()
    check_one(path)
    data = read_manifest(path, _FORMAT, _VERSION, _KEYS)
    return from_json(Measured, {name: data[name] for name in _KEYS}, str(path))

"""Whatever is saved is loaded as it was: the same results, and a folder that holds something else is never overwritten.

A new kind is a line in `KINDS`: what is saved, how it is loaded, and the tensors that must come back equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.align.fitted_matching import FittedMatching
from weightspace.errors import StorageError


@dataclass(frozen=True)
class Kind:
    """One kind of thing that is saved to a folder.

    Args:
        make: Makes one of tickets and a fitted generator.
        load: Reads a folder.
        tensors: What must be equal after loading.
    """

    make: Callable[[ws.Collection, ws.FittedGenerator], Any]
    load: Callable[[Path], Any]
    tensors: Callable[[Any, ws.Collection], list[Tensor]]


def of_collection(networks: ws.Collection) -> list[Tensor]:
    return [networks.weights, networks.masks, *networks.buffers.values(), *networks.extras.values()]


KINDS = {
    "collection": Kind(lambda tickets, _: tickets, ws.Collection.load, lambda one, _: of_collection(one)),
    "matching": Kind(
        lambda tickets, _: ws.WeightMatching().fit(tickets),
        FittedMatching.load,
        lambda one, tickets: of_collection(one.transform(tickets)),
    ),
    "generator": Kind(
        lambda _, generator: generator,
        ws.FittedGenerator.load,
        lambda one, tickets: [*of_collection(one.sample(2, density=0.2, seed=5)), one.encode(tickets)],
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def saved(kind: Kind, tickets: ws.Collection, generator: ws.FittedGenerator, tmp_path: Path) -> tuple[Any, Path]:
    one = kind.make(tickets, generator)
    folder = tmp_path / "saved"
    assert one.save(folder) == folder
    return one, folder


def test_what_is_loaded_is_what_was_saved(kind: Kind, saved: tuple[Any, Path], tickets: ws.Collection) -> None:
    one, folder = saved
    before, after = (kind.tensors(x, tickets) for x in (one, kind.load(folder)))
    assert len(before) == len(after)
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)


def test_a_second_save_writes_the_same_files(kind: Kind, saved: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = saved
    kind.load(folder).save(tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for path in files:
        assert (folder / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


def test_nothing_is_overwritten_and_other_folders_are_refused(
    kind: Kind, saved: tuple[Any, Path], tmp_path: Path
) -> None:
    one, folder = saved
    with pytest.raises(StorageError, match="not empty"):
        one.save(folder)
    with pytest.raises(StorageError):
        kind.load(tmp_path / "absent")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("notes")
    with pytest.raises(StorageError):
        kind.load(tmp_path / "other")


def test_a_damaged_file_is_an_error(kind: Kind, saved: tuple[Any, Path]) -> None:
    _, folder = saved
    (path,) = list(folder.glob("*.safetensors"))[:1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"damaged|checksum"):
        kind.load(folder)

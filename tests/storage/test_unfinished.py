"""What an unfinished run goes on from: a changed byte is seen, a half line is removed, readers see whole files."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.faults import Faults
from weightspace.errors import StorageError
from weightspace.networks.building import in_blocks
from weightspace.storage.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint
from weightspace.storage.checksums import check_sum, write_sum
from weightspace.storage.logs import append_line
from weightspace.storage.shards import ShardWriter
from weightspace.storage.tensors import load_tensors
from weightspace.training.engine import choose_execution

at = ws.Step.of


@pytest.fixture(scope="module")
def task() -> ws.Task:
    return replace(ws.tasks.iris(hidden=(4,)), recipe=ws.Recipe(at("2it"), 18, ws.SGD(lr=0.1)))


def test_a_changed_byte_of_a_checkpoint_is_seen(tmp_path: Path) -> None:
    state = {"weights": torch.arange(12.0), "losses": torch.ones(2)}
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state, 3)
    assert load_checkpoint(path, state, 5)[1] == 3  # the control
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(StorageError, match=r"c\.safetensors.*(delete|run again|restore)"):
            load_checkpoint(path, state, 5)


def test_a_fault_on_reading_a_checkpoint_is_not_its_damage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"weights": torch.ones(2)}, 1)
    for at_operation in range(1, 5):
        with (
            Faults(tmp_path, at_operation, errno.EIO, kind="read"),
            pytest.raises(StorageError, match="has a fault") as raised,
        ):
            read_checkpoint(tmp_path / "c", "this stage")
        assert "delete" not in str(raised.value)


def test_a_changed_choice_of_group_size_is_seen(task: ws.Task, tmp_path: Path) -> None:
    chosen = choose_execution(task, 3, folder=tmp_path)
    assert choose_execution(task, 3, folder=tmp_path) == chosen
    path = tmp_path / "engine.json"
    text = path.read_text()
    for changed in (text.replace("1", "2"), text[:-1], "", "[]", "null", '{"group": 10}'):
        path.write_text(changed)
        with pytest.raises(StorageError, match=r"engine\.json.*(restore|delete)"):
            choose_execution(task, 3, folder=tmp_path)
    (tmp_path / "engine.json.sha256").unlink()  # as in version 0.1
    with pytest.raises(StorageError, match=r"engine\.json is damaged"):
        choose_execution(task, 3, folder=tmp_path)
    path.write_text(text)
    with Faults(tmp_path, 3, errno.EIO, kind="read"), pytest.raises(StorageError, match="has a fault"):
        choose_execution(task, 3, folder=tmp_path)
    assert choose_execution(task, 3, folder=tmp_path) == chosen


@pytest.mark.parametrize(
    "left", ["", '{"loss": 1}\n', '{"loss": 1}\n{"lo', '{"lo', "x" * 200_000, "a\n" + "x" * 200_000]
)
def test_a_half_line_is_removed_before_the_next(left: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(left)
    append_line(path, "new")
    assert path.read_text() == left[: left.rfind("\n") + 1] + "new\n"


def test_readers_see_whole_shards_or_none(task: ws.Task, tmp_path: Path) -> None:
    networks = ws.collect(task, 3)
    folder, seen = tmp_path / "run", []

    def make(rows: slice, *_: object) -> ws.Collection:
        with pytest.raises(StorageError, match=r"not a collection|unfinished run") as raised:
            ws.Collection.load(folder)
        shards = sorted(folder.glob("*.safetensors"))
        seen.append((len(shards), "unfinished" in str(raised.value)))
        assert [len(load_tensors(path)["weights"]) for path in shards] == [1] * len(shards)
        return networks[rows]

    sizes = {"count": 3, "block": 1, "ticks": 1}
    options = {"what": "", "folder": folder, "stage": "collect", "config": {}}
    made = in_blocks(make, architecture=networks.architecture, **sizes, **options)
    assert seen == [(0, False), (1, True), (2, True)]
    assert torch.equal(made.weights, networks.weights)


def test_a_shard_that_is_half_there_is_never_taken(task: ws.Task, tmp_path: Path) -> None:
    networks = ws.collect(task, 2)
    header = {"layout": networks.layout.to_json(), "architecture": networks.architecture.to_json()}
    writer = ShardWriter(tmp_path / "z", header)
    writer.add({"weights": networks.weights}, networks.records)
    shard = tmp_path / "z" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(StorageError, match="delete it"):
        ShardWriter(tmp_path / "z", header)
    shard.unlink()
    assert len(ShardWriter(tmp_path / "z", header)) == 0


def test_a_pipe_in_the_place_of_a_checked_file_is_refused(tmp_path: Path) -> None:
    write_sum(tmp_path / "engine.json", "0" * 64)
    os.mkfifo(tmp_path / "engine.json")
    with pytest.raises(StorageError, match="is a named pipe, not a file"):
        check_sum(tmp_path / "engine.json", "restore it")

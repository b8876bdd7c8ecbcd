import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import weightspace as ws
from weightspace.errors import StorageError
from weightspace.storage.shards import ShardWriter, pack_bits, unpack_bits


@pytest.fixture
def folder(tmp_path: Path, tickets: ws.Collection) -> Path:
    return tickets.save(tmp_path / "tickets")


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 100))
def test_bit_packing_is_exact(size: int, rows: int, seed: int) -> None:
    mask = torch.rand(rows, size, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(unpack_bits(pack_bits(mask), size), mask)
    assert pack_bits(mask).shape == (rows, -(-size // 8))


def test_anyone_can_read_a_folder(folder: Path, tickets: ws.Collection) -> None:
    manifest = json.loads((folder / "collection.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["count"]) == (
        "weightspace.collection",
        2,
        len(tickets),
    )
    with safe_open(folder / manifest["shards"][0]["file"], "pt") as file:
        masks = unpack_bits(file.get_tensor("masks"), tickets.layout.size)
        weights = torch.zeros(masks.shape)
        weights[masks] = file.get_tensor("values")
    assert torch.equal(weights, tickets.weights)
    assert torch.equal(masks, tickets.masks)
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [record["seed"] for record in tickets.records]


@given(
    st.integers(1, 30), st.integers(1, 6), st.floats(0, 1), st.integers(0, 100), st.integers(0, 99), st.integers(0, 99)
)
def test_packed_weights_come_back_exactly(
    size: int, count: int, density: float, seed: int, start: int, stop: int
) -> None:
    """Networks with unequal numbers of weights, all rows, some rows in another order, and any columns."""
    random = torch.Generator().manual_seed(seed)
    architecture = ws.Architecture("MLP", {"sizes": [size, 3]})
    layout = architecture.layout()
    masks = (torch.rand(count, layout.size, generator=random) < density) | ~layout.prunable
    weights = torch.randn(count, layout.size, generator=random) * masks
    with tempfile.TemporaryDirectory() as place:
        ws.Collection(layout, weights, architecture=architecture, masks=masks).save(Path(place) / "c")
        loaded = ws.Collection.load(Path(place) / "c")
        assert torch.equal(loaded.weight_columns(slice(2, -2)), weights[:, 2:-2])
        assert torch.equal(loaded.weight_columns(slice(start, stop)), weights[:, start:stop])  # at any bit of a byte
        order = torch.randperm(count, generator=random)[: max(1, count - 1)]
        assert torch.equal(loaded[order].weights, weights[order])
        assert torch.equal(loaded.weights, weights)
        assert torch.equal(loaded.masks, masks)


def test_a_sparse_collection_takes_the_bytes_of_its_kept_weights(tmp_path: Path, dense: ws.Collection) -> None:
    masks = ws.Unstructured(0.1).mask(dense.weights.abs(), dense.layout)
    sparse = dense.replace(weights=dense.weights * masks, masks=masks)
    parts = {name: collection.save(tmp_path / name) for name, collection in (("s", sparse), ("d", dense))}
    sizes = {name: (folder / "shard-00000.safetensors").stat().st_size for name, folder in parts.items()}
    header = 4096 + 600 * len(dense)  # names, offsets and records
    assert sizes["s"] <= 4 * int(masks.sum()) + len(dense) * (dense.layout.size / 8 + 9) + header
    assert sizes["d"] >= 4 * dense.weights.numel()
    assert sizes["s"] < 0.6 * sizes["d"]


def test_the_first_format_is_still_read(tmp_path: Path, tickets: ws.Collection) -> None:
    """Dense weights beside the masks, as version 1 wrote them."""
    header = {"layout": tickets.layout.to_json(), "architecture": tickets.architecture.to_json()}
    writer = ShardWriter(tmp_path / "old", header)
    columns = {"weights": tickets.weights, "masks": pack_bits(tickets.masks)}
    columns |= {f"extra.{name}": extra for name, extra in tickets.extras.items()}
    writer.add(columns, tickets.records)
    writer.close()
    path = tmp_path / "old" / "collection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    old = ws.Collection.load(tmp_path / "old")
    assert torch.equal(old.weights, tickets.weights)
    assert torch.equal(old.masks, tickets.masks)
    assert torch.equal(old.weight_columns(slice(3, 9)), tickets.weights[:, 3:9])


def damage(path: Path, position: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_damaged_folder_is_refused_with_the_file_and_the_remedy(folder: Path) -> None:
    shard = folder / "shard-00000.safetensors"
    intact = shard.read_bytes()
    damage(shard)
    with pytest.raises(StorageError, match=r"shard-00000.*checksum.*restore"):
        ws.Collection.load(folder)
    shard.write_bytes(intact[:-100])
    with pytest.raises(StorageError, match=r"shard-00000.*truncated"):
        ws.Collection.load(folder, verify=False)
    shard.unlink()
    with pytest.raises(StorageError, match=r"shard-00000.*missing"):
        ws.Collection.load(folder)
    shard.write_bytes(intact)
    assert len(ws.Collection.load(folder)) == 10


def test_damaged_records_and_manifest_are_refused(folder: Path) -> None:
    damage(folder / "records.jsonl", 5)
    with pytest.raises(StorageError, match=r"records\.jsonl.*checksum"):
        ws.Collection.load(folder)
    (folder / "collection.json").write_text('{"format": "weightspace.coll')
    with pytest.raises(StorageError, match=r"collection\.json is damaged"):
        ws.Collection.load(folder)


def test_other_versions_and_formats_are_refused(folder: Path) -> None:
    path = folder / "collection.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(StorageError, match="format version 99, this weightspace reads version 2"):
        ws.Collection.load(folder)
    path.write_text(json.dumps(manifest | {"format": "else"}))
    with pytest.raises(StorageError, match="describes a 'else'"):
        ws.Collection.load(folder)


def test_absent_empty_and_unfinished_folders_say_what_they_are(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StorageError, match="not a folder"):
        ws.Collection.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="not a collection"):
        ws.Collection.load(tmp_path / "empty")
    (folder / "collection.json").unlink()
    with pytest.raises(StorageError, match="unfinished run: start it again"):
        ws.Collection.load(folder)


SCRIPT = """
import sys, torch
from dataclasses import replace
import weightspace as ws
from weightspace.training import engine
torch.set_num_threads(1)
engine._BLOCK = 2
task = ws.tasks.digits(hidden=(8,))
task = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=2)))
ws.collect(task, 12, seed=3, folder=sys.argv[1])
"""


def run_script(folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment, stderr=subprocess.DEVNULL)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, environment: dict[str, str]) -> None:
    whole, killed = run_script(tmp_path / "whole", environment), tmp_path / "killed"
    kills = 0
    for shards in (1, 4):  # kill -9 as soon as this many blocks are on disk
        process = run_script(killed, environment)
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and len(list(killed.glob("shard-*.safetensors"))) < shards
            and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        if not (killed / "collection.json").exists():
            with pytest.raises(StorageError, match="unfinished run"):
                ws.Collection.load(killed)
    assert kills >= 1
    assert run_script(killed, environment).wait() == 0
    assert whole.wait() == 0
    files = [p.name for p in (tmp_path / "whole").iterdir() if p.suffix in (".safetensors", ".json", ".jsonl", ".yaml")]
    assert len(files) == 7 + 6
    for name in set(files) - {"complete.json", "metrics.jsonl", "manifest.json"}:  # these hold the time
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(killed.glob("*.partial")) + list(killed.glob(".*.partial"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_gives_a_clear_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    from weightspace.storage.files import atomic_file

    target = tmp_path / "file"
    target.write_text("precious")
    with (
        pytest.raises(StorageError, match=r"could not write.*No space left.*untouched"),
        atomic_file(target) as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_text("x")
    assert target.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_gives_a_clear_error(
    tmp_path: Path, tickets: ws.Collection, task: ws.Task
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file.*folder|beside"):
        tickets.save(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="file"):
        ws.collect(task, 1, folder=tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "in the way"


LIMITED = """
import resource, sys
from weightspace.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(["collect", "--hidden", "30", "--n", "4", "--length", "1ep", "--out", sys.argv[2]]))
"""


def test_a_run_that_cannot_write_its_networks_says_so_and_continues_later(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    def run(limit: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", LIMITED, str(limit), str(tmp_path / "zoo")]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    full = run(20_000)  # enough for the configuration, too little for four networks of 2,260 weights
    assert full.returncode == 1
    assert "could not write" in full.stderr
    assert "File too large. Files already in the folder are untouched. Raise the limit" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "zoo").glob("shard-*"))
    assert run(10_000_000).returncode == 0
    assert len(ws.Collection.load(tmp_path / "zoo")) == 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_read_only_place_gives_a_clear_error(task: ws.Task, tickets: ws.Collection) -> None:
    for write in (lambda: tickets.save("/proc/zoo"), lambda: ws.collect(task, 1, folder="/proc/zoo")):
        with pytest.raises(StorageError, match=r"could not (create|write)"):
            write()

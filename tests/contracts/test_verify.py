"""Every file of a finished folder counts: a change to any of them is seen, on loading or by `show --verify`.

A new kind of folder is a line in `KINDS`: how it is made, how it is loaded, and which files it has.
"""

import json
import lzma
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import weightspace as ws
from weightspace.bayes.study.results import StudyResult
from weightspace.cli.main import main
from weightspace.errors import StorageError
from weightspace.networks.building import in_blocks
from weightspace.report.page import Picture
from weightspace.storage import manifests
from weightspace.storage.manifests import verify
from weightspace.tickets import GradualPruning

OLD = Path(__file__).parents[1] / "compat" / "v0_1" / "done"
at = ws.Step.of
base = ws.tasks.iris(hidden=(8,))
task = replace(base, recipe=ws.Recipe(at("2it"), 18, ws.SGD(lr=0.1)))
stages = ws.TicketGenerator(None, ws.PCA(1), ws.FlowMatching(width=4, blocks=1, steps=2, batch_size=4))
RUN = ("config.yaml", "complete.json")
FIGURES = ("report.html", "accuracy.png", "accuracy.svg")
PARTS = ("collection.json", "records.jsonl", "shard-00000.safetensors")


def networks(folder: Path) -> None:
    ws.collect(task, 3, seed=0, folder=folder)


def saved(folder: Path) -> None:
    GradualPruning(density=0.5, length=at("2it"), every=1).find(ws.collect(task, 3, seed=0), task).save(folder)


def generator(folder: Path) -> None:
    stages.fit(GradualPruning(density=0.5, length=at("2it"), every=1).find(ws.collect(task, 3), task), folder=folder)


def report(folder: Path) -> None:
    packed = OLD / "evaluate" / "report.json.xz"
    (folder.parent / "old.json").write_bytes(lzma.decompress(packed.read_bytes()))
    with pytest.MonkeyPatch.context() as patch:  # all figures take seconds
        patch.setattr(ws.Report, "plot", lambda _: [Picture("accuracy", "of nothing", Figure())])
        ws.Report.load(folder.parent / "old.json").write(folder)


def study(folder: Path) -> None:
    StudyResult("digits", 10, []).save(folder)


@dataclass(frozen=True)
class Kind:
    """One kind of folder.

    Args:
        make: Writes one.
        load: Reads one, and all that counts in it.
        files: Its files whose change `load` must see.
        others: Further files, whose change `verify` must see.
    """

    make: Callable[[Path], None]
    load: Callable[[Path], object]
    files: tuple[str, ...]
    others: tuple[str, ...] = ()


KINDS = {
    "collection": Kind(networks, ws.Collection.load, (*RUN, *PARTS, "engine.json", "metrics.jsonl")),
    "saved": Kind(saved, ws.Collection.load, PARTS),
    "generator": Kind(generator, ws.FittedGenerator.load, (*RUN, "generator.json", "generator.safetensors")),
    "report": Kind(report, lambda f: ws.Report.load(f / "report.json"), ("report.json",), FIGURES),
    "study": Kind(study, StudyResult.load, ("study.json",), ("rows.csv", "overlaps.csv")),
}
CASES = [pytest.param(k, f, id=f"{k}-{f}") for k, kind in KINDS.items() for f in kind.files + kind.others]
MANIFESTS = [pytest.param(kind, "manifest.json", id=f"{kind}-manifest.json") for kind in KINDS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("kinds")

    def make(name: str) -> Path:
        if not (root / name).exists():
            KINDS[name].make(root / name)
        return root / name

    return make


@pytest.fixture
def folder(request: pytest.FixtureRequest, made: Callable[[str], Path], tmp_path: Path) -> Path:
    shutil.copytree(made(request.getfixturevalue("kind")), tmp_path / "f")
    return tmp_path / "f"


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_folder_passes(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS[kind].load(folder)
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert set(KINDS[kind].files + KINDS[kind].others) <= names
    assert set(json.loads((folder / "manifest.json").read_text())["files"]) == names - {"manifest.json"}
    assert not verify(folder).unknown
    assert main(["show", str(folder), "--verify"]) == 0
    assert f"{len(names) - 1} files" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "name"), CASES + MANIFESTS)
def test_one_changed_bit_is_seen(kind: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (folder / name).read_bytes()
    for position in {0, len(data) // 3, len(data) // 2, len(data) - 2}:
        (folder / name).write_bytes(flipped(data, position))
        if name in KINDS[kind].files:
            with pytest.raises(StorageError, match="restore"):
                KINDS[kind].load(folder)
        with pytest.raises(StorageError, match="manifest" if name == "manifest.json" else name):
            verify(folder)
    assert main(["show", str(folder), "--verify"]) == 1
    assert "restore" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_missing_file_is_an_error(kind: str, name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(StorageError, match=rf"{name} is missing.*restore"):
        verify(folder)


@pytest.mark.parametrize("kind", ["collection"])
def test_other_files_are_mentioned_and_no_error(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").write_text("mine")
    KINDS[kind].load(folder)
    assert [path.name for path in verify(folder).unknown] == ["notes.txt"]
    assert main(["show", str(folder), "--verify"]) == 0
    assert "notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["collection"])
def test_a_folder_of_version_0_1_has_no_manifest_and_is_read(kind: str, folder: Path, capsys) -> None:
    (folder / "manifest.json").unlink()
    KINDS[kind].load(folder)
    assert verify(folder).without == [folder]
    assert main(["show", str(folder), "--verify"]) == 0
    assert "without manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda files: {f"../{name}": one for name, one in files.items()},
        lambda files: {f"C:\\{name}": one for name, one in files.items()},
        lambda files: {name: {"bytes": one["bytes"], "sha250": one["sha256"]} for name, one in files.items()},
        lambda files: {name: one | {"bytes": "7"} for name, one in files.items()},
        lambda files: dict.fromkeys(files),
        lambda files: list(files),
        lambda files: {},
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_error(kind: str, folder: Path, change: Callable[..., object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"files": change(data["files"])}))
    if change(data["files"]) == {} and kind in ("report", "study"):
        return  # the file is not listed: it is one of somebody else's
    with pytest.raises(StorageError):
        KINDS[kind].load(folder)


OF_0_1 = {
    "masks are marks": ("saved", lambda m: m | {"columns": ["kept", "marks", "values"]}),
    "no columns": ("saved", lambda m: m | {"columns": []}),
    "dense": ("saved", lambda m: m | {"columns": ["weights"]}),
    "columns are a number": ("saved", lambda m: m | {"columns": 3}),
    "sha250": ("saved", lambda m: m | {"shards": [{k.replace("6", "0"): v for k, v in m["shards"][0].items()}]}),
    "shards are missing": ("saved", lambda m: m | {"shards": []}),
    "a shard elsewhere": ("saved", lambda m: m | {"shards": [m["shards"][0] | {"file": "../x.safetensors"}]}),
    "a count is text": ("saved", lambda m: m | {"shards": [m["shards"][0] | {"count": "3"}]}),
    "another count": ("saved", lambda m: m | {"shards": [m["shards"][0] | {"count": 2}], "count": 2}),
    "a negative count": ("saved", lambda m: m | {"shards": [m["shards"][0] | {"count": -3}], "count": -3}),
    "records are none": ("saved", lambda m: m | {"records": None}),
    "records without a size": ("saved", lambda m: m | {"records": {"sha256": m["records"]["sha256"]}}),
    "a negative shape": ("saved", lambda m: m | {"layout": with_shape(m["layout"], [-8, 4])}),
    "a huge shape": ("saved", lambda m: m | {"layout": with_shape(m["layout"], [10**12, 10**12])}),
    "a shape of text": ("saved", lambda m: m | {"layout": with_shape(m["layout"], ["8", 4])}),
    "another shape": ("saved", lambda m: m | {"layout": with_shape(m["layout"], [8, 5])}),
    "no layout": ("saved", lambda m: m | {"layout": {}}),
    "a layout of lists": ("saved", lambda m: m | {"layout": [1, [2]]}),
    "another network": ("saved", lambda m: m | {"architecture": mlp([4, 9, 3])}),
    "a huge network": ("saved", lambda m: m | {"architecture": mlp([4, 10**12, 3])}),
    "a network of text": ("saved", lambda m: m | {"architecture": mlp("x")}),
    "an architecture of text": ("saved", lambda m: m | {"architecture": "MLP"}),
}  # fmt: skip


def mlp(sizes: object) -> dict[str, object]:
    return {"name": "MLP", "arguments": {"sizes": sizes}}


def with_shape(layout: dict, shape: list) -> dict:
    name, _, *rest = layout["entries"][0]
    return layout | {"entries": [[name, shape, *rest], *layout["entries"][1:]]}


@pytest.mark.parametrize(("kind", "change"), OF_0_1.values(), ids=OF_0_1)
def test_without_a_manifest_the_folder_is_still_compared_with_itself(
    kind: str, change: Callable[..., object], folder: Path
) -> None:
    (folder / "manifest.json").unlink()
    path = folder / "collection.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StorageError, match="restore"):
        KINDS[kind].load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 10, "3", "null", '{"a": NaN}', "\0", "1e999", b"\xff\xfe"])
@pytest.mark.parametrize(("kind", "name"), [("saved", "collection.json"), ("saved", "records.jsonl")])
def test_text_that_is_no_json_of_ours(kind: str, name: str, folder: Path, text: str | bytes) -> None:
    (folder / "manifest.json").unlink()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StorageError):
        KINDS[kind].load(folder)


def test_shards_in_another_order_are_seen(tmp_path: Path) -> None:
    networks = ws.collect(task, 4, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weightspace.networks.collection._SHARD_BYTES", 4 * networks.layout.size * 2)
        networks.save(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    path = tmp_path / "c" / "collection.json"
    data = json.loads(path.read_text())
    assert len(data["shards"]) == 2
    path.write_text(json.dumps(data | {"shards": data["shards"][::-1]}))
    with pytest.raises(StorageError, match="order of the records"):
        ws.Collection.load(tmp_path / "c")
    for a, b in ((0, 1), (1, 0)):  # the files swapped too, so that names and checksums agree
        (tmp_path / "c" / f"shard-0000{a}.safetensors").rename(tmp_path / "c" / f"{b}")
    for i in (0, 1):
        (tmp_path / "c" / f"{i}").rename(tmp_path / "c" / f"shard-0000{i}.safetensors")
    swapped = [one | {"file": f"shard-0000{i}.safetensors"} for i, one in enumerate(data["shards"][::-1])]
    path.write_text(json.dumps(data | {"shards": swapped}))
    with pytest.raises(StorageError, match=r"other records than records\.jsonl"):
        ws.Collection.load(tmp_path / "c")


def test_an_unfinished_run_does_not_go_on_from_a_changed_shard(tmp_path: Path) -> None:
    networks = ws.collect(task, 3, seed=0)

    def run(folder: Path, until: int = 3) -> ws.Collection:
        def make(rows: slice, *_: object) -> ws.Collection:
            if rows.stop > until:
                raise KeyboardInterrupt
            return networks[rows]

        sizes = {"count": 3, "block": 1, "ticks": 1}
        options = {"what": "", "folder": folder, "stage": "collect", "config": {}}
        return in_blocks(make, architecture=networks.architecture, **sizes, **options)

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, until=2)
    shard = folder / "shard-00000.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(flipped(data, len(data) - 2))
    with pytest.raises(StorageError, match=r"shard-00000.*delete it and the shards after it.*anew"):
        run(folder)
    assert main(["show", str(folder), "--verify"]) == 1
    (folder / "engine.json").write_text("{}")
    (folder / "engine.json.sha256").write_text(f"{'0' * 64}  engine.json\n")
    with pytest.raises(StorageError, match=r"engine\.json was changed.*start anew"):
        run(folder)
    (folder / "engine.json").unlink()  # what it left is removed too
    for path in folder.glob("shard-*.safetensors"):  # the remedy
        path.unlink()
    assert torch.equal(run(folder).weights, networks.weights)
    assert not list(folder.glob("*.sha256"))
    assert not verify(folder).unknown
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    run(folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_checkpoints_of_a_fit_are_not_in_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightspace.flow.flow_matching._CHECKPOINT_EVERY", 1)
    kept: list[str] = []
    written = manifests.write_manifest
    monkeypatch.setattr(
        "weightspace.storage.runs.write_manifest",
        lambda folder, *rest: (kept.extend(path.name for path in folder.iterdir()), written(folder, *rest)),
    )
    generator(tmp_path / "g")
    assert "flow.checkpoint.safetensors" in kept  # the control: it was there when the manifest was written
    assert verify(tmp_path / "g").files == 5  # metrics.jsonl among them

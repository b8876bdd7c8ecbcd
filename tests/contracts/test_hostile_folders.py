"""A folder from anywhere is read or refused: every value of every JSON of ours is replaced by every hostile one.

What comes back is an error of ours or something that works; it takes neither memory nor time. There is no manifest
here: whoever changes a file can change that too.
"""

import copy
import json
import lzma
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from weightspace.align.fitted_matching import FittedMatching
from weightspace.bayes.study.results import MethodOverlap, StudyResult
from weightspace.compress import FittedPCA
from weightspace.errors import InputError, StorageError
from weightspace.flow import FittedFlow
from weightspace.networks.checkpoint_files import NetworkFile
from weightspace.storage.reading import plain_name
from weightspace.storage.tensors import load_tensors
from weightspace.storage.yaml_text import parse_yaml
from weightspace.tickets import GradualPruning

OLD = Path(__file__).parents[1] / "compat" / "v0_1" / "done" / "evaluate" / "report.json.xz"
at = ws.Step.of
LACKING = object()
VALUES = [10**12, 10**400, -1, 1e308, "x", None, [], {}, True, LACKING]


def loaded(folder: Path) -> object:
    return ws.FittedGenerator.load(folder).flow.velocity()


def aligned(folder: Path) -> object:
    matching = FittedMatching.load(folder)
    return matching.symmetry.coverage, str(matching)


def used(folder: Path) -> object:
    networks = ws.Collection.load(folder)
    return networks.weights, networks.masks, networks[0].module()


LOADS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "generator": ("generator.json", loaded),
    "collection": ("collection.json", used),
    "matching": ("matching.json", aligned),
    "pca": ("pca.json", lambda f: FittedPCA.load(f).explained_variance_ratio),
    "flow": ("flow.json", lambda f: FittedFlow.load(f).sample(1)),
    "study": ("study.json", StudyResult.load),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    base = ws.tasks.iris(hidden=(4,))
    task = ws.Task(**{**vars(base), "recipe": ws.Recipe(at("2it"), 18, ws.SGD(lr=0.1))})
    tickets = GradualPruning(density=0.5, length=at("2it"), every=1).find(ws.collect(task, 3), task)
    flow = ws.FlowMatching(width=4, blocks=1, steps=2, batch_size=4, solver_steps=2)
    model = ws.TicketGenerator(compress=ws.PCA(1), generate=flow).fit(tickets)
    tickets.save(root / "collection")
    model.save(root / "generator")
    assert model.align is not None
    model.align.save(root / "matching")
    assert model.compress is not None
    model.compress.save(root / "pca")
    model.flow.save(root / "flow")
    StudyResult("digits", 10, [], [MethodOverlap("a", "b", 0.5)]).save(root / "study")
    for manifest in root.rglob("manifest.json"):
        manifest.unlink()
    return root


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are in JSON data; of long lists the first one."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data[:1]) if isinstance(data, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    if value is LACKING:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return changed


@pytest.mark.parametrize("kind", LOADS)
def test_every_value_may_be_anything(kind: str, folders: Path, tmp_path: Path) -> None:
    name, load = LOADS[kind]
    shutil.copytree(folders / kind, tmp_path / "f")
    path = tmp_path / "f" / name
    data = json.loads(path.read_text())
    load(tmp_path / "f")  # the control: as it is, it works
    wrong: list[str] = []
    refused = 0
    for i, place in enumerate(places(data)):
        for value in VALUES[i % 4 :: 4]:  # each place has its share of them
            path.write_text(json.dumps(replaced(data, place, value)))
            start = time.perf_counter()
            try:
                load(tmp_path / "f")
            except InputError:
                refused += 1
            except Exception as error:
                wrong.append(f"{place} = {value!s:.20}: {error!r:.150}")
            if time.perf_counter() - start > 5:
                wrong.append(f"{place} = {value!s:.20} took long")
    assert not wrong, "\n".join(wrong[:40])
    assert refused > len(list(places(data))) // 2


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["width", "blocks"])
def test_sizes_of_a_flow_are_those_of_its_weights(name: str, value: object, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "generator", tmp_path / "f")
    path = tmp_path / "f" / "generator.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(replaced(data, ("flow", "config", name), value)))
    with pytest.raises(StorageError, match="restore"):
        ws.FittedGenerator.load(tmp_path / "f")


def test_a_report_may_say_anything(tmp_path: Path) -> None:
    data = json.loads(lzma.decompress(OLD.read_bytes()))
    wrong: list[str] = []
    path = tmp_path / "report.json"
    for i, place in enumerate(list(places(data))[::41]):
        for value in ((10**400, "x"), (None, []), (LACKING,))[i % 3]:
            path.write_text(json.dumps(replaced(data, place, value)))
            try:
                ws.Report.load(path)
            except InputError:
                continue
            except Exception as error:
                wrong.append(f"{place} = {value!s:.20}: {error!r:.150}")
    assert not wrong, "\n".join(wrong[:40])


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..\\x", "C:x", "a/b", "", ".", "..", "x\0", None, 3, ["x"]])
def test_names_lead_nowhere_else(name: object) -> None:
    with pytest.raises(StorageError, match="nowhere else"):
        plain_name(name, "collection.json")
    assert plain_name("shard-00000.safetensors", "collection.json") == "shard-00000.safetensors"


def test_tensors_are_files_of_their_size(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file({"a": torch.ones(3)}, good)
    assert load_tensors(good)["a"].sum() == 3
    long, short, pipe = (tmp_path / f"{name}.safetensors" for name in ("long", "short", "pipe"))
    long.write_bytes((10**12).to_bytes(8, "little") + good.read_bytes()[8:])
    short.write_bytes(b"abc")
    os.mkfifo(pipe)
    for path, why in ((long, "header of 1,000,000,000,000 bytes"), (short, "header"), (pipe, "named pipe")):
        with pytest.raises(StorageError, match=why):
            load_tensors(path)
    for path, why in ((pipe, "named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(StorageError, match=why):
            load_tensors(path)
    for odd in ("a\0b", "n" * 300):
        with pytest.raises(StorageError, match=r"could not read.*(another|shorter) name"):
            load_tensors(tmp_path / odd)


def test_a_pipe_in_a_folder_is_not_waited_for(folders: Path, tmp_path: Path) -> None:
    for kind, (name, load) in LOADS.items():
        for one in [name, *(path.name for path in (folders / kind).glob("*.safetensors"))]:
            shutil.rmtree(tmp_path / "f", ignore_errors=True)
            shutil.copytree(folders / kind, tmp_path / "f")
            (tmp_path / "f" / one).unlink()
            os.mkfifo(tmp_path / "f" / one)
            with pytest.raises(StorageError, match="named pipe"):
                load(tmp_path / "f")


def test_an_archive_is_not_inflated(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pt")
    assert NetworkFile(tmp_path / "good.pt", "good").read()
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(2**25))
    with pytest.raises(StorageError, match=r"33,554,432 in memory"):
        NetworkFile(tmp_path / "bomb.pt", "bomb").read()


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "[" * 100_000, "{a: " * 100_000, "a: &a [*a]", "a: 2024-13-45", "9" * 5000,
     "!!python/object/apply:os.getcwd []", "\0", "a: b: c", "? [a]\n: b"],
)  # fmt: skip
def test_yaml_is_bounded(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weightspace.cli.main import main

    with pytest.raises(InputError):
        parse_yaml(text, "--config")
    (tmp_path / "c.yaml").write_text(text)
    assert main(["collect", "--config", str(tmp_path / "c.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert parse_yaml("a: &a [1, 2]\nb: *a", "--config") == {"a": [1, 2], "b": [1, 2]}

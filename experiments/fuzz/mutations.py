"""Is every change to a file on disk seen, or without effect?

    python -m experiments.fuzz.mutations --tries 200 --seed 0
    python -m experiments.fuzz.mutations --seed 0 --only 17

One file of a folder is changed at random: a bit, a byte, a key or value of its JSON, its length, its name,
its kind. The
folder is then loaded, and checked by `weightspace show --verify`; an unfinished run goes on. Another content without an
error is the one thing that must not be. To add a kind of folder, write how it is loaded into KINDS.
"""

import copy
import dataclasses
import hashlib
import json
import os
import random
import shlex
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml

import weightspace as ws
from experiments.fuzz import alone, kills, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings, Hang, has_remedy, run_main, watchdog
from weightspace.align import FittedMatching
from weightspace.bayes.study.results import StudyResult
from weightspace.cli.main import main as command_line
from weightspace.cli.main import parse
from weightspace.compress import FittedPCA
from weightspace.errors import InputError
from weightspace.flow import FittedFlow
from weightspace.sparse import load_ticket

OUTCOMES = ["seen", "harmless", "unprotected", "silent", "traceback", "hang", "no remedy"]


def digest(value: Any) -> str:
    """A checksum of everything that an object holds: tensors, numbers, texts, fields."""
    found = hashlib.sha256()
    _feed(found.update, value)
    return found.hexdigest()


def _feed(feed: Callable[[bytes], object], value: Any) -> None:
    if isinstance(value, ws.Collection):
        _feed(feed, [value.layout.to_json(), value.architecture.to_json(), value.weights, value.masks, value.buffers])
        _feed(feed, [value.extras, [record.to_json() for record in value.records]])
    elif isinstance(value, torch.Tensor):
        feed(f"{value.dtype} {tuple(value.shape)}".encode() + value.detach().contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        _feed(feed, [(repr(key), one) for key, one in value.items()])
    elif isinstance(value, str | bytes | int | float | bool | None):
        feed(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Sequence):
        feed(f"[{len(value)}".encode())
        for one in value:
            _feed(feed, one)
    elif dataclasses.is_dataclass(value):
        feed(type(value).__name__.encode())
        _feed(feed, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    else:
        _feed(feed, [type(value).__name__, vars(value) if hasattr(value, "__dict__") else repr(value)])


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Args:
        folder: Where it is in the world.
        load: Reads it, and returns all that it holds.
        manifest: Whether a manifest protects it, so that no change may pass.
        verify: Whether `show --verify` is asked too.
    """

    folder: str
    load: Callable[[Path], object]
    manifest: bool = True
    verify: bool = True


def _resumed(words: str) -> Callable[[Path], object]:
    def load(folder: Path) -> object:
        found = run_main(command_line, [*shlex.split(words), "--out", str(folder)], interrupt=30.0)
        if found.how == "refused":
            raise InputError(found.text)
        if found.how != "done":
            raise RuntimeError(f"{found.how}: {found.text}")
        files = kills.contents(folder)
        files.pop("engine.json", None)  # of the run, not of its result
        return files | {"config.yaml": yaml.safe_load(files["config.yaml"])}  # spaces mean nothing there

    return load


def _ticket(folder: Path) -> object:
    network = load_ticket(folder / "ticket.safetensors")
    return (
        network.layout.to_json(),
        network.architecture.to_json(),
        network.weights,
        network.mask,
        network.record.to_json(),
    )


def _states(folder: Path) -> object:
    return ws.from_state_dicts(folder, ws.Architecture("MLP", {"sizes": [4, 4, 3]}))


def _config(folder: Path) -> object:
    path = folder / "set.yaml"
    found = run_main(lambda words: print(parse("collect", words)) or 0, ["collect", "--out", "x"])
    assert found.how == "done"
    ended = run_main(command_line, ["show", "nowhere", "--config", str(path)], interrupt=30.0)
    if ended.how == "refused":
        raise InputError(ended.text)
    if ended.how != "wrong line":
        raise RuntimeError(f"{ended.how}: {ended.text}")
    return None


UNFINISHED: Mapping[str, str] = {
    "unfinished collect": kills.VERBS["collect"],
    "unfinished tickets": kills.VERBS["tickets imp"],
    "unfinished fit": kills.VERBS["fit --refine"],
}
"""Runs that are killed in the middle of their file operations."""

KINDS: Mapping[str, Kind] = {
    "collection": Kind("dense", ws.Collection.load),
    "tickets": Kind("tickets", ws.Collection.load),
    "saved collection": Kind("saved", ws.Collection.load),
    "aligned collection": Kind("aligned", ws.Collection.load),
    "matching": Kind("matching", FittedMatching.load),
    "compression": Kind("pca", FittedPCA.load),
    "flow": Kind("flow", FittedFlow.load),
    "generator": Kind("generator", ws.FittedGenerator.load),
    "samples": Kind("samples", ws.Collection.load),
    "report": Kind("report", lambda folder: ws.Report.load(folder / "report.json").to_json()),
    "study": Kind("study", StudyResult.load),
    **{name: Kind(name, _resumed(words), manifest=False) for name, words in UNFINISHED.items()},
    "ticket file": Kind("one ticket", _ticket, manifest=False, verify=False),
    "state dicts": Kind("states", _states, manifest=False, verify=False),
    "configuration": Kind("settings", _config, manifest=False, verify=False),
}
"""Every kind of folder. Files that the library did not write (state dicts, configurations) have no checksum."""

OTHERS: Mapping[str, str] = {"collection": "others", "tickets": "saved", "saved collection": "aligned"}
"""Folders of other networks of the same layout, whose files are put in the place of these."""

VALUES: list[Any] = [10**12, -1, 0, 1, 2.5, 1e308, "x", "", None, True, [], {}, [1], {"a": 1}, "../x", "\0", "n" * 300]


def changed(path: Path, other: Path | None, random_: random.Random) -> str:
    """Change a file at random and say how."""
    data = path.read_bytes()
    ways: list[Callable[[], str]] = [
        lambda: _flip(path, data, random_), lambda: _flip(path, data, random_), lambda: _set(path, data, random_),
        lambda: _cut(path, data, random_), lambda: _longer(path, data, random_), lambda: _emptied(path),
        lambda: _missing(path), lambda: _other_kind(path, random_), lambda: _swapped(path, random_),
        lambda: _lines(path, data, random_),
    ]  # fmt: skip
    if path.suffix in (".json", ".jsonl"):
        ways += [lambda: _json(path, data, random_)] * len(ways)
    if path.suffix in (".yaml", ".csv", ".html", ".svg", ".sha256", ".jsonl"):
        ways += [lambda: _character(path, data, random_)] * 4
    if other is not None and other.exists() and other.read_bytes() != data:
        ways += [lambda: _replaced(path, other)] * 3
    return random_.choice(ways)()


def _flip(path: Path, data: bytes, random_: random.Random) -> str:
    at, bit = random_.randrange(max(1, len(data))), random_.randrange(8)
    path.write_bytes(data[:at] + bytes([b ^ (1 << bit) for b in data[at : at + 1]]) + data[at + 1 :])
    return f"bit {bit} of byte {at}"


def _set(path: Path, data: bytes, random_: random.Random) -> str:
    at, new = random_.randrange(max(1, len(data))), random_.choice([b"\0", b"\xff", b"9", b"{", b" ", b"\n"])
    path.write_bytes(data[:at] + new + data[at + 1 :])
    return f"byte {at} to {new!r}"


def _cut(path: Path, data: bytes, random_: random.Random) -> str:
    at = random_.randrange(max(1, len(data)))
    path.write_bytes(data[:at])
    return f"cut to {at} bytes"


def _longer(path: Path, data: bytes, random_: random.Random) -> str:
    more = random_.choice([b"\0", b"\n", b" ", b"{}", data, bytes(1000)])
    path.write_bytes(data + more)
    return f"{len(more)} bytes more"


def _emptied(path: Path) -> str:
    path.write_bytes(b"")
    return "emptied"


def _missing(path: Path) -> str:
    path.unlink()
    return "removed"


def _other_kind(path: Path, random_: random.Random) -> str:
    path.unlink()
    kind = random_.choice(["folder", "pipe", "link to itself", "link to nothing", "device"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link to itself": path, "link to nothing": path.with_name("no"), "device": "/dev/zero"}[kind])
    return f"a {kind} in its place"


def _swapped(path: Path, random_: random.Random) -> str:
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path and not p.name.startswith(".lock"))
    if not others:
        return _emptied(path)
    other = random_.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"swapped with {other.name}"


def _lines(path: Path, data: bytes, random_: random.Random) -> str:
    lines = data.splitlines(keepends=True)
    way = random_.choice(["twice", "without", "reversed"])
    at = random_.randrange(max(1, len(lines)))
    new = {"twice": lines[: at + 1] + lines[at:], "without": lines[:at] + lines[at + 1 :], "reversed": lines[::-1]}[way]
    path.write_bytes(b"".join(new))
    return f"line {at} {way}"


def _character(path: Path, data: bytes, random_: random.Random) -> str:
    """A digit or letter changed into another."""
    places = [i for i, byte in enumerate(data) if chr(byte).isalnum() and byte < 128]
    if not places:
        return _emptied(path)
    at = random_.choice(places)
    new = random_.choice("0123456789").encode() if chr(data[at]).isdigit() else random_.choice("abcxyz").encode()
    path.write_bytes(data[:at] + new + data[at + 1 :])
    return f"character {at} from {data[at : at + 1]!r} to {new!r}"


def _replaced(path: Path, other: Path) -> str:
    path.write_bytes(other.read_bytes())
    return f"that of {other.parent.name} in its place"


def _json(path: Path, data: bytes, random_: random.Random) -> str:
    """A key or a value of JSON changed, and the rest written as it was."""
    if path.suffix == ".jsonl":
        lines = data.decode().splitlines()
        if not lines:
            return _longer(path, data, random_)
        at = random_.randrange(len(lines))
        changed_line, how = edited(json.loads(lines[at]), random_)
        lines[at] = json.dumps(changed_line)
        path.write_text("\n".join(lines) + "\n")
        return f"line {at}: {how}"
    value, how = edited(json.loads(data), random_)
    path.write_text(json.dumps(value, indent=1 if b"\n" in data.strip() else None))
    return how


def edited(data: Any, random_: random.Random) -> tuple[Any, str]:
    """JSON data with one key or value changed, and what was changed."""
    data = copy.deepcopy(data)
    inside_, place = data, []
    while isinstance(inside_, dict | list) and inside_:
        key = random_.choice(list(inside_) if isinstance(inside_, dict) else range(len(inside_)))
        place.append(key)
        if not isinstance(inside_[key], dict | list) or not inside_[key] or random_.random() < 0.25:
            break
        inside_ = inside_[key]
    if not place:
        return random_.choice(VALUES), "all of it"
    key = place[-1]
    old = inside_[key]
    match random_.randrange(5):
        case 0 if isinstance(inside_, dict):
            letter = random_.randrange(len(key) or 1)
            new_key = key[:letter] + random_.choice("abc05_") + key[letter + 1 :]
            changed_ = {new_key if k == key else k: v for k, v in inside_.items()}
            inside_.clear()
            inside_.update(changed_)
            return data, f"{place} renamed to {new_key!r}"
        case 1:
            del inside_[key]
            return data, f"{place} removed"
        case 2 if isinstance(old, int | float) and not isinstance(old, bool):
            inside_[key] = random_.choice([old + 1, -old, old * 1.0000001, old / 2, str(old)])
        case 3 if isinstance(old, list):
            inside_[key] = old[::-1]
        case _:
            inside_[key] = random_.choice(VALUES)
    return data, f"{place} from {old!r:.40} to {inside_[key]!r:.40}"


def prepare(place: world.World) -> None:
    """Add what only this part needs: unfinished runs, and folders with one file."""
    with inside(place.root), world.cheap():
        for name, words in UNFINISHED.items():
            job = kills.job(shlex.split(words), name)
            whole = kills.forked(job, Path())
            shutil.rmtree(name)
            kills.forked(job, Path(), operation=round(0.7 * whole.operations))
    for name, file in (("one ticket", "ticket.safetensors"), ("settings", "set.yaml")):
        (place.root / name).mkdir()
        shutil.copy(place.root / file, place.root / name)


@dataclass(frozen=True)
class Before:
    """What a folder held.

    Args:
        content: Checksum of what was loaded.
        files: Names of its files.
    """

    content: str
    files: tuple[str, ...]


def look(kind: Kind, folder: Path) -> Before:
    """Load a folder that nobody changed.

    Raises:
        InputError: It cannot be loaded.
    """
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    files = tuple(path.relative_to(folder).as_posix() for path in paths)
    return Before(digest(kind.load(folder)), files)


def loaded(kind: Kind, folder: Path, before: Before) -> tuple[str, str | None]:
    """How a changed folder loads, and what is wrong with that."""
    try:
        with watchdog(10.0):
            same = digest(kind.load(folder)) == before.content
    except InputError as error:
        return ("seen", None) if has_remedy(str(error)) else ("no remedy", str(error))
    except (Hang, KeyboardInterrupt):
        return "hang", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    if same:
        return "harmless", None
    return ("silent", "loads as something else") if kind.manifest or kind.verify else ("unprotected", None)


def judge(kind: Kind, folder: Path, before: Before, name: str) -> tuple[str, str | None]:
    """What loading and verifying say of a folder in which one file was changed."""
    verified = run_main(command_line, ["show", str(folder), "--verify"]) if kind.verify else None
    outcome, wrong = loaded(kind, folder, before)
    if verified is None or wrong is not None:
        return outcome, wrong
    if verified.how in ("traceback", "hang"):
        return verified.how, f"show --verify: {verified.text}"
    if verified.how == "refused":
        return ("seen", None) if has_remedy(verified.text) else ("no remedy", verified.text)
    if kind.manifest and Path(name).name != "manifest.json" and outcome == "harmless":
        return "silent", f"show --verify finds nothing: {verified.output}"
    return outcome, None


def fuzz(
    place: world.World, seed: int, numbers: Iterable[int], findings: Findings, kinds: Mapping[str, Kind] = KINDS
) -> Findings:
    """Change files by number, each its own random stream.

    Args:
        place: The folders.
        seed: Seed of all.
        numbers: Which changes to make.
        findings: Where they are counted.
        kinds: Kinds of folders.
    """
    known: dict[str, Before] = {}
    copied = place.root / "changed"
    with inside(place.root), world.cheap(), world.parsed_once():
        for number in numbers:
            random_ = random.Random(f"{seed} {number}")
            name = random_.choice(list(kinds))
            kind = kinds[name]
            if name not in known:
                shutil.copytree(place.root / kind.folder, copied)
                before = look(kind, copied)
                shutil.rmtree(copied)
                shutil.copytree(place.root / kind.folder, copied)
                files = look(kind, copied).files if kind.manifest else _files(place.root / kind.folder)
                known[name] = Before(before.content, files)
                shutil.rmtree(copied)
            shutil.copytree(place.root / kind.folder, copied)
            file = random_.choice(known[name].files)
            original = (copied / file).read_bytes()
            other = place.root / OTHERS[name] / file if name in OTHERS else None
            how = changed(copied / file, other, random_)
            if (copied / file).is_file() and (copied / file).read_bytes() == original:
                outcome, wrong = "harmless", None
            else:
                outcome, wrong = judge(kind, copied, known[name], file)
            findings.add(name, outcome, None if wrong is None else f"{seed} {number}: {file}: {how}\n{wrong}", number)
            shutil.rmtree(copied)
    return findings


def _files(folder: Path) -> tuple[str, ...]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    return tuple(path.relative_to(folder).as_posix() for path in paths)


def main(tries: int = 200, seed: int = 0, only: int | None = None) -> None:
    """Change files and print what is to be mended.

    Args:
        tries: Number of changes.
        seed: Seed.
        only: Make this one alone.
    """
    alone.run(fuzz, OUTCOMES, seed, range(tries) if only is None else [only], prepare)


if __name__ == "__main__":
    tyro.cli(main)

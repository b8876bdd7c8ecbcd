"""A disk that fails at any moment: an error of ours, earlier data as they were, and the same bytes afterwards.

Whatever writes is a line in `WRITES`. Here some operations on files fail, each kind with one error;
`python -m tests.full_disks` lets all of them fail, in every verb.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import weightspace as ws
from tests.faults import Faults, every_fault
from weightspace.bayes.study.results import StudyResult
from weightspace.cli.main import main
from weightspace.errors import StorageError
from weightspace.networks.building import in_blocks
from weightspace.networks.merging import merge
from weightspace.report.plots.style import save
from weightspace.sparse.export import save_ticket
from weightspace.storage.runs import open_run

TIMES = ("complete.json", "metrics.jsonl", "manifest.json")
at = ws.Step.of


@pytest.fixture(scope="module")
def networks() -> ws.Collection:
    base = ws.tasks.iris(hidden=(4,))
    return ws.collect(replace(base, recipe=ws.Recipe(at("2it"), 18, ws.SGD(lr=0.1))), 2)


@pytest.fixture(scope="module")
def saved(networks: ws.Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.save(tmp_path_factory.mktemp("saved") / "zoo")


def in_a_run(networks: ws.Collection, folder: Path) -> ws.Collection:
    sizes = {"count": 2, "block": 1, "ticks": 1}
    options = {"what": "", "folder": folder, "stage": "collect", "config": {}}
    return in_blocks(lambda rows, *_: networks[rows], architecture=networks.architecture, **sizes, **options)


def once(folder: Path, write: Callable[[Path], object]) -> None:
    """What refuses a folder that is there."""
    if "\0" in str(folder) or not os.access(folder, os.F_OK):
        write(folder)


Write = Callable[[ws.Collection, Path, Path], object]
WRITES: dict[str, Write] = {
    "run": lambda networks, _, out: in_a_run(networks, out),
    "save": lambda networks, _, out: once(out, networks.save),
    "merge": lambda _, saved, out: once(out, lambda folder: merge([saved], folder)),
    "export": lambda _, saved, out: assert_done("export", saved, "--out", out),
    "show --csv": lambda _, saved, out: assert_done("show", saved, "--csv", out),
    "ticket": lambda networks, _, out: save_ticket(networks[0], out),
    "figure": lambda _, __, out: save(Figure(figsize=(1, 1)), Path(f"{out}.svg")),
    "study": lambda _, __, out: StudyResult("digits", 10, []).save(out),
}


class Refused(StorageError):
    """A command ended with code 1."""


def assert_done(*words: object) -> None:
    """Run a verb; its error, as it was printed."""
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *text, **_: written.append(" ".join(map(str, text))))
        code = main([str(word) for word in words])
    if code:
        assert code == 1
        raise Refused(written[-1])


FAULTS = {
    "a full disk": (errno.ENOSPC, "write", True),
    "a quota": (errno.EDQUOT, "write", False),
    "read-only from now on": (errno.EROFS, "write", True),
    "a fault of the disk": (errno.EIO, "write", False),
    "a fault on reading": (errno.EIO, "read", False),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", WRITES)
def test_any_fault_ends_in_an_error_and_leaves_no_trace(
    what: str, fault: str, networks: ws.Collection, saved: Path, tmp_path: Path
) -> None:
    number, kind, lasting = FAULTS[fault]
    first = 1 + (list(WRITES).index(what) + list(FAULTS).index(fault)) % 9  # each test tries others of them
    work = lambda root: WRITES[what](networks, saved, root / "out")  # noqa: E731
    options = {"number": number, "kind": kind, "lasting": lasting, "ignored": TIMES}
    found = every_fault(work, tmp_path / "p", first=first, every=59, **options)
    assert not found.wrong, "\n".join(found.wrong)


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    """Controls: work that raises something else, leaves half a file, loses one, or goes on differently."""

    def unguarded(root: Path) -> None:
        (root / "x").write_text("x")

    def half(root: Path) -> None:
        (root / ".x.partial").write_text("x")

    def losing(root: Path) -> None:
        (root / "earlier.txt").unlink(missing_ok=True)
        (root / "x").mkdir()

    def growing(root: Path) -> None:
        with open(root / "x", "a") as file:
            file.write("xy")

    def wrong(work: Callable[[Path], object], name: str, number: int = errno.ENOSPC) -> str:
        return "\n".join(every_fault(work, tmp_path / name, number=number).wrong)

    assert "No space left" in wrong(unguarded, "a")
    assert "stays" in wrong(half, "b")
    assert "another file now" in wrong(losing, "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.faults.problem", lambda *_: None)
        assert "the next try differs in x" in wrong(growing, "d")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path) -> None:
    with (
        Faults(tmp_path, 1, number, lasting=True, kind="lock"),
        pytest.raises(StorageError, match="has no locks, which keep two processes out.*another one"),
        open_run(tmp_path / "r", "fit", {}),
    ):
        pass
    with open_run(tmp_path / "r", "fit", {}) as run:  # the control
        assert not run.complete


def test_a_folder_that_is_removed_during_the_run_is_an_error(networks: ws.Collection, tmp_path: Path) -> None:
    def removing(rows: slice, *_: object) -> ws.Collection:
        if rows.start:
            (tmp_path / "out").rename(tmp_path / f"away-{rows.start}")
            if again:
                (tmp_path / "out").mkdir()
        return networks[rows]

    sizes = {"count": 2, "block": 1, "ticks": 1}
    options = {"what": "", "folder": tmp_path / "out", "stage": "collect", "config": {}}
    for again, words in ((False, "no longer"), (True, "made anew during the run")):
        with pytest.raises(StorageError, match=words):
            in_blocks(removing, architecture=networks.architecture, **sizes, **options)
        for path in tmp_path.iterdir():
            path.rename(tmp_path.parent / f"{path.name}-{again}")
    in_a_run(networks, tmp_path / "out")  # the control


def test_a_run_that_lost_its_folder_does_not_finish_into_another(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no longer"), open_run(tmp_path / "r", "evaluate", {}) as run:
        (tmp_path / "r").rename(tmp_path / "away")
        run.check()
    assert not (tmp_path / "r").exists()


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Without the rights of root, whom no permission binds."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of folders are others on Windows")
@pytest.mark.parametrize("what", WRITES)
def test_a_read_only_folder_is_told(what: str, networks: ws.Collection, saved: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        zoo = networks.save(place / "zoo")
        (place / "out").mkdir(0o555)
        os.chmod(place, 0o555)
        with as_somebody_else(), pytest.raises(StorageError, match=r"Permission denied.*where you may write"):
            WRITES[what](networks, zoo, place / "out" / "below")
        os.chmod(place, 0o755)
        os.chmod(place / "out", 0o755)
        assert not list((place / "out").iterdir())
        WRITES[what](networks, zoo, place / "out" / "below")  # the control


def test_a_complete_run_is_read_where_nobody_can_write(networks: ws.Collection, tmp_path: Path) -> None:
    in_a_run(networks, tmp_path / "out")
    with Faults(tmp_path, 1, errno.EROFS, lasting=True) as faults:
        assert len(in_a_run(networks, tmp_path / "out")) == 2
    assert not faults.seen


@pytest.mark.parametrize("what", WRITES)
def test_a_file_in_place_of_a_folder_is_told(what: str, networks: ws.Collection, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"file"):
        WRITES[what](networks, saved, tmp_path / "file" / "below")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("what", ["show --csv", "ticket"])
def test_a_folder_in_place_of_a_file_is_told(what: str, networks: ws.Collection, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match=r"Is a directory.*choose another path"):
        WRITES[what](networks, saved, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
@pytest.mark.parametrize("what", WRITES)
def test_a_name_that_no_file_has_is_told(
    what: str, name: str, networks: ws.Collection, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises((StorageError, ws.InputError), match=r"at most 255 bytes|without NUL|shorter name|another name"):
        WRITES[what](networks, saved, tmp_path / name)

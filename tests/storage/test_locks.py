"""Two processes and one folder: the second is told who works there; what dead ones left is in nobody's way."""

import errno
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from weightspace.errors import StorageError
from weightspace.storage.files import new_folder, write_text
from weightspace.storage.leftovers import host, leftovers, temporary_name
from weightspace.storage.locks import HOLDER, LOCK, locked

DEAD = 2**22 + 1  # above any number that Linux gives


@contextmanager
def another_process(folder: Path) -> Iterator[int]:
    """One that holds the lock of a folder until it is killed."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        pid = os.fork()
    if pid == 0:
        with locked(folder):
            os.write(write, b"x")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_second_process_is_told_who_is_there_and_takes_over_when_it_is_dead(tmp_path: Path) -> None:
    with another_process(tmp_path) as pid:
        assert f"another process ({pid} on {host()} since 20" in told(tmp_path)
        assert told(tmp_path).endswith("wait for it, or choose another folder")
    assert (tmp_path / HOLDER).read_text().startswith(f"{pid}\n")  # it could not tidy up
    with locked(tmp_path):
        assert (tmp_path / HOLDER).read_text().startswith(f"{os.getpid()}\n")
    assert not (tmp_path / HOLDER).exists()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock alone, without a note."""
    with FileLock(folder / LOCK):
        yield


def told(folder: Path) -> str:
    with pytest.raises(StorageError) as raised, locked(folder):
        pass
    return str(raised.value)


@pytest.mark.skipif(os.name == "nt", reason="has other locks")
def test_a_file_system_that_loses_its_locks_frees_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def lost(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch, locked(tmp_path):
        patch.setattr(fcntl, "flock", lost)
    with another_process(tmp_path), pytest.raises(StorageError, match="is working in"), locked(tmp_path):
        pass


def test_a_process_on_another_machine_is_named_with_what_to_do(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / HOLDER).write_text("77\nelsewhere\n2026-01-01 00:00:00 +0000\nweightspace collect\n")
        assert "77 on elsewhere since 2026-01-01" in told(tmp_path)
        assert "If nothing runs on elsewhere any more" in told(tmp_path)
        (tmp_path / HOLDER).write_text(f"77\n{host()}\n2026-01-01\nweightspace\n")
        assert "any more" not in told(tmp_path)
        (tmp_path / HOLDER).write_text("77\n")  # as version 0.1 wrote it
        assert "another process (77) is working" in told(tmp_path)
        (tmp_path / HOLDER).unlink()
        assert "of unknown number" in told(tmp_path)


def test_a_note_from_anywhere_is_shown_in_part_and_without_control(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / HOLDER).write_text("77\nh\n\x1b[2Jnow\n" + "x" * 2000)
        assert "\x1b" not in told(tmp_path)
        assert len(told(tmp_path)) < 900
        for content in (b"\xff\xfe", b"", b"x" * 10_000):
            (tmp_path / HOLDER).write_bytes(content)
            assert "of unknown number" in told(tmp_path)
        (tmp_path / HOLDER).unlink()
        os.mkfifo(tmp_path / HOLDER)
        assert "of unknown number" in told(tmp_path)


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    dead, elsewhere, alive, old = (
        f".a.{DEAD}@{host()}.00000000.partial",
        f".a.{DEAD}@not-{host()}.00000000.partial",
        f".a.{os.getppid()}@{host()}.00000000.partial",
        f".a.{DEAD}.partial",
    )
    for name in (dead, elsewhere, alive, old, "a.partial", temporary_name("a")):
        (tmp_path / name).write_text("half")
    (tmp_path / f".b.{DEAD}@{host()}.00000000.partial").mkdir()
    assert len({path.name for path in leftovers(tmp_path)} & {elsewhere, alive, "a.partial"}) == 0
    assert {path.name for path in leftovers(tmp_path, "a")} >= {dead}
    assert not [path for path in leftovers(tmp_path, "a") if ".b." in path.name]
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {elsewhere, alive, "a.partial", LOCK, HOLDER}


def test_a_new_folder_removes_what_an_earlier_try_left(tmp_path: Path) -> None:
    left = tmp_path / f".out.{DEAD}@{host()}.00000000.partial"
    left.mkdir()
    (left / "shard").write_text("much")
    with new_folder(tmp_path / "out") as temporary:
        assert not left.exists()
        write_text(temporary / "x", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_may_be_a_link_to_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with new_folder(tmp_path / "link") as temporary:
        write_text(temporary / "x", "x")
    assert (tmp_path / "there" / "x").read_text() == "x"
    with pytest.raises(StorageError, match="not empty"), new_folder(tmp_path / "link"):
        pass

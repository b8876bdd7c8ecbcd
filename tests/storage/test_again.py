"""Folders written in one step: the same command again leaves them, another one is refused."""

from pathlib import Path

import pytest

from weightspace.errors import StorageError
from weightspace.storage.again import write_again
from weightspace.storage.files import new_folder, write_text
from weightspace.storage.leftovers import temporary_name
from weightspace.storage.manifests import write_manifest


def writer(text: str):
    def write(folder: Path) -> None:
        with new_folder(folder) as temporary:
            write_text(temporary / "text", text)
            write_manifest(temporary)

    return write


def test_the_same_files_again_are_left_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_again(folder, writer("one"))
    before = (folder / "text").stat().st_ino
    write_again(folder, writer("one"))
    assert (folder / "text").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_are_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_again(folder, writer("one"))
    with pytest.raises(StorageError, match="holds something else: choose another folder"):
        write_again(folder, writer("two"))
    assert (folder / "text").read_text() == "one"
    (folder / "text").write_text("six")
    with pytest.raises(StorageError, match="does not match its checksum"):
        write_again(folder, writer("one"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_refused_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("somebody's")
    with pytest.raises(StorageError, match="exists and is not empty"):
        write_again(tmp_path, lambda _folder: pytest.fail("work was done"))
    write_again(tmp_path / "out", writer("one"))
    (tmp_path / "out" / "notes").write_text("somebody's")
    with pytest.raises(StorageError, match="exists and is not empty"):
        write_again(tmp_path / "out", writer("one"))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_again(tmp_path / "out", writer("one"))
    (tmp_path / temporary_name("out")).mkdir()
    write_again(tmp_path / "out", writer("one"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

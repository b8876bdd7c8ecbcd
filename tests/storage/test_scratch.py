"""Folders for temporary files."""

import tempfile
from pathlib import Path

import pytest

from weightspace.errors import StorageError
from weightspace.storage.scratch import remove_scratch, scratch_folder


def test_a_folder_is_there_and_gone_afterwards() -> None:
    with scratch_folder("evaluate") as folder:
        (folder / "file").write_text("much")
        assert "weightspace-evaluate-" in folder.name
    assert not folder.exists()


def test_a_place_that_is_not_there_is_told_with_the_remedy(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"temporary files: No such file.*TMPDIR"), scratch_folder("evaluate"):
        pass
    place = tmp_path / "neither"
    with pytest.raises(StorageError) as told, scratch_folder("evaluate", within=place):
        pass
    assert "TMPDIR" not in str(told.value)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "weightspace-evaluate-abc").mkdir()
    (tmp_path / "weightspace-evaluate-abc" / "shard").write_text("much")
    (tmp_path / "report.json").write_text("{}")
    remove_scratch("push", tmp_path)
    assert (tmp_path / "weightspace-evaluate-abc").exists()
    remove_scratch("evaluate", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]

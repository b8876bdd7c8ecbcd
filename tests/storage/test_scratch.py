"""Folders for temporary files."""

import tempfile

import pytest

from weightspace.errors import StorageError
from weightspace.storage.scratch import scratch_folder


def test_a_folder_is_there_and_gone_afterwards() -> None:
    with scratch_folder("evaluate") as folder:
        (folder / "file").write_text("much")
        assert "weightspace-evaluate-" in folder.name
    assert not folder.exists()


def test_a_place_that_is_not_there_is_told_with_the_remedy(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"temporary files: No such file.*TMPDIR"), scratch_folder("evaluate"):
        pass

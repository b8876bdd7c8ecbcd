"""The package can be imported where there is no fcntl and folders cannot be synced, as on Windows."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

import weightspace as ws
from weightspace.storage import files
from weightspace.storage.system_errors import cause_of, remedy_for

_WITHOUT = """
import sys
sys.modules["fcntl"] = None
import importlib, pkgutil
import weightspace
for module in pkgutil.walk_packages(weightspace.__path__, "weightspace."):
    if module.name != "weightspace.__main__":
        importlib.import_module(module.name)
import {extra}
"""


def imports(extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(ws.__file__).parents[1])}
    code = _WITHOUT.format(extra=extra)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_the_package_is_imported_without_fcntl() -> None:
    done = imports("weightspace")
    assert done.returncode == 0, done.stderr


def test_the_check_sees_an_import_of_fcntl() -> None:
    done = imports("fcntl")
    assert done.returncode != 0
    assert "fcntl" in done.stderr


def test_folders_are_not_synced_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[object] = []
    monkeypatch.setattr(files.os, "open", lambda path, *_rest: opened.append(path) or os.dup(1))
    files.sync_folder(tmp_path)
    assert opened == [tmp_path]
    monkeypatch.setattr(files.os, "name", "nt")
    files.sync_folder(tmp_path)
    assert opened == [tmp_path]


@pytest.mark.parametrize(
    "said",
    ["I/O error: no (os error {})", 'Error while serializing: IoError(Os {{ code: {}, kind: X, message: "no" }})'],
)
def test_the_number_is_found_in_safetensors_errors_of_any_version(said: str) -> None:
    error = SafetensorError(said.format(errno.EACCES))
    assert cause_of(error) == os.strerror(errno.EACCES)
    assert "where you may write" in remedy_for(error)
    assert cause_of(SafetensorError("header too large")) == "header too large"  # the control

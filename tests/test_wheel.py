"""The wheel installs in a clean environment and works there."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path


def test_the_wheel_works_in_a_clean_environment(root: Path, tmp_path: Path) -> None:
    released = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {released} - " in (root / "CHANGELOG.md").read_text()
    assert f"version: {released}\n" in (root / "CITATION.cff").read_text()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"weightspace/py.typed", "weightspace/kernels/rows.cpp"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "experiments/")) for name in names)

    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, capture_output=True
    )
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # The dependencies are those of the environment the tests run in (gigabytes, tested by `make`);
    # weightspace itself can only come from the wheel: .pth lines of that environment are not followed.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = (
        "import weightspace as ws, importlib.metadata as m; print(ws.__file__); print(m.version('weightspace'));"
        "from dataclasses import replace; t = ws.tasks.digits(hidden=(4,));"
        "t = replace(t, recipe=replace(t.recipe, length=ws.Step(1))); print(len(ws.collect(t, 2)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    file, version, count = result.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "clean")
    assert (version, count) == (released, "2")
    command = subprocess.run(
        [tmp_path / "clean" / "bin" / "weightspace", "--version"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert command.stdout.strip() == released

"""Wrong values end in an error of the library that names the argument; see wrong_values.py."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

Results = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Results:
    """What came of every case, in a process without the tests' own checks of types."""
    folder = tmp_path_factory.mktemp("wrong")
    command = [sys.executable, "-m", "tests.contracts.wrong_values", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert found.returncode == 0, found.stderr
    assert not list(folder.iterdir()), "wrong values made files"
    return json.loads(found.stdout)


def test_every_wrong_value_is_refused_by_name(results: Results) -> None:
    library = results["library"]
    assert len(library) > 1000
    assert {case: outcome for case, outcome in library.items() if outcome != "refused"} == {}


def test_the_checker_sees_what_is_not_checked(results: Results) -> None:
    control = results["control"]
    assert any(outcome.startswith("taken") for outcome in control.values())
    assert any(outcome.startswith("TypeError") for outcome in control.values())
    assert any(outcome.startswith("AttributeError") for outcome in control.values())
    assert "refused" not in control.values()


def test_exact_numbers_of_numpy_and_torch_are_taken(results: Results) -> None:
    assert set(results["exact"].values()) == {"same"}, results["exact"]

"""Fixtures of the tests of sparse execution."""

import pytest

from tests.sparse.examples import measure_as_fastest


@pytest.fixture
def rows_win(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as_fastest("rows", monkeypatch)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that take no time, for tests that do not ask what is fastest."""
    monkeypatch.setattr("weightspace.sparse.measuring._SECONDS", 0.001)

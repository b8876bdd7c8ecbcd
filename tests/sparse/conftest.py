"""Fixtures of the tests of sparse execution."""

import pytest

from tests.sparse.examples import measure_as_fastest


@pytest.fixture
def rows_win(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as_fastest("rows", monkeypatch)

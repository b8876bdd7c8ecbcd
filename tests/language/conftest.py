"""A tiny BERT, and tasks on it."""

from pathlib import Path

import pytest

import weightspace as ws
from tests.language import tiny

RECIPE = ws.Recipe("2it", batch_size=8, optimizer=ws.Adam(lr=0.01))


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("bert") / "body")


@pytest.fixture(scope="session")
def task(body: Path) -> ws.Task:
    return ws.language.classification(*tiny.reviews(), body, recipe=RECIPE)


@pytest.fixture(scope="session")
def words(body: Path) -> ws.Task:
    return ws.language.masked_words(tiny.reviews()[0], body, copies=2, recipe=RECIPE)

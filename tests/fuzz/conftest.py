import pytest

from experiments.fuzz import world


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> world.World:
    return world.make(tmp_path_factory.mktemp("fuzz") / "world", everything=False)

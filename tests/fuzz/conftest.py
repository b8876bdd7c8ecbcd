import pytest

from experiments.fuzz import outcomes, world


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> world.World:
    return world.make(tmp_path_factory.mktemp("fuzz") / "world", everything=False)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no hang."""
    monkeypatch.setattr(outcomes.run_main, "__defaults__", (60.0, 20.0))

"""Tables keep every row but those that are measured again with the same settings."""

from pathlib import Path

import pytest

from experiments.common import tables

SETTINGS = ("radius", "seed")


def rows(radius: float | None, seed: int, accuracy: float) -> list[dict[str, object]]:
    return [
        {"radius": radius, "seed": seed, "networks": name, "accuracy": accuracy + i}
        for i, name in enumerate(("samples", "tickets"))
    ]


def test_rows_with_the_same_settings_are_replaced_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "family" / "experiment.csv"
    for radius, seed in ((0.5, 0), (0.5, 1), (None, 0)):
        tables.add(path, rows(radius, seed, 0.25), SETTINGS)
    before = tables.read(path)
    assert [row["radius"] for row in before] == ["0.5"] * 4 + ["none"] * 2
    assert before[1] == {"radius": "0.5", "seed": "0", "networks": "tickets", "accuracy": "1.25000"}
    tables.add(path, rows(0.5, 0, 0.75), SETTINGS)
    after = tables.read(path)
    assert [row["accuracy"] for row in after[:2]] == ["0.75000", "1.75000"]
    assert after[2:] == before[2:]


def test_other_settings_replace_nothing(tmp_path: Path) -> None:
    """The negative control: were the seed no setting, its rows would be replaced."""
    for settings, count in ((SETTINGS, 4), (("radius",), 2)):
        path = tmp_path / f"{count}.csv"
        tables.add(path, rows(0.5, 0, 0.25), settings)
        tables.add(path, rows(0.5, 1, 0.5), settings)
        assert len(tables.read(path)) == count


def test_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("radius,seed,networks,accuracy\n0.50000,0,samples,0.1\n", encoding="utf-8")
    tables.add(path, rows(0.5, 0, 0.25), SETTINGS)
    assert [row["accuracy"] for row in tables.read(path)] == ["0.25000", "1.25000"]


def test_new_columns_leave_old_rows_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    tables.add(path, [{"seed": 0, "accuracy": 0.5}], ("seed",))
    tables.add(path, [{"seed": 1, "accuracy": 0.5, "nll": 0.25}], ("seed",))
    assert tables.read(path)[0] == {"seed": "0", "accuracy": "0.50000", "nll": ""}
    tables.add(path, [{"seed": 1, "accuracy": 0.5, "nll": None}], ("seed",))
    assert [row["nll"] for row in tables.read(path)] == ["", ""]


def test_a_row_without_a_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no value for radius"):
        tables.add(tmp_path / "table.csv", [{"seed": 0}], SETTINGS)
    assert not (tmp_path / "table.csv").exists()

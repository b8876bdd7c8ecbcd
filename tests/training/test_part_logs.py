import math
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.training.part_logs import told


class Kept:
    def __init__(self) -> None:
        self.said: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.said.append((step, values))


def test_numbers_of_parts_reach_trackers_and_damaged_lines_are_told(tmp_path: Path) -> None:
    part = tmp_path / "00000"
    part.mkdir()
    lines = ['{"step": 1, "time": 2.5, "loss": 0.5}', '{"step": 2, "loss": null}', '{"step": 3, "loss": "x"}', "{"]
    (part / "metrics.jsonl").write_text("\n".join(lines))
    kept = Kept()
    with ws.track(kept), pytest.warns(UserWarning, match="is damaged") as warned:
        assert list(told([part])) == [part]
    assert [step for step, _ in kept.said] == [1, 2]
    assert kept.said[0][1] == {"parts/00000/loss": 0.5}
    assert math.isnan(kept.said[1][1]["parts/00000/loss"])
    assert [str(one.message).split()[1] for one in warned] == ["3", "4"]
    assert list(told([part])) == [part]  # nobody listens: nothing is read

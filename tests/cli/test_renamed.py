"""Words of version 0.1 are answered with today's."""

import pytest

from weightspace.cli.main import main


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["tickets", "start", "x", "--out", "y"], "tickets prune-at-init"),
        (["tickets", "popup", "x", "--out", "y"], "tickets edge-popup"),
        (["tickets", "bird", "x", "--out", "y"], "tickets early-bird"),
        (["fit", "x", "--out", "y", "--refine-steps", "4"], "--refine.steps"),
        (["fit", "x", "--out", "y", "--held-out", "0.1"], "--flow.validation-fraction"),
        (["evaluate", "x", "--training", "t", "--out", "y", "--reference", "z"], "--training"),
        (["sample", "x", "--out", "y", "--nm", "2:4"], "--pattern"),
    ],
)
def test_an_old_word_names_the_new_one(words: list[str], now: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert f"is now called {now}" in capsys.readouterr().err.replace("`", "")

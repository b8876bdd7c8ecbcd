"""What files from anywhere may say of symmetries, mask rules, names and tables: refused, or written as text."""

import csv
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from weightspace.cli.main import main
from weightspace.errors import InputError, StorageError
from weightspace.generator.mask_rules import load_mask_rule
from weightspace.report.page import Picture, Table, render
from weightspace.report.results import Verdict
from weightspace.symmetry import Axis, Group, Symmetry

LAYOUT = ws.Architecture("MLP", {"sizes": [4, 6, 3]}).layout()
at = ws.Step.of


def symmetry() -> dict[str, Any]:
    rows = Axis("1.weight", 0), Axis("1.bias", 0)
    group = Group("hidden", 6, rows, (Axis("3.weight", 1, (0, 1, 2, 3, 4, 5)),))
    return Symmetry(LAYOUT, (group,)).to_json()


def with_group(**changes: Any) -> dict[str, Any]:
    return {"groups": [symmetry()["groups"][0] | changes], "fixed": []}


def with_axis(*axis: Any) -> dict[str, Any]:
    return with_group(outgoing=[list(axis)])


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


SYMMETRIES = {
    "units": with_group(size=10**12),
    "units of text": with_group(size="6"),
    "units of a float": with_group(size=6.0),
    "negative units": with_group(size=-6),
    "no units": with_group(size=0),
    "a truth": with_group(size=True),
    "units without axes": with_group(size=10**12, incoming=[], outgoing=[], following=[]),
    "homogeneous as text": with_group(homogeneous="yes"),
    "an unknown parent": with_group(parent="nobody"),
    "its own parent": with_group(parent="hidden"),
    "a parent of a list": with_group(parent=["hidden"]),
    "an unknown field": with_group(more=1),
    "a missing field": {"groups": [{"name": "hidden", "size": 6}], "fixed": []},
    "no groups": {"fixed": []},
    "groups of text": {"groups": "hidden", "fixed": []},
    "fixed as text": {"groups": [], "fixed": "abc"},
    "a huge list of positions": with_axis("3.weight", 1, [0] * 10**7, None),
    "a range of positions": with_axis("3.weight", 1, range(10**9), None),
    "huge positions": with_axis("3.weight", 1, [0, 1, 2, 3, 4, 10**12], None),
    "negative positions": with_axis("3.weight", 1, [0, 1, 2, 3, 4, -1], None),
    "positions of text": with_axis("3.weight", 1, "012345", None),
    "positions of floats": with_axis("3.weight", 1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], None),
    "positions twice": with_axis("3.weight", 1, [0, 0, 2, 3, 4, 5], None),
    "no positions": with_axis("3.weight", 1, [], None),
    "a deep list": with_axis("3.weight", 1, nested(10_000), None),
    "a huge axis": with_axis("3.weight", 10**12, None, None),
    "a negative axis": with_axis("3.weight", -1, None, None),
    "an unknown tensor": with_axis("4.weight", 1, None, None),
    "a tensor without a name": with_axis(None, 1, None, None),
    "blocks of no axis": with_axis("3.weight", 1, None, 10**12),
    "three parts": with_axis("3.weight", 1, None),
    "a list": [1, 2],
    "nothing": None,
    "deep": nested(10_000),
}


@pytest.mark.parametrize("data", SYMMETRIES.values(), ids=SYMMETRIES)
def test_a_symmetry_is_bounded_by_its_layout(data: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(StorageError, match="damaged.*restore"):
        Symmetry.from_json(data, LAYOUT)
    assert time.perf_counter() - start < 1
    assert Symmetry.from_json(symmetry(), LAYOUT).coverage > 0.5  # the control


RULES: dict[str, tuple[dict[str, Any], torch.Tensor]] = {
    "too few scores": ({"rule": "shared"}, torch.ones(1)),
    "a table of scores": ({"rule": "shared"}, torch.ones(1, LAYOUT.size)),
    "scores of another type": ({"rule": "shared"}, torch.ones(LAYOUT.size, dtype=torch.int64)),
    "another rule": ({"rule": "none"}, torch.ones(LAYOUT.size)),
    "a rule of a list": ({"rule": ["shared"]}, torch.ones(LAYOUT.size)),
    "an unknown field": ({"rule": "shared", "more": 1}, torch.ones(LAYOUT.size)),
    "no scale": ({"rule": "gates", "scale": 0.0}, torch.ones(LAYOUT.size)),
    "a negative scale": ({"rule": "gates", "scale": -1.0}, torch.ones(LAYOUT.size)),
    "a scale of text": ({"rule": "gates", "scale": "1"}, torch.ones(LAYOUT.size)),
    "a huge scale": ({"rule": "gates", "scale": 10**400}, torch.ones(LAYOUT.size)),
    "a missing scale": ({"rule": "gates"}, torch.ones(LAYOUT.size)),
}


@pytest.mark.parametrize(("saved", "scores"), RULES.values(), ids=RULES)
def test_a_mask_rule_fits_the_layout(saved: dict[str, Any], scores: torch.Tensor) -> None:
    with pytest.raises(StorageError):
        load_mask_rule(saved, {"support.scores": scores}, LAYOUT)
    good = load_mask_rule({"rule": "shared"}, {"support.scores": torch.ones(LAYOUT.size)}, LAYOUT)  # the control
    assert load_mask_rule({"rule": "gates", "scale": 2.0}, {}, LAYOUT).vectors
    assert good.vectors


FORMULAS = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx"]


def test_no_cell_is_a_formula_and_no_record_takes_the_index(tmp_path: Path) -> None:
    networks = ws.collect(replace(ws.tasks.iris(hidden=(4,)), recipe=ws.Recipe(at("1it"), 18, ws.SGD(lr=0.1))), 2)
    records = [
        dict(record) | {"network": "mine", "=name": text}
        for record, text in zip(networks.records, FORMULAS[:2], strict=True)
    ]
    networks.replace(records=records).save(tmp_path / "zoo")
    assert main(["show", str(tmp_path / "zoo"), "--csv", str(tmp_path / "r.csv")]) == 0
    with open(tmp_path / "r.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == ["0", "1"]
    assert [row["record.network"] for row in rows] == ["mine", "mine"]
    assert [row["'=name"] for row in rows] == [f"'{text}" for text in FORMULAS[:2]]
    text = (tmp_path / "r.csv").read_text()
    assert not [line for line in text.splitlines() for cell in line.split(",") if cell.lstrip('"').startswith("=")]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_in_any_table(text: str) -> None:
    from weightspace.storage.csv_text import cell, table_text, text_of

    assert str(cell(text)).startswith("'")
    assert text_of(str(cell(text))) == text
    assert cell("-3.5") == "-3.5"  # a number stays one
    assert cell(-3.5) == -3.5
    assert "'" in table_text(["a"], [{"a": text}], "{:.2f}").splitlines()[1]


ATTACK = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"


def test_pages_show_every_name_as_text() -> None:
    page = render(
        ATTACK,
        ATTACK,
        tables=[Table(ATTACK, [[ATTACK, ATTACK], [ATTACK, "1"]], [(ATTACK, ATTACK)], [ATTACK], [(ATTACK, ATTACK)])],
        pictures=[Picture(ATTACK, ATTACK, ws_figure())],
        findings=[ATTACK],
        verdicts=[Verdict(ATTACK, "pass", ATTACK, ATTACK)],
    )
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 14
    assert page.count("<script>") == 1  # our own, that sorts tables
    quoted = [part.partition('"')[0] for part in page.split('alt="')[1:]]
    assert all("<" not in part for part in quoted)


def ws_figure() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


NAMES = ["../x", "/etc/passwd", "..\\x", "C:x", "a\0b", "n" * 300, ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_files_never_lead_elsewhere(name: str, tmp_path: Path) -> None:
    """A shard, an index of a checkpoint, a manifest, and the figure of a report."""
    import json

    from weightspace.storage.manifests import MANIFEST, verify

    (tmp_path / "net").mkdir()
    index = {"metadata": {}, "weight_map": {"1.weight": name}}
    (tmp_path / "net" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError):
        ws.from_state_dicts(tmp_path / "net", ws.Architecture("MLP", {"sizes": [4, 6, 3]}))
    files = {name: {"bytes": 1, "sha256": "0" * 64}}
    (tmp_path / MANIFEST).write_text(json.dumps({"format": "weightspace.manifest", "version": 1, "files": files}))
    with pytest.raises(StorageError):
        verify(tmp_path)
    picture = Picture(name, "", ws_figure())
    assert Path(picture.file_name).name == picture.file_name not in ("", ".", "..")
    assert len(picture.file_name) < 200


def test_links_are_not_written_through(tmp_path: Path) -> None:
    """A folder from elsewhere, whose lock and logs are links to files of mine."""
    from weightspace.storage.runs import open_run

    mine = tmp_path / "mine"
    for name in ("metrics.jsonl", ".lock", ".lock.holder"):
        mine.write_text("years of work")
        with open_run(tmp_path / "r", "fit", {}):
            pass
        (tmp_path / "r" / name).unlink(missing_ok=True)
        (tmp_path / "r" / name).symlink_to(mine)
        if name == ".lock.holder":  # its name is taken anew
            with open_run(tmp_path / "r", "fit", {}) as run:
                run.log(loss=1.0)
        else:
            with pytest.raises(StorageError, match="link"), open_run(tmp_path / "r", "fit", {}) as run:
                run.log(loss=1.0)
            (tmp_path / "r" / name).unlink()
        assert mine.read_text() == "years of work"


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, wherever a file is named."""
    (tmp_path / "nets").mkdir()
    os.mkfifo(tmp_path / "nets" / "a.safetensors")
    words = ["--model", "MLP", "--arguments", "{sizes: [4, 6, 3]}", "--out", str(tmp_path / "zoo")]
    for folder, said in (("nets", "nothing to read"), ("nets/a.safetensors", "is not a folder")):
        assert main(["import", str(tmp_path / folder), *words]) == 1
        assert said in capsys.readouterr().err
    assert main(["collect", "--config", str(tmp_path / "nets/a.safetensors")]) == 1
    assert "named pipe" in capsys.readouterr().err
    (tmp_path / "nets/a.safetensors").unlink()
    state = {f"{name}": torch.zeros(shape) for name, shape in ((e.name, e.shape) for e in LAYOUT.entries)}
    save_file(state, tmp_path / "nets" / "a.safetensors")
    assert main(["import", str(tmp_path / "nets"), *words]) == 0  # the control


CONFIGS: list[Callable[[Path], object]] = [
    lambda path: path.write_text("- 1\n- 2\n"),
    lambda path: path.write_text("just text"),
    lambda path: path.write_bytes(b"\xff\xfe\x00\x01"),
    lambda path: path.write_text("a: [1\nb: 2\n"),
    lambda path: path.write_text(""),
    lambda path: path.write_text("stage: [collect]\nconfig: {}\ninputs: {}\nhash: x\n"),
    lambda path: (path.unlink(), path.mkdir()),
]


@pytest.mark.parametrize("change", CONFIGS)
def test_a_changed_configuration_is_one_line(
    change: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.storage.runs import open_run

    run = ["collect", "--task", "iris", "--hidden", "4", "--n", "1", "--length", "1it", "--out", str(tmp_path / "r")]
    with open_run(tmp_path / "r", "collect", {}):
        pass
    assert main(["show", str(tmp_path / "r")]) == 0  # the control
    assert "unfinished run of `weightspace collect`" in capsys.readouterr().out
    change(tmp_path / "r" / "config.yaml")
    for words in (["show", str(tmp_path / "r")], run):
        assert main(words) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert len(lines) == 1
        assert "config.yaml" in lines[0]
        assert any(remedy in lines[0] for remedy in ("restore", "put the real file", "start anew"))

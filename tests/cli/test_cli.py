"""The command line end to end, in this process for speed and in a subprocess where that matters."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import weightspace as ws
from weightspace.cli.main import main
from weightspace.report.page import Picture


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:  # the parser's way to end
        code = stop.code if isinstance(stop.code, int) else 1
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage once, on tiny networks."""
    folder = tmp_path_factory.mktemp("cli")
    steps = [
        ["collect", "--out", "dense", "--hidden", "12", "8", "--n", "8", "--length", "2ep"],
        ["tickets", "gradual", "dense", "--out", "tickets", "--density", "0.2", "--length", "2ep"],
        ["tickets", "imp", "dense@0:2", "--out", "imp", "--density", "0.3", "--rate", "0.6", "--rewind", "5it"],
        ["align", "tickets", "--out", "aligned"],
        [
            "fit",
            "tickets@:6",
            "--out",
            "generator",
            "--compress.components",
            "4",
            "--flow.steps",
            "30",
            "--flow.width",
            "16",
            "--flow.blocks",
            "1",
            "--flow.batch-size",
            "8",
        ],
        ["sample", "generator", "--out", "samples", "--n", "5", "--density", "0.15", "--seed", "3"],
        [
            "evaluate",
            "samples",
            "--training",
            "tickets@:6",
            "--held-out",
            "tickets@6:",
            "--others",
            "imp=imp",
            "--out",
            "report",
            "--components",
            "3",
            "--threads",
            "1",
        ],
    ]
    here = os.getcwd()
    os.chdir(folder)
    try:
        for step in steps:
            assert main(step) == 0, step
    finally:
        os.chdir(here)
    return folder


def test_every_stage_leaves_its_result(work: Path) -> None:
    tickets, samples = (ws.Collection.load(work / name) for name in ("tickets", "samples"))
    assert (len(tickets), len(samples)) == (8, 5)
    kept = samples.masks[:, samples.layout.prunable].sum(1)
    assert (kept == round(0.15 * samples.layout.num_prunable)).all()
    assert ws.Collection.load(work / "imp").extras["rewind"].shape == (2, tickets.layout.size)
    assert len({record["aligned"] for record in ws.Collection.load(work / "aligned").records}) == 1
    assert ws.Report.load(work / "report" / "report.json")["imp"].count == 2
    assert "<!doctype html>" in (work / "report" / "report.html").read_text()
    assert len(list((work / "report").glob("*.png"))) == len(list((work / "report").glob("*.svg"))) == 11


def test_the_command_line_and_python_agree(work: Path) -> None:
    model = ws.FittedGenerator.load(work / "generator")
    samples = ws.Collection.load(work / "samples")
    assert torch.equal(model.sample(5, density=0.15, seed=3).weights, samples.weights)


def test_conditions_gates_and_patterns_from_the_command_line(work: Path, tmp_path: Path, capsys) -> None:
    fit = (
        "fit",
        work / "tickets",
        "--out",
        tmp_path / "g",
        "--compress.components",
        4,
        "--flow.steps",
        30,
        "--flow.width",
        8,
    )
    named = ("--masks", "gates", "--conditions", "metrics.validation_accuracy")
    code, out, err = run(capsys, *fit, *named)
    assert code == 0, err
    assert "masks: gates" in out
    assert "conditions: metrics.validation_accuracy" in out
    model = ws.FittedGenerator.load(tmp_path / "g")
    (own,) = model.conditions.each
    draw = ("sample", tmp_path / "g", "--out", tmp_path / "s", "--n", 3, "--pattern", "2:4", "--guidance", 1.5)
    code, _, err = run(capsys, *draw, "--condition", f"{own.name}={own.high}")
    assert code == 0, err
    expected = model.sample(3, pattern=ws.NM(2, 4), condition={own.name: own.high}, guidance=1.5)
    assert torch.equal(ws.Collection.load(tmp_path / "s").weights, expected.weights)


def test_refinement_under_several_patterns_from_the_command_line(work: Path, tmp_path: Path, capsys) -> None:
    fit = (
        "fit",
        work / "tickets",
        "--compress.components",
        4,
        "--flow.steps",
        30,
        "--flow.width",
        8,
        "--refine.steps",
        8,
    )
    found: list[torch.Tensor] = []
    for i, named in enumerate([("2:4",), (0.5,), (0.5, "2:4")]):
        code, _, err = run(capsys, *fit, "--refine.patterns", *named, "--out", tmp_path / str(i))
        assert code == 0, err
        found.append(ws.FittedGenerator.load(tmp_path / str(i)).refined.mean)
    tickets = ws.Collection.load(work / "tickets")
    model = ws.TicketGenerator(
        compress=ws.PCA(4),
        generate=ws.FlowMatching(validation_fraction=0.1, steps=30, width=8),
        refine=ws.TaskRefinement(steps=8, patterns=[ws.NM(2, 4)]),
    )
    task = ws.tasks.digits(tickets.architecture.arguments["sizes"][1:-1])
    assert torch.equal(model.fit(tickets, task=task, seed=0).refined.mean, found[0])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize(
    "words",
    [
        ["prune-at-init", "--score", "synflow", "--rounds", 100],
        ["prune-at-init", "--score", "random", "--pattern", "erk:0.3"],
        ["dynamic", "--every", 5],
        ["edge-popup"],
        ["continuous"],
        ["imp", "--rate", 0.8, "--after-pruning", "lr_rewind"],
    ],
)
def test_every_ticket_finder_has_its_verb(words: list[object], work: Path, tmp_path: Path, capsys) -> None:
    first, *rest = words
    where = ("tickets", first, f"{work / 'dense'}@:2", "--out", tmp_path / "t", "--density", 0.3)
    code, _, err = run(capsys, *where, *rest)
    assert code == 0, err
    found = ws.Collection.load(tmp_path / "t")
    assert (found.masks[:, found.layout.prunable].sum(1) == round(0.3 * found.layout.num_prunable)).all()


@pytest.mark.parametrize(
    "kind", ["rewound", "reinitialised", "shuffled", "random", "globally-shuffled", "refill", "regroup", "transfer"]
)
def test_controls_of_tickets_are_written_and_trained(kind: str, work: Path, tmp_path: Path, capsys) -> None:
    extra = ("--task", "digits") if kind == "transfer" else ()
    code, _, err = run(capsys, "tickets", "control", work / "imp", "--kind", kind, "--out", tmp_path / "c", *extra)
    assert code == 0, err
    start, source = ws.Collection.load(tmp_path / "c"), ws.Collection.load(work / "imp")
    assert torch.equal(start.masks, source.masks) == (kind in ("rewound", "reinitialised", "transfer"))
    assert torch.equal(start.weights, source.extras["rewind"] * source.masks) == (kind == "rewound")
    assert run(capsys, "train", tmp_path / "c", "--out", tmp_path / "t", "--length", "1ep")[0] == 0
    assert torch.equal(ws.Collection.load(tmp_path / "t").masks, start.masks)


def test_tickets_are_timed_and_exported(work: Path, tmp_path: Path, capsys) -> None:
    bench = ("bench", work / "imp", "--out", tmp_path / "b", "--batches", 4, 16, "--no-compiled")
    code, out, err = run(capsys, *bench)
    assert code == 0, err
    assert "times as fast as dense" in out
    assert "torch " in out
    rows = (tmp_path / "b" / "speed.csv").read_text().splitlines()
    assert len(rows) > 4
    assert (tmp_path / "b" / "speed.png").stat().st_size > 1000
    code, out, err = run(capsys, "export", work / "imp", "--out", tmp_path / "e")
    assert code == 0, err
    back = ws.sparse.load_ticket(tmp_path / "e" / "network-00001.safetensors")
    assert torch.equal(back.weights, ws.Collection.load(work / "imp")[1].weights)
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    code, _, err = run(capsys, "export", f"{work / 'imp'}@:1", "--out", tmp_path / "o", "--onnx")
    assert code == 0, err
    assert (tmp_path / "o" / "network-00000.onnx").exists()


def test_a_second_run_returns_at_once_another_one_is_refused(work: Path, capsys) -> None:
    before = {p: p.stat().st_mtime_ns for p in (work / "samples").iterdir() if p.name != ".lock"}
    same = ("sample", work / "generator", "--out", work / "samples", "--n", 5, "--density", 0.15, "--seed")
    assert run(capsys, *same, 3)[0] == 0
    code, _, err = run(capsys, *same, 4)
    assert code == 1
    assert "holds another run" in err
    assert "config.seed: 3 there, 4 asked" in err
    assert {p: p.stat().st_mtime_ns for p in (work / "samples").iterdir() if p.name != ".lock"} == before


def test_show_explains_each_kind_of_folder(work: Path, capsys, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "show", work / "tickets", "--csv", tmp_path / "r.csv")
    assert code == 0
    assert "8 sparse networks" in out
    assert "density 0.1997" in out or "density 0.2" in out
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 9
    assert "trained on 6 tickets" in run(capsys, "show", work / "generator")[1]
    assert "training tickets" in run(capsys, "show", work / "report")[1]
    assert run(capsys, "show", work / "generator", "--csv", tmp_path / "x.csv")[0] == 1


def test_show_puts_reports_side_by_side(work: Path, capsys, tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "other" / "report"
    other.parent.mkdir()
    shutil.copytree(work / "report", other)
    code, out, _ = run(capsys, "show", work / "report", other, "--html", tmp_path / "c.html")
    assert code == 0
    assert f"\n{work.name} " in out.replace(f"\n{work.name}/report ", f"\n{work.name} ")
    assert "not copies" in out
    assert "Runs side by side" in (tmp_path / "c.html").read_text()
    monkeypatch.setattr(Picture, "png", "")  # tests/report draws them again
    assert run(capsys, "show", work / "report", "--html", tmp_path / "one.html")[0] == 0
    page = (work / "report" / "report.html").read_text()
    assert (tmp_path / "one.html").read_text() == re.sub(r'base64,[^"]+"', 'base64,"', page)
    for words, message in (
        ([work / "report", work / "tickets"], "has no report.json"),
        ([work / "report", work / "report"], "given twice"),
        ([work / "generator", "--html", tmp_path / "t.html"], "is none: leave --html out"),
        ([], "give a folder"),
    ):
        code, _, problem = run(capsys, "show", *words)
        assert code == 1
        assert message in problem


def test_help_explains_every_option_with_its_default(capsys) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    verbs = ("collect", "import", "tickets gradual", "tickets imp", "align", "fit", "sample", "evaluate", "show")
    for verb in verbs:
        assert f"• {verb.split()[0]} " in out
        code, text, _ = run(capsys, *verb.split(), "--help")
        assert code == 0
        for option in ("--device", "--threads", "--data-root", "--config"):
            assert option in text
    text = run(capsys, "fit", "--help")[1]
    # Each default beside its own option.
    assert _default(text, "--compress.components") == "16"
    assert _default(text, "--flow.batch-size") == "128"
    assert _default(text, "--flow.validation-fraction") == "0.1"
    assert _default(text, "--refine.radius") == "0.5"
    assert "umber of components kept, at most N - 1" in " ".join(text.replace("│", " ").split())


def _default(text: str, option: str) -> str:
    """What the help of an option says is its default."""
    lines = text.replace("│", " ").splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == [option])
    own = [lines[start]]
    for line in lines[start + 1 :]:
        if line.split()[:1] and (line.split()[0].startswith("--") or line.startswith("╰")):
            break
        own.append(line)
    return " ".join(" ".join(own).split()).rpartition("(default: ")[2].partition(")")[0]


def test_options_from_a_file_and_the_command_line_wins(work: Path, capsys, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"n": 3, "density": 0.15, "seed": 9, "out": str(tmp_path / "s")}))
    assert run(capsys, "sample", work / "generator", "--config", config, "--n", "2")[0] == 0
    samples = ws.Collection.load(tmp_path / "s")
    assert (len(samples), samples.records[0]["sample_seed"]) == (2, 9)
    config.write_text("- not options")
    assert run(capsys, "sample", work / "generator", "--config", config)[0] == 1
    assert run(capsys, "sample", work / "generator", "--config", tmp_path / "absent.yaml")[0] == 1
    config.write_text("typo: 3")
    assert run(capsys, "sample", work / "generator", "--config", config)[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["collect", "--out", "{tmp}/x", "--task", "cifar11"], 1, "no task is called 'cifar11'"),
        (["collect", "--out", "{tmp}/x", "--n", "0"], 1, "n must be a whole number of at least 1"),
        (["collect", "--out", "{tmp}/x", "--length", "soon"], 2, "30ep"),
        (["collect"], 2, "--out"),
        (["collect", "--out", "{tmp}/x", "--threads", "0"], 2, "--threads must be a whole number"),
        (["collect", "--out", "{tmp}/x", "--device", "abacus"], 2, "'abacus' is not available"),
        (["tickets", "gradual", "{work}/dense", "--out", "{tmp}/x", "--density", "1.5"], 2, "above 0 and of at most 1"),
        (["tickets", "gradual", "{tmp}/nothing", "--out", "{tmp}/x"], 1, "not a folder"),
        (["bench", "--out", "{tmp}/x", "--device", "cpu"], 1, "give a folder of tickets"),
        (["bench", "{work}/imp", "--out", "{tmp}/x", "--batches", "0"], 1, "at least 1"),
        (["tickets", "early-bird", "{work}/dense", "--out", "{tmp}/x"], 1, "no hidden channels with BatchNorm"),
        (["tickets", "control", "{work}/dense", "--out", "{tmp}/x", "--kind", "shuffled"], 1, 'extras["rewind"]'),
        (["tickets", "control", "{work}/imp", "--out", "{tmp}/x", "--kind", "transfer"], 1, "--task names"),
        (["tickets", "gradual", "{work}/dense@7", "--out", "{tmp}/x"], 1, "FOLDER@START:STOP"),
        (["sample", "{work}/generator", "--out", "{tmp}/x", "--density", "0"], 1, "density"),
        (["sample", "{work}/dense", "--out", "{tmp}/x", "--density", "0.1"], 1, "not a generator"),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x"],
            1,
            "at most 7 principal components, fewer than components = 16",
        ),
        (["fit", "{work}/tickets", "--compress.components", "4", "--out", "{work}/dense"], 1, "holds another run"),
        (
            ["evaluate", "{work}/samples", "--training", "{work}/tickets", "--others", "x", "--out", "{tmp}/x"],
            1,
            "NAME=FOLDER",
        ),
        (["show", "{tmp}"], 1, "not a collection"),
        (["import", "{tmp}", "--out", "{tmp}/x"], 1, "--model"),
        (["fit", "{work}/tickets", "--out", "{tmp}/x", "--refine.steps", "5", "--refine.lr", "-1"], 2, "lr must be"),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x", "--refine.steps", "5", "--refine.lr-mean", "0"],
            2,
            "--refine.lr-mean must be",
        ),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x", "--no-refine", "--refine.ramp", "0.5"],
            1,
            "leave one of them out",
        ),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x", "--refine.steps", "9", "--refine.radius", "0"],
            2,
            "radius must be",
        ),
        (["fit", "{work}/tickets", "--out", "{tmp}/x", "--refine.steps", "5", "--refine.patterns", "2"], 2, "density"),
        (["fit", "{work}/tickets", "--out", "{tmp}/x", "--refine.patterns", "24"], 2, "written like 2:4"),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x", "--compress.components", "4", "--flow.steps", "0"],
            2,
            "at least 1",
        ),
        (["sample", "{work}/generator", "--out", "{tmp}/x", "--density", "1e-9"], 1, "keeps none"),
        (["import", "{tmp}", "--out", "{tmp}/x", "--model", "MLP", "--arguments", "5"], 1, "mapping"),
        (["collect", "--out", "{tmp}/x", "--batch-size", "0"], 1, "batch_size must be"),
        (["tickets", "gradual", "{work}/dense", "--out", "{tmp}/x", "--task", "no:task"], 1, "cannot be imported"),
        (
            ["sample", "{work}/generator", "--density", "0.1", "--config=/nowhere", "--out", "{tmp}/x"],
            1,
            "cannot be read",
        ),
        (["sample", "{work}/generator", "--out", "{tmp}/x"], 1, "either density= or pattern="),
        (["sample", "{work}/generator", "--out", "{tmp}/x", "--pattern", "24"], 2, "written like 2:4"),
        (
            ["sample", "{work}/generator", "--out", "{tmp}/x", "--density", "0.1", "--condition", "x=1"],
            1,
            "without conditions",
        ),
        (["sample", "{work}/generator", "--out", "{tmp}/x", "--density", "0.1", "--condition", "x"], 1, "NAME=VALUE"),
        (
            ["fit", "{work}/tickets", "--out", "{tmp}/x", "--compress.components", "4", "--conditions", "density"],
            1,
            "for all tickets",
        ),
        (["dance"], 2, "no verb is called 'dance'"),
        ([], 2, "Expected one of {collect, merge, import"),
    ],
)
def test_mistakes_get_a_message_and_a_code_and_no_traceback(work, tmp_path, capsys, words, code, message) -> None:
    found, out, err = run(capsys, *(word.format(work=work, tmp=tmp_path) for word in words))
    assert found == code
    assert message in " ".join((out + err).replace("│", " ").replace("|", " ").split())
    assert "Traceback" not in out + err
    assert not (tmp_path / "x").exists()  # the corrected command can use the same folder


def test_a_folder_of_state_dicts_becomes_a_collection(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\n")
    (tmp_path / "files").mkdir()
    for i in range(3):
        torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict(), tmp_path / "files" / f"{i}.pt")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "import", "files", "--factory", "mine:build", "--import-from", ".", "--out", "zoo")[0] == 0
    assert run(capsys, "show", "zoo", "--factory", "mine:build", "--import-from", ".")[0] == 0
    from torch import nn

    loaded = ws.Collection.load("zoo", factory=lambda: nn.Sequential(nn.Linear(3, 2)))
    original = torch.load(tmp_path / "files" / "1.pt", weights_only=True)
    assert torch.equal(loaded.module(1).state_dict()["0.weight"], original["0.weight"])
    code, _, err = run(capsys, "import", "files", "--model", "MLP", "--arguments", "{sizes: [3, 2]}", "--out", "z")
    assert code == 1
    assert "0.pt does not fit MLP" in err
    assert run(capsys, "import", "files", "--factory", "mine:absent", "--import-from", ".", "--out", "z")[0] == 1


def test_import_says_what_it_took_off_and_takes_what_is_said(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "own.py").write_text("def rename(name):\n    return name.replace('old', '1')\n")
    state = ws.Architecture("MLP", {"sizes": [3, 2]}).build_seeded(0).state_dict()
    old = {name.replace("1", "old"): tensor for name, tensor in state.items()}
    torch.save({"state_dict": {"net." + name: t for name, t in state.items()}, "other": old}, tmp_path / "a.ckpt")
    monkeypatch.chdir(tmp_path)
    words = ("import", "a.ckpt", "--model", "MLP", "--arguments", "{sizes: [3, 2]}", "--out")
    code, out, _ = run(capsys, *words, "zoo")
    assert code == 0
    assert (
        "a.ckpt: the state dict is its entry 'state_dict'\na.ckpt: names were read without the prefix 'net.'\n" in out
    )
    said = ("--key", "state_dict", "--prefix", "net.")
    code, out, _ = run(capsys, *words, "same", *said)
    assert code == 0
    assert "a.ckpt" not in out
    code, _, err = run(capsys, *words, "other", "--key", "other")
    assert code == 1
    assert "--rename" in err
    assert run(capsys, *words, "other", "--key", "other", "--rename", "own:rename", "--import-from", ".")[0] == 0
    zoos = [ws.Collection.load(tmp_path / name) for name in ("zoo", "same", "other")]
    assert all(torch.equal(zoo.layout.pack(state)[None], zoo.weights) for zoo in zoos)


def test_interrupting_gives_130_and_the_same_command_continues(capsys, tmp_path: Path, monkeypatch) -> None:
    words = ("collect", "--out", tmp_path / "zoo", "--hidden", "4", "--n", "4", "--length", "2ep")
    monkeypatch.setattr("weightspace.training.engine._BLOCK", 2)
    run_steps = ws.training.Trainer.run
    monkeypatch.setattr(ws.training.Trainer, "run", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run(capsys, *words)
    assert code == 130
    assert "run the same command again" in err
    monkeypatch.setattr(ws.training.Trainer, "run", run_steps)
    assert run(capsys, *words)[0] == 0


def test_it_runs_as_a_command(environment: dict[str, str]) -> None:
    call = [sys.executable, "-m", "weightspace"]
    version = subprocess.run([*call, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert version.stdout.strip() == importlib.metadata.version("weightspace")
    mistake = subprocess.run([*call, "show", "/nowhere"], env=environment, capture_output=True, text=True)
    assert (mistake.returncode, mistake.stdout) == (1, "")
    assert mistake.stderr == "weightspace show: /nowhere is not a folder: give the folder of a collection\n"

"""Model zoos of training runs, as Ray Tune writes them, made on the fly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.cli.main import main
from weightspace.errors import InputError, LayoutMismatch, StorageError


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def write_run(folder: Path, params: dict[str, Any], epochs: list[int], *, file: str = "checkpoints") -> None:
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "params.pkl").write_bytes(b"never read")
    lines = [
        {
            "training_iteration": i,
            "train_loss": 1 / (i + 1),
            "test_acc": i / 100,
            "validation_acc": i / 50,
            "time_this_iter_s": 3.2,
            "timestamp": 5,
            "pid": 7,
            "done": False,
            "config": params,
            "hostname": "node",
        }
        for i in range(1, 51)
    ]
    (folder / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for epoch in epochs:
        place = folder / f"checkpoint_{epoch:06}"
        place.mkdir()
        module = build()
        with torch.no_grad():
            module[0].bias.fill_(epoch)
        torch.save(module.state_dict(), place / file)
        torch.save({"state": {}}, place / "optimizer")
        (place / ".is_checkpoint").touch()


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    write_run(tmp_path / "zoo" / "NN_0", {"lr": 0.1, "model::nlin": "tanh", "seed": 1}, [10, 50])
    write_run(tmp_path / "zoo" / "NN_1", {"lr": 0.2, "model::nlin": "relu", "seed": 2}, [50, 10, 5])
    (tmp_path / "zoo" / "index_dict.json").write_text("{}")
    return tmp_path / "zoo"


def test_the_last_networks_with_settings_and_results(zoo: Path) -> None:
    networks = ws.from_zoo(zoo, build)
    assert len(networks) == 2
    record = networks.records[1]
    assert (record["run"], record["epoch"]) == ("NN_1", 50)
    assert record["file"] == "NN_1/checkpoint_000050/checkpoints"
    assert record["params"] == {"lr": 0.2, "model::nlin": "relu", "seed": 2}
    assert record["metrics"] == {"train_loss": 1 / 51, "test_acc": 0.5, "validation_acc": 1.0}  # no bookkeeping
    assert record.main_metric == ("validation_acc", True)
    assert networks.layout.unpack(networks.weights)["0.bias"].eq(50).all()


def test_all_epochs_in_order_and_some(zoo: Path) -> None:
    networks = ws.from_zoo(zoo, build, epochs="all")
    assert [(r["run"], r["epoch"]) for r in networks.records] == [
        ("NN_0", 10),
        ("NN_0", 50),
        ("NN_1", 5),
        ("NN_1", 10),
        ("NN_1", 50),
    ]
    assert networks.layout.unpack(networks.weights)["0.bias"][:, 0].tolist() == [10, 50, 5, 10, 50]
    with pytest.warns(UserWarning, match=r"left out, without a checkpoint of \[5\]: NN_0"):
        some = ws.from_zoo(zoo, build, epochs=[5])
    assert [r["run"] for r in some.records] == ["NN_1"]
    with pytest.raises(InputError, match="none of the 2 runs"):
        ws.from_zoo(zoo, build, epochs=[7])


def test_some_runs_by_their_settings(zoo: Path) -> None:
    networks = ws.from_zoo(zoo, build, where=lambda params: params["model::nlin"] == "tanh")
    assert [r["run"] for r in networks.records] == ["NN_0"]


def test_settings_and_results_are_conditions(zoo: Path) -> None:
    networks = ws.from_zoo(zoo, build, epochs="all")
    model = ws.TicketGenerator(
        align=None,
        compress=ws.PCA(2),
        generate=ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=4),
        conditions=("params.lr", "metrics.test_acc", "epoch"),
    ).fit(networks)
    assert model.conditions.names == ["params.lr", "metrics.test_acc", "epoch"]


def test_a_zoo_in_a_folder_and_files_of_other_names(tmp_path: Path) -> None:
    write_run(tmp_path / "outer" / "tune_zoo" / "NN_0", {"lr": 0.1}, [2], file="model.pt")
    networks = ws.from_zoo(tmp_path / "outer", build)
    assert networks.records[0]["file"] == "tune_zoo/NN_0/checkpoint_000002/model.pt"


def test_runs_that_diverged_or_were_killed(zoo: Path) -> None:
    results = zoo / "NN_0" / "result.json"
    lines = results.read_text().splitlines()
    lines[9] = lines[9].replace(json.dumps(1 / 11), "NaN")
    results.write_text("\n".join([*lines[:10], lines[10][:20]]))
    networks = ws.from_zoo(zoo, build, epochs=[10])
    assert networks.records[0]["metrics"] == {"test_acc": 0.1, "validation_acc": 0.2}
    assert "train_loss" in networks.records[1]["metrics"]  # the control
    results.write_text("\n".join([lines[0][:20], *lines]))
    with pytest.raises(StorageError, match=r"result\.json, line 1"):
        ws.from_zoo(zoo, build)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_no_file_runs_code(zoo: Path, tmp_path: Path) -> None:
    torch.save({"0.weight": Evil(tmp_path / "pwned")}, zoo / "NN_1" / "checkpoint_000050" / "checkpoints")
    with pytest.raises(StorageError, match="weights_only"):
        ws.from_zoo(zoo, build)
    assert not (tmp_path / "pwned").exists()


def test_what_is_no_zoo(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no runs.*from_state_dicts"):
        ws.from_zoo(zoo / "NN_0" / "checkpoint_000010", build)
    torch.save({}, zoo / "NN_0" / "checkpoint_000050" / "other.pt")
    with pytest.raises(StorageError, match=r"checkpoint_000050 should hold one file.*other\.pt"):
        ws.from_zoo(zoo, build)
    (zoo / "NN_0" / "checkpoint_000050" / "other.pt").unlink()
    with pytest.raises(LayoutMismatch, match=r"NN_0/checkpoint_000050 does not fit"):
        ws.from_zoo(zoo, lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
    with pytest.raises(InputError, match="epochs"):
        ws.from_zoo(zoo, build, epochs=[])


def test_on_the_command_line(zoo: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "own_zoo.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))\n"
    )
    words = ["import", str(zoo), "--out", str(tmp_path / "out"), "--factory", "own_zoo:build"]
    words += ["--import-from", str(tmp_path)]
    assert main([*words, "--zoo", "--epochs", "10,50"]) == 0
    assert len(ws.Collection.load(tmp_path / "out", factory=build)) == 4
    capsys.readouterr()
    assert main([*words, "--zoo", "--epochs", "first"]) == 1
    assert "--epochs is last, all" in capsys.readouterr().err
    assert main([*words, "--epochs", "all"]) == 1
    assert "give --zoo" in capsys.readouterr().err

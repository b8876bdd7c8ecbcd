"""Tiny folders of every kind, made once: what random command lines are about, and what is damaged."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

import weightspace as ws
from weightspace.cli.main import parse as parse_words
from weightspace.report.page import Picture
from weightspace.sparse import save_ticket
from weightspace.tickets import IMP, GradualPruning
from weightspace.training.engine import Execution

at = ws.Step.of
OWN = """
import weightspace as ws

def network():
    return ws.models.MLP((4, 4, 3))

def task():
    return ws.tasks.iris(hidden=(4,))

def raises():
    raise RuntimeError("of my own")

def keep(name):
    return name

number = 3
"""


def small_task() -> ws.Task:
    """Iris with a network of 35 parameters, trained for two steps."""
    return replace(ws.tasks.iris(hidden=(4,)), recipe=ws.Recipe(at("2it"), 18, ws.SGD(lr=0.1)))


@dataclass(frozen=True)
class World:
    """The folders.

    Args:
        root: Folder of all.
    """

    root: Path

    def files(self) -> Mapping[str, tuple[int, int]]:
        """Size and time of every file that a command line must leave alone."""
        return {
            path.relative_to(self.root).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.startswith(".lock")
        }


def make(root: Path, *, everything: bool = True) -> World:
    """Write the folders.

    Args:
        root: A new folder.
        everything: Whether to write what takes seconds too: what aligns, evaluates or studies.
    """
    root.mkdir(parents=True)
    task = small_task()
    with cheap():
        _write(root, task, everything=everything)
    return World(root)


@contextlib.contextmanager
def cheap() -> Iterator[None]:
    """Two networks side by side, without measuring, and one figure in a report."""
    with (
        patch("weightspace.training.engine._choose", lambda *_: Execution(2, 1, 0.0, "")),
        patch.object(ws.Report, "plot", lambda _self: [Picture("accuracy", "of nothing", Figure())]),
    ):
        yield


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Command lines that come again and again are parsed once: that takes longer than most of them do."""
    known: dict[tuple[str, ...], object] = {}

    def parse(verb: str, words: Sequence[str]) -> object:
        key = (verb, *words)
        if key not in known:
            known[key] = parse_words(verb, words)
        return known[key]

    with patch("weightspace.cli.main.parse", parse):
        yield


def _write(root: Path, task: ws.Task, *, everything: bool) -> None:
    dense = ws.collect(task, 4, seed=0, folder=root / "dense")
    ws.collect(task, 4, seed=1).save(root / "others")
    finder = GradualPruning(density=0.5, length=at("2it"), every=1)
    tickets = finder.find(dense, task, folder=root / "tickets")
    finder.find(dense, task).save(root / "saved")
    if everything:
        IMP(density=0.5, rate=0.5).find(dense, task, folder=root / "rewound")
    flow = ws.FlowMatching(width=4, blocks=1, steps=2, batch_size=4, solver_steps=2)
    align = ws.WeightMatching() if everything else None
    model = ws.TicketGenerator(align, compress=ws.PCA(1), generate=flow).fit(tickets, folder=root / "generator")
    assert model.compress is not None
    model.compress.save(root / "pca")
    model.flow.save(root / "flow")
    model.sample(3, density=0.5, seed=0, folder=root / "samples")
    save_ticket(tickets[0], root / "ticket.safetensors")
    _foreign_files(root, dense)
    if everything:
        assert model.align is not None
        model.align.save(root / "matching")
        model.align.transform(tickets).save(root / "aligned")
        _evaluated(root, task)


def _foreign_files(root: Path, dense: ws.Collection) -> None:
    """Files that are not the library's."""
    (root / "states").mkdir()
    for i in range(2):
        state = {name: tensor.clone() for name, tensor in dense[i].state_dict().items()}
        save_file(state, root / "states" / f"{i}.safetensors")
        torch.save({"model": state, "epoch": i}, root / "states" / f"{i + 2}.pt")
    (root / "own_code.py").write_text(OWN)
    (root / "file").write_text("somebody's notes\n")
    (root / "empty").mkdir()
    (root / "set.yaml").write_text("seed: 3\ndevice: cpu\n")
    (root / "list.yaml").write_text("- 1\n- 2\n")
    (root / "broken.yaml").write_bytes(b"a: [\xff\n")
    (root / "broken.json").write_text(json.dumps({"a": 1})[:-1])
    (root / "link").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")


def _evaluated(root: Path, task: ws.Task) -> None:
    from weightspace import bayes

    samples = ws.Collection.load(root / "samples")
    report = ws.evaluate(samples, task, training=ws.Collection.load(root / "tickets"), dropout=None, seed=0)
    report.write(root / "report")
    shutil.copytree(root / "report", root / "report 2")
    finder = bayes.BayesianIMP(density=0.5, rate=0.5)
    task = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam(lr=0.1)))
    scores = dict(list(bayes.STUDY_SCORES.items())[:1])
    bayes.Study(task, finder, scores, networks=2, draws=2).run(root / "study")

"""What weightspace 0.1 leaves on disk, finished and unfinished, as fixtures for all later versions.

Written by and for version 0.1 (`git show base-frozen`, before packages and classes were renamed): it patches that
version's private constants to stop runs in the middle, and its calls use that version's names. A later version cannot
run it, and what a later version wrote would prove nothing: it is kept to say how `v0_1/` came about.

    PYTHONPATH=. OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python tests/compat/make_fixtures.py

All calls run inside one folder with relative paths, so that no path of the machine gets into a file:

    done/NAME   complete runs and saved things
    cut/NAME    runs that were killed in the middle, with checkpoints
    begun/NAME  runs that were killed at once: only the configuration is there

`manifest.json` holds each call as text, and what version 0.1 makes of the unfinished ones.
"""

import hashlib
import io
import json
import lzma
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Measured choices differ from machine to machine: the fixtures always train two networks side by side on one thread.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="weightspace-cache-")

import torch
from weightspace.generate import fitted, refine

import weightspace as ws
from weightspace import bayes, generate
from weightspace.cli import main
from weightspace.storage import ShardWriter, pack_bits
from weightspace.training import blocks, probe, trainer

HERE = Path(__file__).parent
TARGET = HERE / "v0_1"
VERSION = "0.1.0"

PREAMBLE = """
from dataclasses import replace
from pathlib import Path
from torch import nn
import weightspace as ws
from weightspace import bayes, hub, tickets
from weightspace.align import Star, Wasserstein, Weights
from weightspace.symmetry import trace

at = ws.Step.of
base = ws.tasks.iris(hidden=(8,))
task = replace(base, recipe=ws.Recipe(ws.Step(epochs=3), 18, ws.SGD(lr=0.1), "cosine"))
adam = replace(base, recipe=ws.Recipe(ws.Step(epochs=2), batch_size=18, optimizer=ws.Adam(lr=5e-3)))
images = ws.tasks.digits(hidden=(2,))
images = replace(images, recipe=replace(images.recipe, length=ws.Step(epochs=4)))
every = replace(images, recipe=ws.Recipe(
    ws.Step(2, 3), 256, ws.Adam(lr=2e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4, decoupled=True),
    ws.Schedule("step", warmup=at("2it"), milestones=(at("1ep"), at("9it")), gamma=0.5),
    ws.Augmentation(crop=1, flip=True), at("2it")))

def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

norms = replace(task, architecture=ws.Architecture.of(normed))

class Here:
    map = staticmethod(map)

def load(name, factory=None):
    return ws.Collection.load(Path("done") / name, factory=factory)

def generator(name, factory=None):
    return ws.FittedGenerator.load(Path("done") / name, factory=factory)

flow = ws.FlowMatching(width=4, blocks=1, steps=40, batch_size=16)
"""


@contextmanager
def after(owner: Any, name: str, calls: int) -> Iterator[None]:
    """The process is killed right after so many calls of a function."""
    original, count = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        found = original(*args, **kwargs)
        if count == calls:
            raise KeyboardInterrupt
        return found

    with patch.object(owner, name, wrapped):
        yield


@contextmanager
def before(owner: Any, name: str, calls: int = 1) -> Iterator[None]:
    """The process is killed in place of this call of a function."""
    original, count = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with patch.object(owner, name, wrapped):
        yield


def saved(calls: int, block: int = 64) -> Callable[[], list[Any]]:
    """Killed after so many checkpoints of a trainer, of which there is one at every stop."""
    return lambda: [
        patch.object(trainer, "_CHECKPOINT_SECONDS", -1.0), patch.object(ws.tickets.strong, "_EVERY", 7),
        patch.object(blocks, "_BLOCK", block), after(trainer.Trainer, "save", calls),
    ]  # fmt: skip


def batches(calls: int) -> Callable[[], list[Any]]:
    """Killed before a batch, with no checkpoints but those that a finder writes itself."""
    return lambda: [before(trainer.Trainer, "_batch", calls)]


def posterior(calls: int) -> Callable[[], list[Any]]:
    """Killed after so many checkpoints of variational training."""
    return lambda: [
        patch.object(bayes.variational, "_CHECKPOINT_STEPS", 4), after(bayes.variational.Inference, "save", calls),
    ]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One thing that is made.

    Args:
        name: of the folder.
        call: text of a Python call in which `out` is the folder, or words of a command line with "OUT".
        kind: of run or thing.
        done: keep the finished one.
        cut: patches that stop it in the middle; None to keep no interrupted one.
        begun: keep one that was killed at once.
    """

    name: str
    kind: str
    call: str | list[str]
    done: bool = False
    cut: Callable[[], list[Any]] | None = None
    begun: bool = False
    run: bool = True  # has a configuration; others are saved in one go


def at_once(kind: str) -> list[Any]:
    if kind == "fit":
        return [before(ws.TicketGenerator, "_fit")]
    if kind == "evaluate":
        return [patch("weightspace.verbs.measure", side_effect=KeyboardInterrupt)]
    return [before(blocks, "writer_for")]


D2 = 'load("dense")[:2]'
CASES = [
    # collections
    Case("dense", "collect", "ws.collect(task, 4, seed=0, folder=out)", True, saved(5, 2)),
    Case("norms", "collect", "ws.collect(norms, 2, seed=0, folder=out)", True, saved(2)),
    Case("shared_start", "collect", 'ws.collect(task, 4, seed=1, kind=ws.SharedStart(at("2it")), folder=out)', cut=saved(4, 2)),
    Case("trajectory", "collect", 'ws.collect(task, 4, seed=2, kind=ws.Trajectory(at("10it")), folder=out)',
         cut=lambda: [patch.object(blocks, "_BLOCK", 4), before(trainer.Trainer, "_batch", 20)]),
    Case("grid", "collect",
         "ws.collect(task, 1, seed=3, kind=ws.Grid(lr=(0.1, 0.2), label_noise=(0.0, 0.5)), folder=out)", begun=True),
    Case("every_setting", "collect", "ws.collect(every, 2, seed=5, folder=out)", cut=saved(3)),
    Case("images", "collect", "ws.collect(images, 3, seed=6, folder=out)", True),
    Case("shard", "collect", "ws.collect(task, 4, seed=0, shard=(1, 2), folder=out)", True),
    Case("parts", "collect", "ws.collect_on(Here(), task, 2, shards=2, folder=out, seed=4)", cut=saved(4)),
    Case("cli_collect", "collect",
         ["collect", "--out", "OUT", "--task", "iris", "--hidden", "8", "--n", "1", "--length", "3ep", "--batch-size", "18",
          "--lr", "0.1", "--grid-weight-decay", "0.0", "0.001"], cut=saved(1)),
    # tickets
    Case("gradual", "tickets",
         'tickets.Gradual(density=0.3, length=at("2ep"), every=2).find(load("dense"), task, folder=out)', True),
    Case("cli_gradual", "tickets",
         ["tickets", "gradual", "done/dense@:2", "--out", "OUT", "--density", "0.3", "--length", "2ep", "--every", "2",
          "--scope", "layer", "--ramp", "0.6"], cut=saved(2)),
    Case("train", "train", 'ws.train(load("gradual")[:2], task, "2ep", folder=out)', cut=saved(1)),
    Case("imp", "tickets", f'tickets.IMP(density=0.4, rate=0.4, rewind=at("2it")).find({D2}, task, folder=out)', True,
         batches(20)),
    Case("imp_first_level", "tickets",
         ["tickets", "imp", "done/dense@2:4", "--out", "OUT", "--density", "0.4", "--rate", "0.4", "--survivors", "keep"],
         cut=batches(8)),
    Case("imp_ladder", "tickets", f"tickets.IMP(density=0.4, rate=0.4).ladder({D2}, task, folder=out)", cut=saved(4)),
    Case("imp_fine_tune", "tickets", f'tickets.IMP(density=0.5, rate=0.5, survivors="fine-tune").find({D2}, task, folder=out)',
         begun=True),
    Case("imp_layer_rates", "tickets", f"tickets.IMP(pattern=ws.LayerRates(2)).find({D2}, task, folder=out)", begun=True),
    Case("imp_nm", "tickets", f"tickets.IMP(pattern=ws.NM(2, 4), rate=0.4).find({D2}, task, folder=out)", begun=True),
    Case("imp_channels", "tickets", f"tickets.IMP(pattern=ws.Channels(0.5), rate=0.6).find({D2}, task, folder=out)", begun=True),
    Case("imp_layer", "tickets", f'tickets.IMP(pattern=ws.Unstructured(0.5, "layer"), rate=0.6).find({D2}, task, folder=out)',
         begun=True),
    Case("snip", "tickets", f"tickets.AtStart(density=0.3).find({D2}, task, folder=out)", True, saved(2)),
    Case("cli_synflow", "tickets",
         ["tickets", "start", "done/dense@:2", "--out", "OUT", "--score", "synflow", "--density", "0.3", "--after", "2it"],
         cut=saved(2)),
    Case("cli_random", "tickets",
         ["tickets", "start", "done/dense@:2", "--out", "OUT", "--score", "random", "--density", "0.3", "--layers", "erk"],
         begun=True),
    Case("cli_magnitude", "tickets",
         ["tickets", "start", "done/dense@:2", "--out", "OUT", "--score", "magnitude", "--density", "0.3", "--layers",
          "balanced"], begun=True),
    Case("cli_grasp", "tickets",
         ["tickets", "start", "done/dense@:2", "--out", "OUT", "--score", "grasp", "--layers", "alike", "--density", "0.3"],
         begun=True),
    Case("cli_start_nm", "tickets", ["tickets", "start", "done/dense@:2", "--out", "OUT", "--nm", "2:4"], begun=True),
    Case("rigl", "tickets", f"tickets.Dynamic(density=0.3, every=4).find({D2}, task, folder=out)", True, saved(3)),
    Case("set", "tickets",
         f'tickets.Dynamic(pattern=ws.Unstructured(0.3, "layer"), grow="random", every=4).find({D2}, task, folder=out)',
         begun=True),
    Case("popup", "tickets", f"tickets.EdgePopup().find({D2}, task, folder=out)", True, saved(1)),
    Case("cli_popup", "tickets",
         ["tickets", "popup", "done/dense@:2", "--out", "OUT", "--binary", "--weights", "signed", "--scope", "global"],
         begun=True),
    Case("continuous", "tickets", f"tickets.ContinuousSparsification(density=0.3).find({D2}, task, folder=out)", True,
         saved(2)),
    Case("cli_continuous", "tickets",
         ["tickets", "continuous", "done/dense@:2", "--out", "OUT", "--penalty", "0.001", "--mask-lr", "2.0"], begun=True),
    Case("early_bird", "tickets", 'tickets.EarlyBird().find(load("norms", normed), norms, folder=out)', True, batches(8)),
    Case("deconstruction", "tickets", f"tickets.Deconstruction(0.3).find({D2}, task, folder=out)", True, saved(2)),
    Case("frozen", "tickets",
         f'tickets.Deconstruction(0.3, tickets.deconstruct.movement, "same", "constant", True, "frozen")'
         f".find({D2}, task, folder=out)", begun=True),
    Case("deconstruction_nm", "tickets",
         f'tickets.Deconstruction(kept="reshuffle", pattern=ws.NM(2, 4)).find({D2}, task, folder=out)', begun=True),
    Case("refill", "control", ["tickets", "control", "done/imp", "--out", "OUT", "--kind", "refill"], True, run=False),
    Case("transfer", "control",
         ["tickets", "control", "done/imp@:1", "--out", "OUT", "--kind", "transfer", "--task", "iris"], True, run=False),
    # alignment, of posteriors too
    Case("posteriors", "posteriors", 'bayes.Variational(std=0.1).fit(load("gradual"), adam, folder=out)', True),
    # `weightspace align` and `show` of version 0.1 stop at posteriors' records, whose metrics have no accuracy.
    Case("spread", "collection", 'load("posteriors")[:2].replace(records=[{"seed": 1}, {"seed": 2}]).save(out)', True, run=False),
    Case("align", "align", ["align", "done/gradual", "--out", "OUT"], True),
    Case("align_star", "align",
         ["align", "done/gradual", "--out", "OUT", "--population", "star", "--reference", "1", "--no-balance"],
         cut=lambda: [patch("weightspace.align_verbs._BLOCK", 2), before(ws.align.FittedMatching, "transform", 2)]),
    Case("align_merge_many", "align", ["align", "done/gradual", "--out", "OUT", "--population", "merge-many"], begun=True),
    Case("align_universe", "align", ["align", "done/gradual", "--out", "OUT", "--population", "universe"], begun=True),
    Case("align_extras", "align",
         ["align", "done/imp", "--out", "OUT", "--compare", "weights", "rewind", "--to", "done/snip", "--fix-unknown"],
         begun=True),
    Case("align_activations", "align", ["align", "done/gradual", "--out", "OUT", "--method", "activations"], begun=True),
    Case("align_straight", "align", ["align", "done/gradual@:2", "--out", "OUT", "--method", "straight-through"], begun=True),
    Case("align_wasserstein", "align", ["align", "done/spread", "--out", "OUT", "--posterior", "wasserstein"], begun=True),
    Case("align_precision", "align", ["align", "done/spread", "--out", "OUT", "--posterior", "precision"], begun=True),
    # Bayes
    Case("horseshoe", "posteriors",
         'bayes.Variational(bayes.Horseshoe(), 0.5, at("3it"), 2).fit(load("imp"), adam, folder=out)', cut=posterior(1)),
    Case("mixture", "posteriors",
         'bayes.Variational(bayes.ScaleMixture(), estimator="flipout").fit(load("gradual")[:1], adam, folder=out)', begun=True),
    Case("centred", "posteriors",
         'bayes.Variational(bayes.Centred(), estimator="local").fit(load("gradual")[:1], adam, folder=out)', begun=True),
    Case("bayes_imp", "posteriors",
         'bayes.BayesianIMP(density=0.5, rate=0.5, score=bayes.Band(0.1), sigma="rescaled", rewind=at("2it"))'
         f".ladder({D2}, adam, folder=out)", cut=posterior(4)),
    Case("gates", "gates", f'bayes.GateSearch(density=0.3, length=at("2ep")).find({D2}, task, folder=out)', True,
         lambda: [patch.object(bayes.gates, "_CHECKPOINT_STEPS", 4), before(bayes.gates._Search, "_update", 7)]),
    Case("concrete", "gates", f'bayes.GateSearch.concrete(0.3, length=at("2ep")).find({D2}, task, folder=out)', begun=True),
    Case("study", "bayes",
         ["bayes", "--out", "OUT", "--task", "iris", "--hidden", "8", "--n", "1", "--scores", "magnitude", "signal-to-noise",
          "--density", "0.5", "--rate", "0.5", "--draws", "2", "--length", "2ep", "--batch-size", "18"], cut=posterior(7)),
    # generators
    Case("fit_plain", "fit",
         'ws.TicketGenerator(compress=ws.PCA(2), generate=flow).fit(load("gradual"), seed=0, folder=out)', True),
    Case("fit_refined", "fit",
         "ws.TicketGenerator(compress=ws.PCA(2), generate=replace(flow, held_out=0.25), masks=ws.SharedSupport(), "
         'conditions=("metrics.validation_loss",), refine=ws.TaskRefinement(task, [ws.Unstructured(0.3), ws.NM(1, 4)], '
         'steps=12, networks=4, batch_size=32, ramp=0.5)).fit(load("gradual"), seed=1, folder=out)', True,
         lambda: [patch.object(ws.flow.fit, "_CHECKPOINT_EVERY", 30), patch.object(refine, "_CHECKPOINT_EVERY", 5),
                  after(refine, "save_checkpoint", 1)]),
    Case("fit_gates", "fit",
         ["fit", "done/gradual", "--out", "OUT", "--components", "2", "--width", "4", "--blocks", "1", "--steps", "40",
          "--batch-size", "16", "--held-out", "0.25", "--masks", "gates"], True,
         lambda: [patch.object(ws.flow.fit, "_CHECKPOINT_EVERY", 10), after(ws.flow.fit, "save_checkpoint", 2)]),
    Case("fit_published", "fit",
         "ws.TicketGenerator(None, None, ws.DeepWeightFlow(width=2, time=1, steps=20))"
         '.fit(load("align"), seed=2, folder=out)', True,
         lambda: [patch.object(ws.flow.fit, "_CHECKPOINT_EVERY", 8), after(ws.flow.fit, "save_checkpoint", 1)]),
    Case("fit_posteriors", "fit",
         "ws.TicketGenerator(ws.WeightMatching(cost=Wasserstein()), ws.PCA(1), flow, masks=ws.Posteriors())"
         '.fit(load("posteriors"), seed=3, folder=out)', True),
    Case("fit_norms", "fit",
         'ws.TicketGenerator(compress=ws.PCA(1), generate=flow).fit(load("early_bird", normed), folder=out)', True),
    Case("cli_fit_refined", "fit",
         ["fit", "done/gradual", "--out", "OUT", "--components", "2", "--width", "4", "--steps", "30", "--held-out", "0.25",
          "--masks", "shared", "--conditions", "metrics.validation_loss", "--no-balance", "--refine-steps", "4",
          "--refine-densities", "0.3", "0.2", "--refine-nm", "2:4", "--refine-directions", "random"], begun=True),
    Case("fit_alignment", "fit",
         "ws.TicketGenerator(ws.WeightMatching(balance=False, cost=Weights((\"weights\", \"rewind\"), (\"rewind\",)), "
         'population=Star(1), fix_unknown=True), ws.PCA(1), flow).fit(load("imp"), folder=out)', begun=True),
    Case("fit_symmetry", "fit",
         "ws.TicketGenerator(ws.WeightMatching("
         "trace(task.architecture.build_seeded(0).eval(), task.train.x[:4]), True, task.train.x[:4]), "
         'ws.PCA(0.5), replace(flow, pairing="optimal")).fit(load("gradual"), folder=out)', begun=True),
    # samples
    Case("sample", "sample", 'generator("fit_plain").sample(4, density=0.3, seed=1, folder=out)', True),
    Case("cli_sample", "sample",
         ["sample", "done/fit_refined", "--out", "OUT", "--n", "2", "--density", "0.3", "0.2", "--no-nested", "--condition",
          "metrics.validation_loss=CONDITION", "--guidance", "1.5", "--seed", "4"],
         cut=lambda: [patch.object(fitted, "_BLOCK_BYTES", 4 * 67 * 2), before(ws.flow.FittedFlow, "carry", 2)]),
    Case("cli_sample_nm", "sample", ["sample", "done/fit_gates", "--out", "OUT", "--n", "2", "--nm", "1:4"], begun=True),
    Case("sample_erk", "sample", 'generator("fit_gates").sample(2, pattern=ws.ERK(0.3), folder=out)', begun=True),
    Case("sample_nested", "sample", 'generator("fit_published").sample(2, density=(0.2, 0.1), folder=out)', begun=True),
    Case("sample_norms", "sample",
         'generator("fit_norms", normed).sample(2, density=0.3, data=norms.train, folder=out)', begun=True),
    Case("sample_posteriors", "sample", 'generator("fit_posteriors").sample(2, density=0.2, folder=out)', begun=True),
    # what is measured, and other files
    Case("evaluate", "evaluate",
         ["evaluate", "done/images@:2", "--reference", "done/images", "--out", "OUT", "--components", "1", "--dropout"], True),
    Case("export", "export", ["export", "done/imp@:1", "--out", "OUT"], True, run=False),
    Case("hub", "hub", 'hub.save_pretrained(generator("fit_plain"), out, name="owner/name")', True, run=False),
]  # fmt: skip


# What differs from run to run, or is only looked at.
IGNORED = {"complete.json", "metrics.jsonl", ".lock", "engine.json", "rows.csv"}
IGNORED_KINDS = {".html", ".png", ".svg"}


def data_files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*")
        if p.is_file() and p.name not in IGNORED and p.suffix not in IGNORED_KINDS and ".partial" not in p.name
    )  # fmt: skip


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    return sha(tensor.contiguous().numpy().tobytes())


def contents(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Everything in a folder that a version can load, as tensors: {relative path: {name: tensor}}."""
    factory = SPACE["normed"]
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in sorted(folder.rglob("*.json")):
        place, name = path.parent, path.parent.relative_to(folder).as_posix()
        if path.name == "collection.json":
            own = json.loads(path.read_text())["architecture"]["name"] == "normed"
            part = ws.Collection.load(place, factory=factory if own else None)
            found[name] = {"weights": part.weights, "masks": part.masks.contiguous()}
            found[name] |= {f"extra.{k}": t for k, t in part.extras.items()}
            found[name] |= {f"buffer.{k}": t for k, t in part.buffers.items()}
        elif path.name == generate.MANIFEST:
            own = json.loads(path.read_text())["architecture"]["name"] == "normed"
            found[name] = ws.FittedGenerator.load(place, factory=factory if own else None).tensors()
    for path in sorted(folder.glob("network-*.safetensors")):
        network = ws.sparse.export.load_ticket(path)
        found[path.name] = {"weights": network.weights, "mask": network.mask}
    return found


def digest(folder: Path, numbers: bool = True) -> dict[str, Any]:
    """SHA-256 of each tensor (the first 16 digits) and its shape; of floating ones a few numbers.

    Args:
        numbers: that other machines must come near.
    """
    found: dict[str, Any] = {}
    for place, tensors in contents(folder).items():
        found[place] = {}
        for name, tensor in tensors.items():
            own: dict[str, Any] = {"sha256": tensor_digest(tensor)[:16], "shape": list(tensor.shape)}
            if numbers and tensor.is_floating_point():
                flat = tensor.double().flatten()
                own |= {"some": [float(f"{v:.6g}") for v in flat[:4]]}
            found[place][name] = own
    return found


def records(folder: Path) -> str | None:
    path = folder / "records.jsonl"
    return sha(path.read_bytes()) if path.exists() else None


SPACE: dict[str, Any] = {}


def perform(case: Case, out: str) -> str | list[str]:
    """Run a case into a folder; returns the call as it was made."""
    if isinstance(case.call, list):
        words = [out if word == "OUT" else word.replace("CONDITION", CONDITION) for word in case.call]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            code = main(words)
        if code == 130:
            raise KeyboardInterrupt
        assert code == 0, (words, said.getvalue())
        return words
    eval(case.call, SPACE | {"out": Path(out)})
    return case.call


def interrupt(case: Case, out: str, patches: list[Any]) -> None:
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        try:
            perform(case, out)
        except KeyboardInterrupt:
            return
    raise AssertionError(f"{case.name} was not interrupted")


def tidy(folder: Path) -> None:
    """Leave out locks and what is only looked at."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.name == ".lock" or path.suffix in IGNORED_KINDS):
            path.unlink()
        if path.name == "report.json":
            # Much smaller than as it was written; the tests unpack it.
            path.with_name("report.json.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
            path.unlink()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> dict[str, str]:
    return {"torch": torch.__version__, "cpu": processor(), "capability": torch.backends.cpu.get_cpu_capability()}


CONDITION = ""


def fixed(task: ws.Task, limit: int, device: str) -> probe.Engine:
    return probe.Engine(min(limit, 2), 1, 0.0)


def version_1() -> None:
    """A sparse collection as the first format had it: dense weights beside the masks."""
    old = SPACE["load"]("imp")
    writer = ShardWriter(
        Path("done/version_1"), {"layout": old.layout.to_json(), "architecture": old.architecture.to_json()}
    )
    columns = {"weights": old.weights, "masks": pack_bits(old.masks)}
    writer.add(columns | {f"extra.{n}": t for n, t in old.extras.items()}, old.records)
    writer.close()
    path = Path("done/version_1/collection.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}, indent=1))


def make(only: set[str]) -> None:
    global CONDITION
    torch.set_num_threads(1)
    exec(PREAMBLE, SPACE)
    manifest: dict[str, Any] = {
        "version": VERSION, "machine": machine(), "preamble": PREAMBLE.strip().splitlines(), "fixtures": [],
    }  # fmt: skip
    add = manifest["fixtures"].append
    for case in CASES:
        if only and case.name not in only and not case.done:
            continue
        began = time.time()
        if case.name == "cli_sample":
            values = [r["metrics"]["validation_loss"] for r in SPACE["load"]("gradual").records]
            CONDITION = f"{(min(values) + max(values)) / 2:.3f}"
        home = "done" if case.done else "whole"
        call = perform(case, f"{home}/{case.name}")
        whole = Path(home) / case.name
        if case.done:
            tidy(whole)
            add({
                "folder": f"done/{case.name}", "kind": case.kind, "state": "done", "call": call, "run": case.run,
                "records": records(whole), "loaded": digest(whole, numbers=False),
            })  # fmt: skip
            for place in whole.rglob(generate.MANIFEST):
                own = json.loads(place.read_text())["architecture"]["name"] == "normed"
                model = ws.FittedGenerator.load(place.parent, factory=SPACE["normed"] if own else None)
                manifest["fixtures"][-1]["fingerprint"] = model.fingerprint()
        for state in ("cut", "begun"):
            if (state == "cut" and case.cut is None) or (state == "begun" and not case.begun):
                continue
            out = f"{state}/{case.name}"
            interrupt(case, out, case.cut() if state == "cut" and case.cut else at_once(case.kind))
            tidy(Path(out))
            if case.name == "dense":  # a process that is killed while it writes leaves this
                Path(out, ".shard-00001.safetensors.4321.partial").write_bytes(b"half a file")
            kept = Path("kept") / out
            shutil.copytree(out, kept)
            call = perform(case, out)
            loaded, entire = digest(Path(out)), digest(whole)
            files = {p.relative_to(out).as_posix(): sha(p.read_bytes()) for p in data_files(Path(out))}
            files = {n: s for n, s in files.items() if not (n.endswith("config.yaml") and (kept / n).exists())}
            add({
                "folder": out, "kind": case.kind, "state": state, "call": call, "run": True,
                "resumed": files, "loaded": loaded,
            })  # fmt: skip
            assert loaded == entire, f"{out} is not what it is without an interruption"
            shutil.rmtree(out)
            shutil.copytree(kept, out)
        size = sum(
            p.stat().st_size for s in ("done", "cut", "begun") for p in Path(s, case.name).rglob("*") if p.is_file()
        )
        print(f"{case.name:<20}{time.time() - began:6.1f} s {size / 1000:7.1f} kB", flush=True)
        if case.name == "imp":
            version_1()
            folder = Path("done/version_1")
            add({
                "folder": "done/version_1", "kind": "collection", "state": "done", "run": False,
                "call": "the collection done/imp in format version 1: see version_1() in make_fixtures.py",
                "records": records(folder), "loaded": digest(folder, numbers=False),
            })  # fmt: skip
    for part in ("whole", "kept"):
        shutil.rmtree(part, ignore_errors=True)
    Path("manifest.json").write_text(json.dumps(manifest, indent=None).replace('{"folder"', '\n{"folder"') + "\n")


if __name__ == "__main__":
    import importlib.metadata

    assert not hasattr(ws, "GradualPruning"), "this file is version 0.1's: see its first lines"
    assert importlib.metadata.version("weightspace") == VERSION
    with tempfile.TemporaryDirectory() as scratch, patch.object(probe, "_choose", fixed):
        here, target = os.getcwd(), TARGET.resolve()
        os.chdir(scratch)
        make(set(sys.argv[1:]))
        os.chdir(here)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(scratch, target)

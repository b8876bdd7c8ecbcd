"""What weightspace 0.1 left on disk is read, and its unfinished runs are resumed to the same bytes.

`v0_1/` was written by version 0.1 (see README.md) and never changes. The calls below are those of the manifest, in
today's
names: `CALLS` for Python, `command` for the command line. Whoever renames something changes these two, and nothing
    else.

Training on another processor rounds differently: there, resumed networks are compared up to 1e-4 unless
WEIGHTSPACE_COMPAT_BYTES=1 asks for bytes.
"""

import hashlib
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace import bayes, tickets
from weightspace.align import Star, WassersteinCost, WeightCost
from weightspace.cli.main import main
from weightspace.errors import StorageError
from weightspace.generator import hub
from weightspace.sparse.export import load_ticket
from weightspace.symmetry import trace
from weightspace.training.engine import Execution

# What is patched: how many networks train side by side is measured, and this must not depend on the machine.
CHOOSE, ASKED = "weightspace.training.engine._choose", "weightspace.runtime.threads._requested"

FIXTURES = Path(__file__).parent / "v0_1"
MANIFEST = json.loads((FIXTURES / "manifest.json").read_text(encoding="utf-8"))
DONE = [one for one in MANIFEST["fixtures"] if one["state"] == "done"]
OTHER_REPR = "bias=" not in repr(nn.BatchNorm1d(1))  # torch 2.11, which did not write the fixtures
UNFINISHED = [one for one in MANIFEST["fixtures"] if one["state"] != "done"]
FRESH = ("norms", "snip", "fit_gates")  # kinds that are also compared with an uninterrupted run

at = ws.Step.of
base = ws.tasks.iris(hidden=(8,))
task = replace(base, recipe=ws.Recipe(ws.Step(epochs=3), 18, ws.SGD(lr=0.1), "cosine"))
adam = replace(base, recipe=ws.Recipe(ws.Step(epochs=2), batch_size=18, optimizer=ws.Adam(lr=5e-3)))
images = ws.tasks.digits(hidden=(2,))
images = replace(images, recipe=replace(images.recipe, length=ws.Step(epochs=4)))
every = replace(
    images,
    recipe=ws.Recipe(
        ws.Step(2, 3),
        256,
        ws.Adam(lr=2e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4, decoupled=True),
        ws.Schedule("step", warmup=at("2it"), milestones=(at("1ep"), at("9it")), gamma=0.5),
        ws.Augmentation(crop=1, flip=True),
        at("2it"),
    ),
)


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


norms = replace(task, architecture=ws.Architecture.of(normed))
flow = ws.FlowMatching(width=4, blocks=1, steps=40, batch_size=16)


class Here:
    """An executor in this process."""

    def map(self, function: Callable[[Any], Any], items: Any, /) -> Iterator[Any]:
        return map(function, items)


def load(name: str, factory: Callable[[], nn.Module] | None = None) -> ws.Collection:
    return ws.Collection.load(Path("done") / name, factory=factory)


def generator(name: str, factory: Callable[[], nn.Module] | None = None) -> ws.FittedGenerator:
    return ws.FittedGenerator.load(Path("done") / name, factory=factory)


def refined() -> ws.TicketGenerator:
    patterns = [ws.Unstructured(0.3), ws.NM(1, 4)]
    return ws.TicketGenerator(
        compress=ws.PCA(2),
        generate=replace(flow, validation_fraction=0.25),
        masks=ws.SharedMask(),
        conditions=("metrics.validation_loss",),
        refine=ws.TaskRefinement(patterns, steps=12, networks=4, batch_size=32, ramp=0.5),
    )


def by_hand() -> ws.WeightMatching:
    return ws.WeightMatching(trace(task.architecture.build_seeded(0).eval(), task.train.x[:4]))


def extras() -> ws.WeightMatching:
    return ws.WeightMatching(
        balance=False, cost=WeightCost(("weights", "rewind"), ("rewind",)), population=Star(1), fix_unknown=True
    )


def two() -> ws.Collection:
    return load("dense")[:2]


def find(finder: Any) -> Callable[[Path], object]:
    return lambda out: finder.find(two(), task, folder=out)


FROZEN = tickets.Deconstruction(0.3, tickets.ablations.deconstruct.movement, "same", "constant", True, "frozen")

CALLS: dict[str, Callable[[Path], object]] = {
    "dense": lambda out: ws.collect(task, 4, seed=0, folder=out),
    "norms": lambda out: ws.collect(norms, 2, seed=0, folder=out),
    "shared_start": lambda out: ws.collect(task, 4, seed=1, plan=ws.SharedStart(at("2it")), folder=out),
    "trajectory": lambda out: ws.collect(task, 4, seed=2, plan=ws.Trajectory(at("10it")), folder=out),
    "grid": lambda out: ws.collect(task, 1, seed=3, plan=ws.Grid(lr=(0.1, 0.2), label_noise=(0.0, 0.5)), folder=out),
    "every_setting": lambda out: ws.collect(every, 2, seed=5, folder=out),
    "images": lambda out: ws.collect(images, 3, seed=6, folder=out),
    "shard": lambda out: ws.collect(task, 4, seed=0, shard=(1, 2), folder=out),
    "parts": lambda out: ws.collect_on(Here(), task, 2, shards=2, folder=out, seed=4),
    "gradual": lambda out: tickets.GradualPruning(density=0.3, length=at("2ep"), every=2).find(
        load("dense"), task, folder=out
    ),
    "train": lambda out: ws.train(load("gradual")[:2], task, "2ep", folder=out),
    "imp": find(tickets.IMP(density=0.4, rate=0.4, rewind=at("2it"))),
    "imp_ladder": lambda out: tickets.IMP(density=0.4, rate=0.4).find_levels(two(), task, folder=out),
    "imp_fine_tune": find(tickets.IMP(density=0.5, rate=0.5, after_pruning="fine_tune")),
    "imp_layer_rates": find(tickets.IMP(pattern=ws.LayerRates(2))),
    "imp_nm": find(tickets.IMP(pattern=ws.NM(2, 4), rate=0.4)),
    "imp_channels": find(tickets.IMP(pattern=ws.Channels(0.5), rate=0.6)),
    "imp_layer": find(tickets.IMP(pattern=ws.Unstructured(0.5, "layer"), rate=0.6)),
    "snip": find(tickets.PruneAtInit(density=0.3)),
    "rigl": find(tickets.DynamicSparseTraining(density=0.3, every=4)),
    "set": find(tickets.DynamicSparseTraining(pattern=ws.Unstructured(0.3, "layer"), grow="random", every=4)),
    "popup": find(tickets.EdgePopup()),
    "continuous": find(tickets.ContinuousSparsification(density=0.3)),
    "early_bird": lambda out: tickets.EarlyBird().find(load("norms", normed), norms, folder=out),
    "deconstruction": find(tickets.Deconstruction(0.3)),
    "frozen": find(FROZEN),
    "deconstruction_nm": find(tickets.Deconstruction(kept="reshuffle", pattern=ws.NM(2, 4))),
    "posteriors": lambda out: bayes.Variational(std=0.1).fit(load("gradual"), adam, folder=out),
    "horseshoe": lambda out: bayes.Variational(bayes.Horseshoe(), 0.5, at("3it"), 2).fit(load("imp"), adam, folder=out),
    "mixture": lambda out: bayes.Variational(bayes.ScaleMixture(), estimator="flipout").fit(
        load("gradual")[:1], adam, folder=out
    ),
    "centred": lambda out: bayes.Variational(bayes.Centred(), estimator="local").fit(
        load("gradual")[:1], adam, folder=out
    ),
    "bayes_imp": lambda out: bayes.BayesianIMP(
        density=0.5, rate=0.5, score=bayes.Band(0.1), sigma="rescaled", rewind=at("2it")
    ).find_levels(two(), adam, folder=out),
    "gates": find(bayes.GateSearch(density=0.3, length=at("2ep"))),
    "concrete": find(bayes.GateSearch.concrete(0.3, length=at("2ep"))),
    "fit_plain": lambda out: ws.TicketGenerator(compress=ws.PCA(2), generate=flow).fit(
        load("gradual"), seed=0, folder=out
    ),
    "fit_refined": lambda out: refined().fit(load("gradual"), task=task, seed=1, folder=out),
    "fit_published": lambda out: ws.TicketGenerator(None, None, ws.DeepWeightFlow(width=2, time=1, steps=20)).fit(
        load("align"), seed=2, folder=out
    ),
    "fit_posteriors": lambda out: ws.TicketGenerator(
        ws.WeightMatching(cost=WassersteinCost()), ws.PCA(1), flow, masks=ws.PosteriorMask()
    ).fit(load("posteriors"), seed=3, folder=out),
    "fit_norms": lambda out: ws.TicketGenerator(compress=ws.PCA(1), generate=flow).fit(
        load("early_bird", normed), folder=out
    ),
    "fit_alignment": lambda out: ws.TicketGenerator(extras(), ws.PCA(1), flow).fit(load("imp"), folder=out),
    "fit_symmetry": lambda out: ws.TicketGenerator(by_hand(), ws.PCA(0.5), replace(flow, pairing="optimal")).fit(
        load("gradual"), example=task.train.x[:4], folder=out
    ),
    "sample": lambda out: generator("fit_plain").sample(4, density=0.3, seed=1, folder=out),
    "sample_erk": lambda out: generator("fit_gates").sample(2, pattern=ws.ERK(0.3), folder=out),
    "sample_nested": lambda out: generator("fit_published").sample(2, density=(0.2, 0.1), folder=out),
    "sample_norms": lambda out: generator("fit_norms", normed).sample(2, density=0.3, data=norms.train, folder=out),
    "sample_posteriors": lambda out: generator("fit_posteriors").sample(2, density=0.2, folder=out),
}


_FLOW = ("width", "blocks", "steps", "batch-size", "lr")
_REFINE = ("steps", "directions", "diversity", "lr", "ramp", "radius")
RENAMED = {
    "tickets": {
        "--survivors keep": "--after-pruning lr_rewind", "start": "prune-at-init", "popup": "edge-popup",
        "bird": "early-bird", "--nm": "--pattern", "--after": "--start", "--layers alike": "--scope layer",
        "--layers erk": "--pattern erk:0.3", "--layers balanced": "--pattern balanced:0.3",
        "--kind scattered": "--kind globally-shuffled",
    },
    "fit": {
        "--held-out": "--flow.validation-fraction", "--components": "--compress.components",
        "--no-balance": "--align.no-balance", "--refine-densities 0.3 0.2 --refine-nm 2:4": "--refine.patterns 0.3 "
        "0.2 2:4",
    }
    | {f"--{name}": f"--flow.{name}" for name in _FLOW}
    | {f"--refine-{name}": f"--refine.{name}" for name in _REFINE},
    "collect": {f"--grid-{name}": f"--grid.{name}" for name in ("lr", "weight-decay", "label-noise")},
    "sample": {"--nm": "--pattern"},
    "align": {"--reference": "--reference-index", "--compare weights rewind": "--cost weights:weights+rewind",
        "--posterior": "--cost"},
    "evaluate": {"--reference": "--training", "--memory": "--memory-gb"},
}  # fmt: skip


def command(words: list[str]) -> list[str]:
    """The words of version 0.1's command line in today's."""
    text = " ".join(words)
    for old, new in RENAMED.get(words[0], {}).items():
        text = re.sub(rf"(?<!\S){old}(?!\S)", new, text)
    return text.split()


def perform(one: dict[str, Any], out: str) -> None:
    """Run a fixture's call into a folder, which may hold the fixture."""
    if isinstance(one["call"], list):
        assert main(command([out if word == one["folder"] else word for word in one["call"]])) == 0
        return
    try:
        CALLS[Path(one["folder"]).name](Path(out))
    except StorageError as error:
        if "config.task.network" in str(error) and OTHER_REPR:
            pytest.skip(
                f"a run is known by how torch prints its network, and this version prints BatchNorm otherwise: {error}"
            )
        raise


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"torch": torch.__version__, "cpu": name, "capability": torch.backends.cpu.get_cpu_capability()}


SAME_BYTES = os.environ.get("WEIGHTSPACE_COMPAT_BYTES") == "1" or machine() == MANIFEST["machine"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all fixtures, where each test has a folder of its own."""
    folder = tmp_path_factory.mktemp("v0_1") / "tree"
    shutil.copytree(FIXTURES, folder)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


@pytest.fixture
def here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the copy, where two networks train side by side on one thread, as when the fixtures were made."""
    monkeypatch.chdir(tree)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "cache"))
    monkeypatch.setattr(CHOOSE, lambda _task, limit, _device: Execution(min(limit, 2), 1, 0.0))
    monkeypatch.setattr(ASKED, None)
    return tree


def names(fixtures: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(one, id=one["folder"]) for one in fixtures]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_user(manifest: Path) -> Callable[[], nn.Module] | None:
    own = json.loads(manifest.read_text(encoding="utf-8"))["architecture"]["name"] == "normed"
    return normed if own else None


def contents(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All that can be loaded from a folder and the folders in it: {place: {name: tensor}}."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in folder.rglob("collection.json"):
        part = ws.Collection.load(path.parent, factory=of_user(path))
        tensors = {"weights": part.weights, "masks": part.masks.contiguous()}
        tensors |= {f"extra.{k}": t for k, t in part.extras.items()} | {
            f"buffer.{k}": t for k, t in part.buffers.items()
        }
        found[path.parent.relative_to(folder).as_posix()] = tensors
    for path in folder.rglob("generator.json"):
        model = ws.FittedGenerator.load(path.parent, factory=of_user(path))
        found[path.parent.relative_to(folder).as_posix()] = model.tensors()
    for path in folder.glob("network-*.safetensors"):
        network = load_ticket(path)
        found[path.name] = {"weights": network.weights, "mask": network.mask}
    return found


def require_loaded(folder: Path, expected: dict[str, Any], exact: bool) -> None:
    found = contents(folder)
    assert found.keys() == expected.keys()
    for place, tensors in found.items():
        assert tensors.keys() == expected[place].keys(), place
        for name, tensor in tensors.items():
            own = expected[place][name]
            assert list(tensor.shape) == own["shape"], (place, name)
            if exact:
                assert sha(tensor.contiguous().numpy().tobytes())[:16] == own["sha256"], (place, name)
            elif "some" in own:
                flat = tensor.double().flatten()
                close = {"rtol": 1e-3, "atol": 1e-4}
                torch.testing.assert_close(flat[:4], torch.tensor(own["some"], dtype=torch.float64), **close)


def test_every_fixture_has_its_call() -> None:
    called = {Path(one["folder"]).name for one in MANIFEST["fixtures"] if one["run"] and isinstance(one["call"], str)}
    assert called == CALLS.keys()


@pytest.mark.parametrize("one", names(DONE))
def test_what_was_finished_is_read(one: dict[str, Any], here: Path) -> None:
    folder = here / one["folder"]
    require_loaded(folder, one["loaded"], exact=True)
    if one["records"] is not None:
        read = ws.Collection.load(folder, factory=of_user(folder / "collection.json")).records
        assert sha("".join(json.dumps(record.to_json()) + "\n" for record in read).encode()) == one["records"]
    if "fingerprint" in one:
        model = ws.FittedGenerator.load(folder, factory=of_user(folder / "generator.json"))
        assert model.fingerprint() == one["fingerprint"]


@pytest.mark.parametrize("one", names([one for one in DONE if one["run"]]))
def test_a_finished_run_is_known_again(one: dict[str, Any], here: Path) -> None:
    folder = here / one["folder"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    perform(one, one["folder"])
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == {path: data for path, data in before.items() if path.name != ".lock"}


# Version 0.1 kept the last networks of a run in the place of all its checkpoints; what is made now is right.
MISTAKEN = "trajectory"


@pytest.mark.parametrize("one", names(UNFINISHED))
def test_an_unfinished_run_goes_on(one: dict[str, Any], here: Path) -> None:
    folder = here / one["folder"]
    config = {path: path.read_bytes() for path in folder.rglob("config.yaml")}
    try:
        perform(one, one["folder"])
    except StorageError as error:
        if "untrained_loss" in str(error) and not SAME_BYTES:
            pytest.skip(f"this machine rounds the loss in the configuration differently: {error}")
        raise
    assert {path: path.read_bytes() for path in config} == config
    assert not [*folder.rglob("*.checkpoint.safetensors"), *folder.rglob("*.partial")]
    if folder.name == MISTAKEN:
        networks = ws.Collection.load(folder)
        assert [record.step for record in networks.records] == [10, 15] * 4
        weights = networks.weights.unflatten(0, (4, 2))
        assert torch.equal(weights[0, 0], weights[0, 1])  # as version 0.1 wrote them
        assert not torch.equal(weights[3, 0], weights[3, 1])
        return
    require_loaded(folder, one["loaded"], exact=SAME_BYTES)
    if SAME_BYTES:
        found = {name: sha((folder / name).read_bytes()) for name in one["resumed"]}
        assert found == one["resumed"]
    if one["state"] == "cut" and folder.name in FRESH:
        perform(one, f"fresh/{folder.name}")
        again = contents(here / "fresh" / folder.name)
        for place, tensors in contents(folder).items():
            for name, tensor in tensors.items():
                close = {"rtol": 0.0, "atol": 0.0} if SAME_BYTES else {"rtol": 1e-3, "atol": 1e-4}
                torch.testing.assert_close(tensor, again[place][name], **close)
        for name in one["resumed"] if SAME_BYTES else ():
            assert (folder / name).read_bytes() == (here / "fresh" / folder.name / name).read_bytes()


CHECKPOINTS = [
    (one, path.relative_to(FIXTURES / one["folder"]).as_posix())
    for one in UNFINISHED
    for path in sorted((FIXTURES / one["folder"]).rglob("*.checkpoint.safetensors"))
    # The networks of this one are in a shard already: the process was killed before it tidied up.
    if not (path.name == "networks-0-2.checkpoint.safetensors" and (path.parent / "shard-00000.safetensors").exists())
]


@pytest.mark.parametrize(("one", "name"), [pytest.param(*c, id=f"{c[0]['folder']}/{c[1]}") for c in CHECKPOINTS])
def test_every_checkpoint_is_looked_at(one: dict[str, Any], name: str, here: Path, capsys) -> None:
    """A run that starts anew comes to the same bytes too: a damaged checkpoint tells whether it does."""
    folder = Path("damaged") / name.replace("/", "-") / Path(one["folder"]).name
    shutil.copytree(FIXTURES / one["folder"], folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    if isinstance(one["call"], list):
        words = [folder.as_posix() if word == one["folder"] else word for word in one["call"]]
        assert main(command(words)) == 1
        assert "is damaged" in capsys.readouterr().err
    else:
        with pytest.raises(StorageError, match="is damaged"):
            perform(one, folder.as_posix())


def test_a_report_is_read_and_said(here: Path) -> None:
    report = ws.Report.load(here / "done" / "evaluate" / "report.json")
    assert report.figures.filters is not None
    assert report[report.samples].count == 2
    assert report.to_json() == json.loads((here / "done" / "evaluate" / "report.json").read_text(encoding="utf-8"))
    assert "accuracy" in str(report)
    assert len(ws.Comparison({"a": report, "b": report}).tables()) == 2


def test_a_folder_of_the_hub_is_read(here: Path) -> None:
    assert hub.from_pretrained(here / "done" / "hub").fingerprint() == generator("fit_plain").fingerprint()


def test_a_refined_generator_of_format_3_is_read(here: Path, tmp_path: Path) -> None:
    """It leaves codes as the flow makes them: the length that version 4 holds is not looked at."""
    shutil.copytree(here / "done" / "fit_refined", tmp_path / "g")
    path = tmp_path / "g" / "generator.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"version": 3}), encoding="utf-8")
    old, new = ws.FittedGenerator.load(tmp_path / "g").refined, generator("fit_refined").refined
    assert old is not None
    assert new is not None
    assert old.length is None
    assert new.length is not None
    assert torch.equal(old.components, new.components)


def test_format_1_and_2_hold_the_same(here: Path) -> None:
    old, new = load("version_1"), load("imp")
    assert json.loads((here / "done" / "version_1" / "collection.json").read_text())["version"] == 1
    assert torch.equal(old.weights, new.weights)
    assert torch.equal(old.masks, new.masks)
    assert old.records == new.records

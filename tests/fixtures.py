"""Fixtures: tiny networks on real data. Shapes and types are checked while the tests run, but for inner loops."""

import importlib
import os
import tempfile
from pathlib import Path

# What a machine trains fastest is measured once; the tests share one answer and leave none behind.
_CACHE = tempfile.TemporaryDirectory(prefix="weightspace-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

from jaxtyping import install_import_hook

# What is imported by a checked module is compiled anew: two thousand files in each process, but for these, which come
# before the check.
THIRD_PARTY = """
attr beartype.door cattrs filelock jinja2 matplotlib.figure pyro.infer.autoguide safetensors.torch scipy.optimize
scipy.stats sklearn.cluster sklearn.datasets sklearn.metrics torch.func torchdiffeq tqdm tyro yaml
"""
for name in THIRD_PARTY.split():
    importlib.import_module(name)

ROOT = Path(__file__).parent.parent
# Most calls of an evaluation and of a tracing are of functions in these: checked, they take twice as long.
INNER_LOOPS = {
    "weightspace.runtime.trees",
    "weightspace.networks.record",
    *(f"weightspace.align.{name}" for name in ("assign", "balance", "matcher", "signs")),
    *(f"weightspace.runtime.{name}" for name in ("double", "outputs")),
    *(f"weightspace.symmetry.{name}" for name in ("factors", "group", "passes", "proof")),
    *(f"weightspace.symmetry.tracing.{name}" for name in ("extract", "labels", "rules", "tracer")),
}
# A recipe takes "30ep" for a Step, and is a Step afterwards, which is what its annotation says; checks take anything.
CONVERTS = {"weightspace.recipes.recipe", "weightspace.runtime.checks"}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "weightspace").rglob("[!_]*.py")}

assert INNER_LOOPS | CONVERTS <= MODULES
with install_import_hook(sorted(MODULES - INNER_LOOPS - CONVERTS), "beartype.beartype"):
    import weightspace as ws

from dataclasses import replace

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def task() -> ws.Task:
    """Digits with a 64-12-8-10 network and a very short recipe."""
    base = ws.tasks.digits(hidden=(12, 8))
    return replace(base, recipe=replace(base.recipe, length=ws.Step(epochs=3)))


@pytest.fixture(scope="session")
def dense(task: ws.Task) -> ws.Collection:
    return ws.collect(task, 10, seed=0)


@pytest.fixture(scope="session")
def tickets(dense: ws.Collection, task: ws.Task) -> ws.Collection:
    return ws.tickets.GradualPruning(density=0.2, length=ws.Step(epochs=3)).find(dense, task)


@pytest.fixture(scope="session")
def generator(tickets: ws.Collection) -> ws.FittedGenerator:
    model = ws.TicketGenerator(
        compress=ws.PCA(5), generate=ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16)
    )
    return model.fit(tickets[:8], seed=0)


@pytest.fixture
def environment() -> dict[str, str]:
    """For subprocesses: one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def outputs(collection: ws.Collection, x: torch.Tensor) -> torch.Tensor:
    """Outputs of every network, one plain module after another, in float64."""
    with torch.no_grad():
        return torch.stack([network.module().double().eval()(x.double()) for network in collection])

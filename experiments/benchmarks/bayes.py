"""How fast is a training step of a Bayesian network, and sampling from its posterior?

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.bayes              (three minutes)

Batches of 128, Adam, one thread, CPU time. Baselines: a deterministic step (torch's default Adam, and the fused one
that all rows below use), local reparameterisation written by hand with an analytic KL, and stock Pyro (`PyroSample`
weights, `AutoNormal`, `SVI`, `pyro.optim.Adam`, validation on). "Ours" is what `bayes.Variational` runs: random
numbers from each network's generator, and the loss through a subclass of Pyro's `TraceMeanField_ELBO`. Masks are
random, which is the worst case: real tickets leave whole inputs empty. All take turns of ten steps; medians are shown.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import tyro
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.optim import Adam as PyroAdam  # pyright: ignore[reportAttributeAccessIssue]
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from experiments.common import tables
from weightspace import bayes
from weightspace.bayes.inference.noise import OwnDraws

BATCH, SAMPLES, DRAWS = 128, 60_000, 100
TURN = 10  # steps of one arm before the next has its turn
Step = Callable[[], object]


def build(sizes: tuple[int, ...]) -> nn.Sequential:
    """An MLP with ReLU."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def deterministic(sizes: tuple[int, ...], x: torch.Tensor, y: torch.Tensor, *, fused: bool) -> Step:
    """A training step of a plain network."""
    module = build(sizes)
    optimizer = torch.optim.Adam(module.parameters(), fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


def by_hand(sizes: tuple[int, ...], x: torch.Tensor, y: torch.Tensor) -> Step:
    """Local reparameterisation, as one would write it."""
    linear = [m for m in build(sizes) if isinstance(m, nn.Linear)]
    rhos = [[nn.Parameter(torch.full_like(p, -5.0)) for p in (m.weight, m.bias)] for m in linear]
    optimizer = torch.optim.Adam(
        [p for m in linear for p in m.parameters()] + [r for pair in rhos for r in pair], fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        z, kl = x, torch.zeros(())
        for i, (layer, (rho, rho_bias)) in enumerate(zip(linear, rhos, strict=True)):
            variance, variance_bias = (2 * rho).exp(), (2 * rho_bias).exp()
            mean = F.linear(z, layer.weight, layer.bias)
            z = mean + F.linear(z * z, variance, variance_bias).sqrt() * torch.randn_like(mean)
            z = z.relu() if i < len(linear) - 1 else z
            for mu, r, v in ((layer.weight, rho, variance), (layer.bias, rho_bias, variance_bias)):
                kl = kl + 0.5 * (v + mu * mu - 1 - 2 * r).sum()
        (F.cross_entropy(z, y) * SAMPLES + 0.1 * kl).backward()
        optimizer.step()

    return step


class Stock(PyroModule):
    """A Bayesian network as Pyro's tutorial writes it."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.net = build(sizes)
        to_pyro_module_(self.net)
        for module in self.net.modules():
            if isinstance(module, nn.Linear):
                for name, dims in (("weight", 2), ("bias", 1)):
                    prior: Any = dist.Normal(0.0, 1.0).expand(getattr(module, name).shape)
                    setattr(module, name, PyroSample(prior.to_event(dims)))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Logits, as Pyro's tutorial returns them."""
        logits = self.net(x)
        with pyro.plate("data", SAMPLES, subsample=torch.arange(len(x))):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        return pyro.deterministic("logits", logits)


def stock(sizes: tuple[int, ...], x: torch.Tensor, y: torch.Tensor) -> tuple[Step, Stock, AutoNormal]:
    """A training step of stock Pyro, and its model and guide."""
    model = Stock(sizes)
    guide = AutoNormal(model, init_scale=0.01)
    svi = SVI(model, guide, PyroAdam({"lr": 1e-3}), Trace_ELBO())
    return lambda: svi.step(x, y), model, guide


def ours(sizes: tuple[int, ...], x: torch.Tensor, y: torch.Tensor, density: float) -> Step:
    """A training step of the library's Bayesian network."""
    module = build(sizes)
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())[None]
    masks = ws.Unstructured(density).mask(torch.rand(weights.shape), layout) if density < 1 else None
    network = bayes.BayesianNetwork(
        module,
        weights if masks is None else weights * masks,
        bayes.initial_std(module, layout)[None],
        masks=masks,
        temperature=0.1,
    )
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    elbo, count = bayes.MeanFieldELBO(), iter(range(10**9))

    def step() -> None:
        with pyro.validation_enabled(False), OwnDraws([0], next(count)):
            loss = elbo.differentiable_loss(network.model, network.guide, x[None], y[None], SAMPLES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def taking_turns(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median CPU time of each step in milliseconds."""
    milliseconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(5):
            step()
    for _ in range(max(1, repeats // TURN)):
        for name, step in steps.items():
            step()  # brings its weights back into the cache, where they are while one network trains
            for _ in range(TURN):
                started = time.process_time()
                step()
                milliseconds[name].append(1e3 * (time.process_time() - started))
    return {name: sorted(times)[len(times) // 2] for name, times in milliseconds.items()}


def sample(posterior: ws.Collection, x: torch.Tensor) -> torch.Tensor:
    """Predictions of networks drawn from a posterior."""
    return bayes.predict(posterior, x, DRAWS, seed=0)


def main(repeats: int = 60, results: Path = tables.RESULTS) -> None:
    """Write one row for each network and kind of step to benchmarks/bayes.csv.

    Args:
        repeats: Number of repetitions of each step; the median counts.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for sizes in ((784, 300, 100, 10), (784, 1000, 1000, 10)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        x, y = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))
        pyro_step, model, guide = stock(sizes, x, y)
        steps = {
            "deterministic Adam": deterministic(sizes, x, y, fused=False),
            "deterministic fused Adam": deterministic(sizes, x, y, fused=True),
            "local reparameterisation by hand": by_hand(sizes, x, y),
            "Pyro AutoNormal": pyro_step,
            "ours, density 1": ours(sizes, x, y, 1.0),
            "ours, density 0.107": ours(sizes, x, y, 0.107),
            "ours, density 0.0115": ours(sizes, x, y, 0.0115),
        }
        times = taking_turns(steps, repeats)
        layout = ws.Layout.of(build(sizes))
        posterior = ws.Collection(
            layout,
            torch.randn(1, layout.size) * 0.05,
            architecture=ws.Architecture("MLP", {"sizes": list(sizes)}),
            extras={"std": torch.full((1, layout.size), 0.01)},
            records=[{"seed": 0}],
        )
        predictive = Predictive(model, guide=guide, num_samples=DRAWS, return_sites=("logits",))
        sampling = {
            f"Pyro Predictive, {DRAWS} networks": partial(predictive, x),
            f"ours, {DRAWS} networks": partial(sample, posterior, x),
        }
        times |= taking_turns(sampling, TURN)
        name = "-".join(map(str, sizes))
        for what, ms in times.items():
            rows.append({"network": name, "what": what, "cpu_ms": ms})
            print(f"{name:>18}  {what:<36}{ms:9.2f} ms", flush=True)
        for text, a, b in (
            (
                "dense step against local reparameterisation by hand",
                "ours, density 1",
                "local reparameterisation by hand",
            ),
            ("dense step against stock Pyro", "ours, density 1", "Pyro AutoNormal"),
            ("step at 0.0115 against the dense deterministic one", "ours, density 0.0115", "deterministic Adam"),
            ("the same, fused", "ours, density 0.0115", "deterministic fused Adam"),
            ("sampling against Predictive", f"ours, {DRAWS} networks", f"Pyro Predictive, {DRAWS} networks"),
        ):
            rows.append({"network": name, "what": f"ratio: {text}", "cpu_ms": times[a] / times[b]})
            print(f"{name:>18}  {text}: {times[a] / times[b]:.2f}", flush=True)
    tables.write(results / "benchmarks/bayes.csv", rows)


if __name__ == "__main__":
    tyro.cli(main)

"""Does a flow know anything? Its log-density of held-out codes beside that of simpler densities, and its samples."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.flow.energy import energy_test
from weightspace.flow.fitted_flow import FittedFlow
from weightspace.flow.simple_densities import SimpleDensity, best_of_each_kind
from weightspace.flow.velocity import with_presence
from weightspace.report.knowledge import FLOW, GAUSSIAN, CodeDensity, FlowKnowledge, TwoSampleTest
from weightspace.runtime import checks, devices, seeds

_EXACT = 32  # numbers in a code up to which the divergence is exact
_PROBES = 8
_STEPS = 16  # Runge-Kutta steps, at least
_LONGEST = 1024  # numbers in a code up to which densities are fitted
_MOST = 256  # held-out codes that are used
_SAMPLES, _NUMBERS = 256, 2**23  # samples for the test, and numbers in them
_RESAMPLES = 2000
_CONSTANT = 1e-6  # of the codes' root mean square


@torch.no_grad()
def measure_knowledge(
    flow: FittedFlow,
    training: Float[Tensor, "n k"],
    held_out: Float[Tensor, "m k"],
    *,
    conditions: Float[Tensor, "n c"] | None = None,
    held_out_conditions: Float[Tensor, "m c"] | None = None,
    source: str = "codes that were given",
    seed: int = 0,
    device: str = "auto",
) -> FlowKnowledge:
    """Compare a flow with a Gaussian, a Gaussian mixture and a kernel density on codes that it was not trained on.

    All are fitted to the same training codes. The settings of the simple densities are those that are best on the
    held-out codes, which favours them. The flow's density is exact up to 32 numbers a code, and for longer codes uses
    Hutchinson's estimate of the divergence (arXiv 1810.01367). At most 256 held-out codes are used.

    Args:
        flow: The trained flow.
        training: Codes that it was trained on, (N, K).
        held_out: Codes that it was not trained on, (M, K).
        conditions: Conditions of the training codes, if it knows any; simple densities follow them linearly.
        held_out_conditions: Conditions of the held-out codes.
        source: Where the held-out codes come from, in words.
        seed: Seed of probes, samples, resampling and permutations.
        device: Device to compute the flow on.
    """
    for name, codes in (("training", training), ("held_out", held_out)):
        checks.tensor(codes, name, shape=("networks", flow.codes), floating=True, finite=True)
    seed, device = checks.seed(seed), devices.pick(device)
    chosen = torch.randperm(len(held_out), generator=seeds.generator(seed, "held-out codes"))[:_MOST].sort().values
    known = None if held_out_conditions is None else held_out_conditions[chosen]
    codes, left_out = held_out[chosen].double(), _left_out(training, held_out)
    densities: list[CodeDensity] = []
    simple: list[SimpleDensity] = []
    probes = None if flow.codes <= _EXACT else _PROBES
    if not left_out:
        features = None if conditions is None else with_presence(conditions)
        simple = best_of_each_kind(
            training, codes, features, None if known is None else with_presence(known), seed=seed
        )
        steps = max(_STEPS, flow.config.solver_steps)
        own = flow.log_prob(codes.to(device), conditions=known, solver_steps=steps, probes=probes, seed=seed).cpu()
        densities = _compared(own, simple, seed)
        if not all(math.isfinite(one.nats) for one in densities):
            densities, left_out = [], "the log-density of a held-out code is not finite"
    divergence = "exact" if probes is None else f"Hutchinson's estimate, {probes} probes a code"
    return FlowKnowledge(
        len(training),
        len(codes),
        source,
        flow.codes,
        divergence,
        densities,
        _tests(flow, simple, codes, known, seed, device),
        left_out,
    )


def _left_out(training: Tensor, held_out: Tensor) -> str:
    """Why these codes have no densities to compare; empty where they have."""
    n, k = training.shape
    if k > _LONGEST:
        return f"codes of {k:,} numbers are too long for densities (compress=PCA(...) makes shorter ones)"
    if n < 3 or len(held_out) < 2:
        return f"{n} training codes and {len(held_out)} held-out codes are too few"
    size = training.double().square().mean().sqrt()
    if (training.double().std(0) < _CONSTANT * size).any():
        return "some numbers of the codes are the same in all networks, so that they have no density"
    return ""


def _compared(own: Float[Tensor, " m"], simple: list[SimpleDensity], seed: int) -> list[CodeDensity]:
    """The flow beside the simple densities, with bootstrap intervals over held-out codes."""
    random = seeds.generator(seed, "bootstrap of codes")
    rows = torch.randint(len(own), (_RESAMPLES, len(own)), generator=random)
    found = [CodeDensity(FLOW, "", own.mean().item(), *_interval(own, rows))]
    for one in simple:
        ahead = own - one.log_density
        found.append(
            CodeDensity(
                one.name,
                one.how,
                one.log_density.mean().item(),
                *_interval(one.log_density, rows),
                ahead.mean().item(),
                *_interval(ahead, rows),
            )
        )
    return found


def _interval(values: Float[Tensor, " m"], rows: Tensor) -> tuple[float, float]:
    low, high = values[rows].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _tests(
    flow: FittedFlow, simple: list[SimpleDensity], codes: Tensor, known: Tensor | None, seed: int, device: str
) -> list[TwoSampleTest]:
    """Samples of the flow and of the Gaussian against held-out codes, under the conditions of these."""
    count = min(_SAMPLES, max(len(codes), _NUMBERS // flow.codes))
    drawn = seeds.derive(seed, "samples to test")
    under = None if known is None else known[torch.arange(count) % len(known)]
    samples = {FLOW: flow.sample(count, conditions=under, seed=drawn, device=device)}
    samples |= {one.name: one.draw(count, drawn) for one in simple if one.name == GAUSSIAN}
    return [
        TwoSampleTest(name, count, *energy_test(drawn_codes.double(), codes, seed=seed))
        for name, drawn_codes in samples.items()
    ]

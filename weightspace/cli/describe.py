"""What the command line says about collections, generators and reports."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from weightspace.align import FittedMatching
from weightspace.compress import FittedPCA
from weightspace.flow import FittedFlow
from weightspace.generator import MASK_RULES, FittedGenerator
from weightspace.networks.collection import Collection
from weightspace.report.page import columns

_TENSORS = 24  # that are listed


def report_done(networks: Collection, out: Path) -> None:
    """Print what was made and where it was written."""
    print(describe_collection(networks))
    print(f"written to {out}")


def describe_collection(networks: Collection) -> str:
    """Describe a collection in a few lines: networks, density, metrics, and its first tensors."""
    layout = networks.layout
    lines = [repr(networks)]
    densities = networks.densities
    lines.append(
        f"density {densities.min():.4g}"
        + (f" to {densities.max():.4g}" if densities.max() > densities.min() else "")
        + f" of {layout.num_prunable:,} prunable weights"
    )
    lines += _metrics(networks)
    shown = layout.entries[:_TENSORS]
    lines += [f"  {line}" for line in columns([(e.name, str(tuple(e.shape)), e.role) for e in shown])]
    if len(layout.entries) > len(shown):
        lines.append(f"  and {len(layout.entries) - len(shown)} more tensors")
    return "\n".join(lines)


def _metrics(networks: Collection) -> list[str]:
    """A line for each validation metric; posteriors have none."""
    names = dict.fromkeys(name for record in networks.records for name in record.get("metrics", {}))
    lines: list[str] = []
    for name in names:
        if not name.startswith("validation_") or name == "validation_loss":
            continue
        values = [record["metrics"][name] for record in networks.records if name in record.get("metrics", {})]
        spread = torch.tensor(values, dtype=torch.float64)
        title = name.replace("_", " ", 1)
        lines.append(f"{title} {spread.mean():.4f} ± {spread.std(correction=0):.4f} over {len(values)} networks")
    return lines


STAGES: Mapping[str, Callable[[Path], str]] = {
    "matching.json": lambda folder: repr(FittedMatching.load(folder)),
    "pca.json": lambda folder: _components(FittedPCA.load(folder)),
    "flow.json": lambda folder: f"flow: {FittedFlow.load(folder).config}",
}
"""What a folder of a single fitted stage holds, by the name of its manifest."""


def _components(compress: FittedPCA) -> str:
    kept = compress.explained_variance_ratio.sum().item()
    return f"{len(compress.components)} components explain {kept:.1%} of the variance"


def describe_generator(model: FittedGenerator) -> str:
    """Describe a generator in a few lines: what it was trained on, and its stages."""
    low, high = model.trained_on["density"]
    lines = [
        f"a generator of {model.architecture.name} networks, trained on {model.trained_on['networks']} tickets of "
        f"density {low:.4g}{f' to {high:.4g}' if high > low else ''} ({', '.join(model.trained_on['tasks'])})"
    ]
    if model.compress is not None:
        lines.append(_components(model.compress))
    lines.append(f"flow: {model.flow.config}")
    if model.knowledge is not None:
        verdict = model.knowledge.verdict
        lines.append(f"[{verdict.outcome}] {verdict.claim}: {verdict.words}")
    lines.append(f"masks: {MASK_RULES.name_of(model.masks)}")
    if model.conditions:
        lines.append(f"conditions: {', '.join(map(str, model.conditions.each))}")
    lines += ["refined through the task"] * (model.refined is not None)
    lines += [
        f"temperature {one.temperature:.3f} of {one.networks} samples under {one.pattern} (validation NLL "
        f"{one.nll:.4f} to {one.nll_at:.4f}, ECE {one.ece:.4f} to {one.ece_at:.4f})"
        for one in model.temperatures
    ]
    return "\n".join(lines)

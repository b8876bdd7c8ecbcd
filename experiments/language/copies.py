"""Can new copies of a fine-tuned language model be sampled, and are they better than the mean of all copies?

    python -m experiments.language.copies --data-root ROOT     (30 minutes; the same command continues)

Copies of the first three layers of MiniLM are tuned on the sentences of Rotten Tomatoes, each in its own order of the
texts; either each has a new head of its own, or all begin at the same head. Their changes from the pre-trained weights
are task vectors: PCA and a flow learn from these. Samples stand beside the copies, their mean (a model soup), and a
Gaussian in the same codes. All settings were fixed before the test split was read, which is read once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

import weightspace as ws
from experiments.common import tables
from experiments.language import common
from weightspace import adapt
from weightspace.runtime import seeds

HEADS = {"each its own": ws.Independent(), "one for all": ws.SharedStart(ws.Step(iterations=0))}
FLOW = ws.FlowMatching(width=128, steps=1000, batch_size=16, validation_fraction=0.25)
RESAMPLES = 4000


def main(
    data_root: Path | None = None,
    networks: int = 16,
    samples: int = 12,
    components: int = 15,
    layers: int = 3,
    steps: int = 48,
    length: int = 32,
    validation: int = 200,
    test: int = 400,
    out: Path = Path("runs/copies"),
    results: Path = tables.RESULTS,
) -> None:
    """Write a row for each kind of network to language/copies.csv, and what the flow knows to language/copies_flow.csv.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        networks: Number of copies of each kind.
        samples: Number of samples.
        components: Number of principal components.
        layers: Number of layers.
        steps: Number of steps of each training.
        length: Number of tokens at which reviews are cut.
        validation: Number of reviews whose accuracy is kept in the records.
        test: Number of reviews for the end.
        out: Folder of the copies and the generators; the same command continues there.
        results: Folder of the result tables.
    """
    common.quiet()
    task = common.rotten_tomatoes(data_root, steps, layers, length, validation, test)
    task = common.by_length(task)
    rows: list[dict[str, object]] = []
    flows: list[dict[str, object]] = []
    for heads, plan in HEADS.items():
        copies = ws.collect(task, networks, seed=0, plan=plan, folder=out / heads / "copies", memory_gb=1.2)
        base = ws.language.pretrained(task, 1, seed=0)
        changes = adapt.TaskVectors.between(copies, base)
        model = ws.TicketGenerator(align=None, compress=ws.PCA(components), generate=FLOW)
        generator = model.fit(changes, seed=0, folder=out / heads / "generator")
        made = arms(generator, changes, samples, base, copies)
        probabilities = {name: tested(group, task, out / heads / f"{name}.safetensors") for name, group in made.items()}
        y = task.test.head(test).y
        for name, group in made.items():
            row = {"heads": heads, "networks": name} | figures(name, probabilities, y)
            rows.append(row | places(group.weights - base.weights, changes.weights, same=name == "copies"))
            print(rows[-1], flush=True)
        flows += known(heads, generator, changes)
        tables.write(results / "language/copies.csv", rows)
        tables.write(results / "language/copies_flow.csv", flows)


def arms(
    generator: ws.FittedGenerator, changes: adapt.TaskVectors, samples: int, base: ws.Collection, copies: ws.Collection
) -> dict[str, ws.Collection]:
    """The networks that are compared.

    Args:
        generator: Generator of changes.
        changes: Changes of the copies.
        samples: Number of samples.
        base: The pre-trained network.
        copies: The copies.
    """
    drawn = adapt.TaskVectors.of(generator.sample(samples, density=1.0, seed=1))
    codes = generator.encode(changes)
    noise = torch.randn(samples, codes.shape[1], generator=seeds.generator(1, "Gaussian in codes"))
    gaussian = adapt.TaskVectors.of(generator.decode(codes.mean(0) + codes.std(0) * noise, density=1.0))
    mean = changes[:1].replace(weights=changes.weights.mean(0, keepdim=True), masks=None, extras={})
    return {
        "copies": copies,
        "mean of all copies": mean.on(base),
        "flow": drawn.on(base),
        "Gaussian in the same codes": gaussian.on(base),
        "before tuning": base,
    }


def tested(networks: ws.Collection, task: ws.Task, kept: Path) -> Float[Tensor, "n t c"]:
    """Probabilities of each network on the test split, which is read once.

    Args:
        networks: Networks.
        task: Their task.
        kept: File that keeps the probabilities.
    """
    from safetensors.torch import load_file, save_file

    if not kept.exists():
        ensemble = networks.ensemble(task.output_kind)
        save_file({"probabilities": ensemble.member_proba(task.test.head(len(task.test)).x).contiguous()}, kept)
    return load_file(kept)["probabilities"]


def figures(name: str, probabilities: Mapping[str, Float[Tensor, "n t c"]], y: Tensor) -> dict[str, object]:
    """Accuracy of single networks with its intervals, and of all together.

    Args:
        name: Kind of the networks.
        probabilities: Probabilities of each kind.
        y: Classes of the texts.
    """
    correct = {kind: found.argmax(-1) == y for kind, found in probabilities.items()}
    own, together = correct[name], probabilities[name].mean(0)
    row: dict[str, object] = {"n": len(own), "texts": len(y)}
    row |= between("accuracy", own, None)
    row |= between("above copies", own, correct["copies"])
    row |= between("above mean", own, correct["mean of all copies"])
    row |= {
        "together": (together.argmax(-1) == y).float().mean().item(),
        "NLL together": -together.gather(1, y[:, None]).log().mean().item(),
    }
    return row


def places(own: Float[Tensor, "n d"], copies: Float[Tensor, "m d"], *, same: bool) -> dict[str, object]:
    """How far changes are from the nearest copy's, and how long they are, relative to the same of copies.

    Args:
        own: Changes of the networks.
        copies: Changes of the copies.
        same: Whether both are the same.
    """
    to_copies, among = torch.cdist(own, copies), torch.cdist(copies, copies).fill_diagonal_(torch.inf)
    nearest = (among if same else to_copies).amin(1).median()
    return {
        "distance": (nearest / among.amin(1).median()).item(),
        "length": (own.norm(dim=1).median() / copies.norm(dim=1).median()).item(),
    }


def between(name: str, own: Bool[Tensor, "n t"], other: Bool[Tensor, "m t"] | None) -> dict[str, float]:
    """A mean accuracy, or a difference of two on the same texts, with its 95 % bootstrap interval.

    Texts and networks are drawn anew, so that the interval is for other texts and other networks.

    Args:
        name: Name of the columns.
        own: Right answers.
        other: Right answers of what it is compared with; None for the accuracy itself.
    """
    random = seeds.generator(0, f"bootstrap of {name}")
    texts = torch.randint(own.shape[1], (RESAMPLES, own.shape[1]), generator=random)

    def drawn(right: Tensor) -> Tensor:
        times = torch.zeros(RESAMPLES, len(right))
        picked = torch.randint(len(right), (RESAMPLES, len(right)), generator=random)
        times.scatter_add_(1, picked, torch.ones_like(picked, dtype=times.dtype))
        shares = times @ right.float() / len(right)  # (resamples, texts)
        return shares.gather(1, texts).mean(1)

    values, found = drawn(own), own.float().mean().item()
    if other is not None:
        same = own is other
        values = torch.zeros_like(values) if same else values - drawn(other)
        found -= other.float().mean().item()
    low, high = values.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {name: found, f"{name} low": low, f"{name} high": high}


def known(heads: str, generator: ws.FittedGenerator, changes: adapt.TaskVectors) -> list[dict[str, object]]:
    """What the flow knows beyond a Gaussian, and how much of the variance each component has.

    Args:
        heads: Which heads the copies began at.
        generator: Generator of changes.
        changes: Changes of the copies.
    """
    assert generator.knowledge is not None
    assert generator.compress is not None
    shares = generator.compress.explained_variance_ratio
    mean = changes.weights.mean(0)
    common_part = (mean.norm() / changes.weights.norm(dim=1).median()).item()
    verdict = generator.knowledge.verdict
    return [
        {
            "heads": heads,
            "density of": one.name,
            "held out": generator.knowledge.held_out,
            "nats": one.nats,
            "flow ahead by": one.behind,
            "low": one.behind_low,
            "high": one.behind_high,
            "verdict": verdict.outcome,
            "first component": shares[0].item(),
            "last component": shares[-1].item(),
            "length of the mean": common_part,
        }
        for one in generator.knowledge.densities
    ]


if __name__ == "__main__":
    tyro.cli(main)

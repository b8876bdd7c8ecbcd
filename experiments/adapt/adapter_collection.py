"""Can new adapters be sampled from a hundred trained ones?

    python -m experiments.adapt.adapter_collection --data-root DATA    (about 10 minutes of one core; rerun to continue)

LoRA of rank 2 on the attention of MiniLM's third layer, trained from 100 starts of A to tell fiction from learned
prose; the head is random and stands still. The adapters are brought into canonical form, since B G and G^-1 A change
the base alike, or left as they are; PCA and a flow learn from them; samples stand beside trained adapters, baselines
and 12 adapters that were not seen.
"""

from dataclasses import replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.adapt.texts import Adaptable, adaptable
from experiments.common import report_rows, tables
from weightspace import adapt, align, symmetry
from weightspace.report.intervals import half_width

RECIPE = ws.Recipe("30it", batch_size=16, optimizer=ws.Adam(), schedule="triangular")
LORA = adapt.LoRA(2, on="attention.*")
RATES = (3e-3, 1e-2)
EVERY = 2  # of so many texts of the test split one is read; every network of a report reads them all


def main(
    data_root: Path | None = None,
    n: int = 100,
    unseen: int = 12,
    samples: int = 12,
    components: int = 32,
    steps: int = 600,
    out: Path = Path("runs/adapter-collection"),
    results: Path = tables.RESULTS,
) -> None:
    """Write adapt/adapter_collection.csv, a row for each kind of network and form, and adapt/adapter_spectrum.csv.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        n: Number of adapters to learn from.
        unseen: Number of further adapters.
        samples: Number of samples.
        components: Number of principal components.
        steps: Number of steps of the flow.
        out: Folder of the adapters; the same command continues there.
        results: Folder of the result tables.
    """
    whole = adaptable("fiction", data_root, RECIPE, head="shared", below=2, attention=True, length=20)
    adapters = trained(whole, n + unseen, out)
    read = torch.arange(0, len(whole.task.test), EVERY)  # texts are in the order of their classes
    task = replace(whole.task, architecture=adapters.architecture, test=whole.task.test.batch(read))
    x = task.train.head(4).x
    found = symmetry.trace(adapters.architecture.build_seeded(0), x)
    forms = {"canonical": align.canonical(adapters, found), "as trained": adapters}
    rows: list[dict[str, object]] = []
    spectrum: list[dict[str, object]] = []
    for form, networks in forms.items():
        seen = networks[:n]
        generator = ws.TicketGenerator(
            align=None, compress=ws.PCA(components), generate=ws.FlowMatching(width=128, steps=steps)
        )
        fitted = generator.fit(seen, seed=0, folder=out / f"generator-{form.replace(' ', '-')}")
        drawn = fitted.sample(samples, density=1.0, seed=1)
        report = ws.evaluate(
            drawn,
            task,
            training=seen,
            held_out=networks[n:],
            others={"base": begun(adapters)},
            align=None,
            components=components,
            dropout=None,
        )
        print(report, flush=True)
        rows += [
            row | {"accuracy ±": half_width(values) if len(values) > 1 else None}
            for row in report_rows.rows(report, {"form": form})
            for values in [report[str(row["networks"])].values("accuracy")]
        ]
        tables.write(results / "adapt/adapter_collection.csv", rows)
        spectrum += [{"form": form, "component": i + 1, "share": share} for i, share in enumerate(shares(seen.weights))]
        tables.write(results / "adapt/adapter_spectrum.csv", spectrum)


def trained(whole: Adaptable, n: int, out: Path) -> ws.Collection:
    """The adapters, at the rate at which four of them do best on validation data."""

    def at(rate: float, count: int) -> ws.Collection:
        task = replace(whole.task, recipe=replace(RECIPE, optimizer=ws.Adam(lr=rate)))
        return LORA.find(whole.starts(count, 0), task, folder=out / f"adapters-{rate}-{count}")

    def score(rate: float) -> float:
        return sum(record.metrics["validation_accuracy"] for record in at(rate, 4).records)

    scores = {rate: score(rate) for rate in RATES}
    print(scores, flush=True)
    return at(max(RATES, key=lambda rate: scores[rate]), n)


def begun(adapters: ws.Collection) -> ws.Collection:
    """Two adapters that change nothing: the base."""
    return adapters[:2].replace(weights=torch.zeros_like(adapters[:2].weights))


def shares(weights: torch.Tensor) -> list[float]:
    """Share of the variance in each principal component."""
    sizes = torch.linalg.svdvals((weights - weights.mean(0)).double()).square()
    return (sizes / sizes.sum()).tolist()


if __name__ == "__main__":
    tyro.cli(main)

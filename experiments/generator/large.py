"""Do compression, flow and sampling work for networks of 11 and of 110 million parameters, and in how much memory?

    python -m experiments.generator.large                                (a few minutes; writes about 3 GB under --out)
    python -m experiments.generator.large --network bert --networks 16   (ten minutes; writes about 9 GB under --out)

A synthetic collection in the layout of ResNet-18, or of a classifier on BERT-base: networks around a common mean,
pruned to density 0.10 and written one at a time; none of them is trained. Generator and samples go to folders. Writes
the time of each stage and the largest memory that the process had until its end. Refinement, which would train the
components, is left out.
"""

import resource
import time
from pathlib import Path
from typing import Literal

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.networks.collection import writer_for
from weightspace.runtime.room import COMPONENTS_BESIDE

ARCHITECTURES = {
    "resnet": ws.Architecture("ResNet18", {}),
    "bert": ws.Architecture("BERTClassifier", {"outputs": 2}),
}
SETTINGS = ("network", "networks", "stage")


def main(
    network: Literal["resnet", "bert"] = "resnet",
    networks: int = 64,
    samples: int = 10,
    out: Path = Path("runs/generator_large"),
    results: Path = tables.RESULTS,
) -> None:
    """Write a row for each stage that is done now, not by an earlier call, to generator/large.csv.

    Args:
        network: Layout of the networks: ResNet-18 with 11 million parameters, or BERT-base with 110 million.
        networks: Number of networks in the collection.
        samples: Number of networks to sample.
        out: Folder of the collection, the generator and the samples; the same command continues there.
        results: Folder of the result tables.
    """
    architecture, out = ARCHITECTURES[network], out / network
    layout = architecture.layout()
    components = networks - 1
    needed = 4 * layout.size * (components + COMPONENTS_BESIDE) / 2**30
    fixed = {"network": architecture.name, "networks": networks, "parameters": layout.size, "components": components}
    print(
        f"{networks} networks of {layout.size:,} parameters; components and what is beside them need {needed:.1f} GiB"
    )

    def stage(name: str, began: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row = fixed | {"stage": name, "seconds": time.perf_counter() - began, "peak GiB so far": peak}
        print({k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        tables.add(results / "generator/large.csv", [row], SETTINGS)

    began = time.perf_counter()
    if not (out / "tickets/collection.json").exists():
        write(out / "tickets", layout, architecture, networks)
        stage("writing the collection", began)
    tickets = ws.Collection.load(out / "tickets", verify=False)

    done, began = (out / "generator/complete.json").exists(), time.perf_counter()
    model = ws.TicketGenerator(align=None, compress=ws.PCA(components), generate=ws.FlowMatching(steps=1000))
    generator = model.fit(tickets, folder=out / "generator")
    if not done:
        stage("fitting compression and flow", began)

    done, began = (out / "samples/complete.json").exists(), time.perf_counter()
    sampled = generator.sample(samples, density=0.1, data=inputs(layout), folder=out / "samples")
    if not done:
        stage(f"sampling {samples} networks", began)
    print("densities", sampled.densities.unique().tolist())


def inputs(layout: ws.Layout) -> ws.Split | None:
    """Images for the statistics of BatchNorm, where there is any."""
    if not layout.buffers:
        return None
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return ws.Split(images, torch.zeros(64, dtype=torch.long))


def write(folder: Path, layout: ws.Layout, architecture: ws.Architecture, networks: int) -> None:
    """Write the collection one network at a time."""
    mean = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.05
    writer = writer_for(folder, layout, architecture)
    rule = ws.Unstructured(0.1)
    for i in range(len(writer), networks):
        deviation = torch.randn(layout.size, generator=torch.Generator().manual_seed(i + 1)) * 0.05
        weights = (mean + deviation)[None]
        masks = rule.mask(weights.abs(), layout)
        buffers = {b.name: torch.zeros((1, *b.shape)) for b in layout.buffers}
        one = ws.Collection(
            layout,
            weights * masks,
            architecture=architecture,
            masks=masks,
            buffers=buffers,
            records=[{"index": i, "task": "synthetic", "aligned": "synthetic"}],
        )
        one.write_to(writer)
    writer.close()


if __name__ == "__main__":
    tyro.cli(main)

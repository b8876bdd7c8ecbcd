"""Do compression, flow and sampling work for networks of 11 million parameters?

    python -m experiments.generator.large        (a few minutes; writes about 3 GB under --out)

A synthetic collection in the layout of ResNet-18: networks around a common mean, pruned to density 0.10 and written
a few at a time; none of them is trained. Prints the time of each stage and the largest memory that the process had.
Refinement, which would train the components, is left out.
"""

import resource
import time
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.networks.collection import writer_for


def main(
    networks: int = 64,
    samples: int = 10,
    out: Path = Path("runs/generator_large"),
    results: Path = tables.RESULTS,
) -> None:
    """Print the table and write it to generator/large.csv.

    Args:
        networks: Number of networks in the collection.
        samples: Number of networks to sample.
        out: Folder where the collection is written.
        results: Folder of the result tables.
    """
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # for BatchNorm statistics
    data = ws.Split(images, torch.zeros(64, dtype=torch.long))
    architecture = ws.Architecture("ResNet18", {})
    layout = architecture.layout()
    rows: list[dict[str, object]] = []

    def stage(name: str, began: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append({"stage": name, "seconds": time.perf_counter() - began, "peak GiB so far": peak})
        print({k: f"{v:.2f}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)

    print(f"{networks} networks of {layout.size:,} parameters, {4 * networks * layout.size / 2**30:.1f} GiB of weights")
    began = time.perf_counter()
    if not (out / "collection.json").exists():
        write(out, layout, architecture, networks)
    stage("writing the collection", began)
    tickets = ws.Collection.load(out)

    began = time.perf_counter()
    model = ws.TicketGenerator(align=None, compress=ws.PCA(networks - 1), generate=ws.FlowMatching(steps=1000))
    generator = model.fit(tickets)
    stage("fitting compression and flow", began)
    began = time.perf_counter()
    sampled = generator.sample(samples, density=0.1, data=data)
    stage(f"sampling {samples} networks", began)
    print("densities", sampled.densities.unique().tolist())
    tables.write(results / "generator/large.csv", rows)


def write(folder: Path, layout: ws.Layout, architecture: ws.Architecture, networks: int) -> None:
    """Write the collection a few networks at a time."""
    mean = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.05
    writer = writer_for(folder, layout, architecture)
    rule = ws.Unstructured(0.1)
    for i in range(networks):
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

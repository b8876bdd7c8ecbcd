"""Does a flow learn a distribution from few tickets, or does it memorise them?

    python -m experiments.generator.flow_memorisation runs/generator_fashion/shard-*/tickets-0.1 --data-root data

Flows are trained for more and more steps on the codes of 180 aligned tickets (a few minutes on one core). For
each: the log-density of these codes and of 20 others, in nats for each of the components, how far samples are from
the nearest code trained on, how much they vary, and how far their neighbours are, all relative to the same for the
codes. The last row is the flow that chooses its weights by the loss of a tenth of the 180 codes
(`FlowMatching(validation_fraction=0.1)`). The compression has seen all of the tickets: outside of its span, which
contains next to nothing of other tickets, a code says nothing.
"""

from pathlib import Path

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

import weightspace as ws
from experiments.common import tables
from experiments.generator import tuning

SAMPLES = 400


def main(
    tickets: Positional[tuple[Path, ...]],
    components: int = 32,
    learned_from: int = 180,
    held_out: int = 20,
    data_root: Path | None = None,
    seed: int = 0,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each length of training to generator/flow_memorisation.csv.

    Args:
        tickets: Folders of tickets of a built-in task, one after the other.
        components: Number of components of the compression.
        learned_from: Number of tickets whose codes the flows see.
        held_out: Number of tickets whose codes they do not see.
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        seed: Seed of the flows.
        results: Folder of the result tables.
    """
    loaded = ws.Collection.concatenate([ws.Collection.load(folder) for folder in tickets])
    if len(loaded) < learned_from + held_out:
        raise SystemExit(f"{learned_from + held_out} tickets are needed, these folders have {len(loaded)}")
    loaded = loaded[: learned_from + held_out]
    task = tuning.task_of(loaded, data_root)
    aligned = ws.WeightMatching().fit(loaded, example=task.train.x[:8]).transform(loaded)
    codes = ws.PCA(components).fit(aligned).transform(aligned)
    seen, unseen = codes[:learned_from], codes[learned_from:]
    rows: list[dict[str, object]] = []
    for steps in (1, 25, 100, 400, 1600, 4000):
        rows.append(row(ws.FlowMatching(steps=steps), f"{steps} steps", seen, unseen, seed))
    rows.append(row(ws.FlowMatching(validation_fraction=0.1), "4000 steps, held_out=0.1", seen, unseen, seed))
    tables.write(results / "generator/flow_memorisation.csv", rows)


def row(model: ws.FlowMatching, name: str, seen: Tensor, unseen: Tensor, seed: int) -> dict[str, object]:
    """Figures of one flow."""
    flow = model.fit(seen, seed=seed)
    samples = flow.sample(SAMPLES, seed=seed + 1)
    typical = torch.cdist(seen, seen).fill_diagonal_(torch.inf).amin(1).median()
    subset = samples[: len(seen)]
    among = torch.cdist(subset, subset).fill_diagonal_(torch.inf).amin(1).median()
    size = seen.shape[1]
    figures: dict[str, object] = {
        "flow": name,
        "log-density, trained on": flow.log_prob(seen, solver_steps=32).mean().item() / size,
        "log-density, held out": flow.log_prob(unseen, solver_steps=32).mean().item() / size,
        "nearest code": (torch.cdist(samples, seen).amin(1).median() / typical).item(),
        "nearest sample": (among / typical).item(),
        "variance": (samples.var(0).sum() / seen.var(0).sum()).item(),
    }
    print({key: f"{value:.3f}" if isinstance(value, float) else value for key, value in figures.items()}, flush=True)
    return figures


if __name__ == "__main__":
    tyro.cli(main)

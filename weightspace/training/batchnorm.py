"""BatchNorm statistics of networks that were not trained to them: averages, permutations, samples."""

import torch
from torch import Tensor, nn

from weightspace.networks.collection import Collection
from weightspace.networks.forward import activation_bytes, blocks, forward
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Data, OwnData

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_STATISTICS_BYTES = 256 * 2**20  # activations while statistics are estimated
BATCH, BATCHES = 512, 8
"""Samples in a batch of the estimate, and batches."""


def recalibrated(
    networks: Collection, data: Data, *, batch: int = BATCH, batches: int = BATCHES, device: str = "cpu"
) -> Collection:
    """Networks whose BatchNorm statistics are estimated anew, as means over batches of training data.

    Interpolated networks need it: the variance of their activations collapses (REPAIR, arXiv 2211.08403).

    Args:
        networks: Networks of one architecture.
        data: Training split. Where each network has data of its own, its record says which.
        batch: Samples in a batch; batches are consecutive, from the start of the split.
        batches: Number of batches; fewer if the split is shorter.
        device: Device to compute on, block by block.
    """
    module = networks.architecture.build_seeded(0).eval()
    norms = _with_statistics(module)
    if not norms:
        return networks
    batch = min(batch, len(data))
    fits = max(1, _STATISTICS_BYTES // (activation_bytes(module, data.head(1).x) * batch))
    module = module.to(device)
    for norm in norms.values():
        norm.train()
        norm.momentum = 1.0  # the statistics become those of the batch
    parts: list[dict[str, Tensor]] = []
    for rows in blocks(len(networks), fits):
        part = networks[rows]
        parameters = part.layout.tensors(part.weights.to(device))
        total: dict[str, Tensor] = {}
        used = list(blocks(len(data), batch))[:batches]
        with torch.no_grad():
            for samples in used:
                buffers = {name: b.to(device, copy=True) for name, b in part.buffers.items()}
                x, shared = _inputs(data, samples, part)
                forward(module, parameters, buffers, trees.to(x, device), shared_input=shared)
                for name in norms:
                    for kind in ("running_mean", "running_var"):
                        key = f"{name}.{kind}" if name else kind
                        total[key] = total.get(key, torch.zeros_like(buffers[key])) + buffers[key]
        parts.append({name: (t / len(used)).cpu() for name, t in total.items()})
    means = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return networks.replace(buffers=networks.buffers | means)


def has_statistics(networks: Collection) -> bool:
    """Whether the networks have BatchNorm statistics.

    Args:
        networks: Networks of one architecture.
    """
    return bool(networks.layout.buffers) and bool(_with_statistics(networks.architecture.build_seeded(0)))


def _with_statistics(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {name: m for name, m in module.named_modules() if isinstance(m, _NORMS) and m.track_running_stats}


def _inputs(data: Data, samples: slice, networks: Collection) -> tuple[Tree, bool]:
    """A batch, and whether all networks share it."""
    if not isinstance(data, OwnData):
        return data.batch(samples).x, True
    rows = torch.arange(samples.start, samples.stop).expand(len(networks), -1)
    x, _ = data.batches(rows, [record.data for record in networks.records])
    return x, False

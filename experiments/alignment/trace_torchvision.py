"""Which permutations does `symmetry.trace` find and prove in torchvision's classification networks?

    python -m experiments.alignment.trace_torchvision          (about 25 minutes on two cores)

One network of each family, at random weights and small inputs. A row says: proven (all permutations in the table
leave outputs and updated statistics unchanged to 1e-9 in float64, and each axis moved alone changes the output),
fixed (the same, but the units of some operators, which are named, were left in place), or refused (and why); and the
fraction of the parameters that some permutation moves.
"""

import time
from pathlib import Path

import torch
import torchvision
import tyro

from experiments.common import tables
from weightspace import symmetry
from weightspace.errors import InputError

# One of each family; the size of the input where 64 pixels are too few.
FAMILIES = {
    "alexnet": 64, "vgg11_bn": 32, "resnet18": 64, "resnet50": 64, "wide_resnet50_2": 64, "resnext50_32x4d": 64,
    "densenet121": 64, "squeezenet1_1": 64, "googlenet": 224, "inception_v3": 128, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "shufflenet_v2_x0_5": 64, "mnasnet0_5": 64, "efficientnet_b0": 64,
    "efficientnet_v2_s": 64, "regnet_y_400mf": 64, "convnext_tiny": 64, "vit_b_16": 64, "swin_t": 64, "swin_v2_t": 64,
    "maxvit_t": 64,
}  # fmt: skip


def main(only: tuple[str, ...] = (), results: Path = tables.RESULTS) -> None:
    """Write one row for each network to alignment/trace_torchvision.csv.

    Args:
        only: Names of networks; none given does all.
        results: Folder of the result tables.
    """
    rows: list[dict[str, object]] = []
    for name, pixels in FAMILIES.items():
        if only and name not in only:
            continue
        torch.manual_seed(0)
        module = build(name, pixels)
        rows.append(examine(name, module, torch.randn(2, 3, pixels, pixels)))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        tables.add(results / "alignment/trace_torchvision.csv", rows, ("network",))
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def build(name: str, pixels: int) -> torch.nn.Module:
    """The published network; transformers for small images, so that the proof's many passes take minutes."""
    if name == "vit_b_16":
        return torchvision.models.get_model(name, weights=None, image_size=pixels)
    if name == "inception_v3":  # without its auxiliary output, which needs larger images
        return torchvision.models.get_model(name, weights=None, aux_logits=False, init_weights=False)
    if name == "maxvit_t":
        return torchvision.models.MaxVit(
            input_size=(pixels, pixels),
            stem_channels=64,
            partition_size=2,
            block_channels=[64, 128, 256, 512],
            block_layers=[2, 2, 5, 2],
            head_dim=32,
            stochastic_depth_prob=0.2,
        )
    return torchvision.models.get_model(name, weights=None)


def examine(name: str, module: torch.nn.Module, x: torch.Tensor) -> dict[str, object]:
    """One row of the table."""
    began = time.perf_counter()
    verdict, note = "proven", ""
    traced = None
    for fix in (False, True):
        try:
            traced = symmetry.trace(module, x, fix_unknown=fix)
            break
        except InputError as error:
            verdict = "refused" if fix else "fixed"
            note = str(error).split(". ")[0]
    return {
        "network": name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "verdict": verdict,
        "groups": len(traced.groups) if traced else 0,
        "units": sum(traced.count(g.name) for g in traced.groups if not traced.children(g.name)) if traced else 0,
        "parameters moved": f"{traced.coverage:.4f}" if traced else "-",
        "seconds": f"{time.perf_counter() - began:.0f}",
        "note": note,
    }


if __name__ == "__main__":
    tyro.cli(main)

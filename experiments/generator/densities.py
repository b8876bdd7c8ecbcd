"""One generator for any density: fitted to tickets of 0.2, 0.1 and 0.05, asked for 0.15, 0.07 and 2:4.

    python -m experiments.generator.densities        (about half an hour a seed on one core; resumable)

Digits, MLP 64-128-64-10: from each of 160 dense networks a ticket of each of three densities, so 480 for a generator
that is told the density; refined under seven densities from 0.2 to 0.05, among them neither 0.15 nor 0.07, and 2:4. For
every density asked, 100 samples beside 100 tickets found at just that density by the same method from other dense
networks. 2:4 tickets are pruned in one shot and trained as long as the others.
"""

from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import report_rows, tables
from weightspace.evaluation.connectivity import mask_overlap

LEARNED = (0.2, 0.1, 0.05)
REFINED = (0.2, 0.16, 0.126, 0.1, 0.08, 0.063, 0.05)
ASKED = (0.2, 0.15, 0.1, 0.07, 0.05)
NETWORKS, OTHERS = 160, 100


def main(
    seeds: tuple[int, ...] = (0, 1, 2), steps: int = 24_000, ramp: float = 0.5, gates: bool = False,
    own_densities: bool = False, components: int = 128, radius: float | None = None,
    mask_diversity: float = 0.3, validation: bool = False,
    out: Path = Path("runs/generator_densities"), results: Path = Path("docs/results"),
) -> None:  # fmt: skip
    """Print and write one row for each density asked and seed.

    Args:
        seeds: of networks, tickets and generators.
        steps: of refinement.
        ramp: share of them in which samples become sparse; 0.5 was chosen on the validation split.
        gates: let gates decide the masks of samples.
        own_densities: refine under the three densities of the tickets and 2:4 alone, as often each.
        components: of the compression.
        radius: that samples start at, by a flow that held-out codes choose; by default codes are as a flow that is trained to
            the end makes them.
        mask_diversity: weight of the penalty on masks that are alike.
        validation: judge on the validation split, to choose a setting; otherwise on the test split.
        out: where all stages are kept.
        results: where the CSV file goes.
    """
    task = ws.tasks.digits()
    judged = task.validation if validation else task.test
    two_of_four = ws.NM(2, 4)
    setting = "-own-densities" * own_densities + f"-ramp-{ramp:g}" * (ramp != 0.5) + "-gates" * gates
    setting += f"-components-{components}" * (components != 128) + f"-radius-{radius}" * (radius is not None)
    setting += f"-mask-diversity-{mask_diversity:g}" * (mask_diversity != 0.3)
    # 2:4 as often as any two neighbours among many densities.
    under = [*LEARNED, two_of_four] if own_densities else [*REFINED, two_of_four, two_of_four]
    patterns = [one if isinstance(one, ws.NM) else ws.Unstructured(one) for one in under]
    rows: list[dict[str, object]] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        dense = ws.collect(task, NETWORKS + OTHERS, seed=seed, folder=folder / "dense")
        own, foreign = dense.split(NETWORKS, OTHERS)
        learned = [
            ws.tickets.GradualPruning(density=d).find(own, task, folder=folder / f"learned-{d}") for d in LEARNED
        ]  # fmt: skip
        model = ws.TicketGenerator(
            compress=ws.PCA(components), conditions=("density",),
            generate=ws.FlowMatching(held_out=0.0 if radius is None else 0.1),
            refine=ws.TaskRefinement(
                task, steps=steps, ramp=ramp, patterns=patterns, radius=radius, mask_diversity=mask_diversity
            ),
            masks=ws.Gates() if gates else ws.Magnitude(),
        )  # fmt: skip
        generator = model.fit(
            ws.Collection.concatenate(learned), seed=seed, folder=folder / f"generator-{steps}{setting}"
        )
        assert generator.align is not None
        for asked in (*map(ws.Unstructured, ASKED), two_of_four):
            name = "2:4" if isinstance(asked, ws.NM) else f"{asked.density:g}"
            samples = generator.sample(OTHERS, pattern=asked, seed=seed + 1)
            if isinstance(asked, ws.NM):
                masks = asked.mask(foreign.weights.abs(), foreign.layout)
                pruned = foreign.replace(weights=foreign.weights * masks, masks=masks)
                found = ws.train(pruned, task, steps="30ep", folder=folder / "tickets-2-4")
            else:
                gradual = ws.tickets.GradualPruning(density=asked.density)
                found = gradual.find(foreign, task, folder=folder / f"tickets-{asked.density}")
            for kind, networks in {"samples": samples, "tickets": found}.items():
                right = accuracies(networks, judged)
                # Samples have the tickets' order of units; matching their values anew can hide a mask that they share.
                ordered = networks if kind == "samples" else generator.align.transform(networks)
                alike = mask_overlap(ordered).shared
                rows.append(
                    {
                        "asked": name, "networks": kind, "seed": seed, "n": len(networks),
                        "accuracy": right.mean().item(), "accuracy std": right.std().item(),
                        "density": networks.densities.mean().item(), "mask overlap": alike, **ensemble(networks, judged),
                    }
                )  # fmt: skip
        variant = setting.replace("-", "_") + "_validation" * validation
        tables.write(results / f"generator_densities{variant}.csv", rows)
    report_rows.summary(rows, ("asked", "networks"))


def accuracies(networks: ws.Collection, judged: ws.Split) -> torch.Tensor:
    """Of each network."""
    return (networks.ensemble().logits(judged.x).argmax(-1) == judged.y).double().mean(1)


def ensemble(networks: ws.Collection, judged: ws.Split) -> dict[str, object]:
    """Accuracy and negative log-likelihood of their mean prediction."""
    probable = networks.ensemble().predict_proba(judged.x).double()
    right = (probable.argmax(-1) == judged.y).double().mean().item()
    nll = -probable.gather(1, judged.y[:, None]).log().mean().item()
    return {"ensemble accuracy": right, "ensemble nll": nll}


if __name__ == "__main__":
    tyro.cli(main)

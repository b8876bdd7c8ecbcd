"""Is a sampled sparse network as good as a ticket, and what makes it so?

    python -m experiments.generator.digits            (about two hours on one core; every stage is kept under --out)

Handwritten digits, MLP 64-128-64-10, 400 dense networks, tickets of density 0.10 and 0.05 by gradual magnitude
pruning; the generator sees 320 of them, 80 are held out. It has few components, a flow that is chosen by a tenth of
the codes, samples that start on a sphere, and a ramp of the density for 0.05. Beside the refined generator and the
baselines of every report there are, at density 0.10, these controls: the flow alone; the refinement without the
flow's training; the refinement of a random decoder, without the tickets; the flow's samples trained one by one, and
the tickets trained further, for the same number of gradients of single networks on single training images; and the
two other rules for masks. Settings were chosen on the validation split; the test split is read here.

--wide runs another target instead: MLP 64-32-10, 2,000 networks, density 0.4. The only control there, and at density
0.05, are the tickets trained further.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import budget, report_rows, tables
from weightspace.generator import FittedGenerator

SAMPLES = 100
RANDOM_RADIUS = 0.4  # of the random decoder, tried on validation data after 0.9 had done badly


@dataclass(frozen=True)
class Fit:
    """How a generator is fitted; `ramp` along which its samples become sparse."""

    components: int
    radius: float | None
    steps: int
    ramp: float = 0.0
    validation_fraction: float = 0.1
    mask_diversity: float = 0.3

    def model(self) -> ws.TicketGenerator:
        """The generator with these settings."""
        return ws.TicketGenerator(
            compress=ws.PCA(self.components),
            generate=ws.FlowMatching(width=256, blocks=2, steps=4000, validation_fraction=self.validation_fraction),
            refine=ws.TaskRefinement(
                steps=self.steps, ramp=self.ramp, radius=self.radius, mask_diversity=self.mask_diversity
            ),
        )

    @property
    def kind(self) -> str:
        """The name of its folders."""
        return f"{self.steps}-{self.components}-{self.radius}-{self.validation_fraction}-{self.mask_diversity}"


@dataclass(frozen=True)
class Setting:
    """What is trained and how much of it."""

    name: str
    hidden: tuple[int, ...]
    networks: int
    held_out: int
    fits: dict[float, Fit]  # by density
    controls: bool


DEEP = Setting(
    "digits",
    (128, 64),
    400,
    80,
    {0.10: Fit(16, 0.9, 8000), 0.05: Fit(16, 0.5, 8000, ramp=0.5, mask_diversity=0.15)},
    controls=True,
)
WIDE = Setting("digits_wide", (32,), 2000, 200, {0.4: Fit(128, None, 4000, validation_fraction=0.0)}, controls=False)


# Columns of the table that say what a row was measured with.
SETTINGS = (
    "network", "density", "components", "radius", "steps", "ramp", "validation_fraction", "mask_diversity", "seed",
)  # fmt: skip


def main(
    wide: bool = False,
    controls: bool = True,
    densities: tuple[float, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    components: int | None = None,
    radius: float | None = None,
    steps: int | None = None,
    validation_fraction: float | None = None,
    mask_diversity: float | None = None,
    free: bool = False,
    out: Path = Path("runs/generator_digits"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each set of networks, density and seed to generator/digits.csv.

    Args:
        wide: A small network (64-32-10), 2,000 of them, density 0.4.
        controls: All controls; without them it takes a third of the time.
        densities: Densities to do; none given does all of the target.
        seeds: Seeds of networks, tickets and generators.
        components: Number of components of the compression; None is the target's choice, as in the next four.
        radius: Radius of the sphere that samples start on.
        steps: Steps of refinement.
        validation_fraction: Fraction of the codes that chooses the flow's weights; 0 trains the flow to the end.
        mask_diversity: Weight of the penalty on masks that are alike.
        free: No sphere; samples start where the flow puts them.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    setting = WIDE if wide else DEEP
    network = "-".join(map(str, (64, *setting.hidden, 10)))
    task = ws.tasks.digits(hidden=setting.hidden)
    rows: list[dict[str, object]] = []
    if unknown := set(densities) - set(setting.fits):
        raise SystemExit(f"densities of this setting are {', '.join(map(str, setting.fits))}, got {unknown}")
    if free and radius is not None:
        raise SystemExit(f"--free has no radius, got {radius}: give one of the two")
    chosen = {
        "components": components,
        "radius": radius,
        "steps": steps,
        "validation_fraction": validation_fraction,
        "mask_diversity": mask_diversity,
    }
    changed = {name: value for name, value in chosen.items() if value is not None} | ({"radius": None} if free else {})
    for density in densities or setting.fits:
        fit = replace(setting.fits[density], **changed)
        model, kind = fit.model(), fit.kind
        for seed in seeds:
            folder = out / f"{setting.name}-{seed}"
            dense = ws.collect(task, setting.networks, seed=seed, folder=folder / "dense")
            here = folder / f"density-{density}"
            tickets = ws.tickets.GradualPruning(density=density).find(dense, task, folder=here / "tickets")
            training, held = tickets.split(len(tickets) - setting.held_out, setting.held_out)
            generator = model.fit(training, task=task, seed=seed, folder=here / f"generator-{kind}")
            samples = generator.sample(SAMPLES, density=density, seed=seed + 1)
            others = {"flow alone": replace(generator, refined=None).sample(SAMPLES, density=density, seed=seed + 1)}
            if controls and setting.controls and density == max(setting.fits):
                others |= parts_of(model, generator, training, task, density, seed, here / f"parts-{kind}")
            elif controls:
                others["tickets trained on"] = trained_on(model, training, task, here / f"trained-on-{fit.steps}")
            others["dense"] = dense[:SAMPLES]
            report = ws.evaluate(
                samples, task, training=training, held_out=held, others=others, dropout=None, seed=seed
            )
            report.write(here / f"report-{kind}")
            keys = {"network": network, "density": density} | vars(fit) | {"seed": seed}
            rows += report_rows.rows(report, keys)
            tables.add(results / "generator/digits.csv", rows, SETTINGS)
            few = [row for row in rows if row["networks"] in ("samples", report.reference, *others)]
            report_rows.summary(few, ("density", "networks"))


def parts_of(
    model: ws.TicketGenerator,
    generator: FittedGenerator,
    training: ws.Collection,
    task: ws.Task,
    density: float,
    seed: int,
    folder: Path,
) -> dict[str, ws.Collection]:
    """Collections that say what each part of the method is worth."""
    assert model.refine is not None
    refine = model.refine
    draw = {"density": density, "seed": seed + 1}
    gradients = budget.gradients(refine)

    untrained = replace(model, generate=replace(model.generate, steps=1, validation_fraction=0.0))
    parts = {
        "without the flow's training": untrained.fit(
            training, task=task, seed=seed, folder=folder / "untrained-flow"
        ).sample(SAMPLES, **draw)
    }
    nearer, kept = replace(refine, radius=RANDOM_RADIUS), folder / "random-decoder.checkpoint.safetensors"
    parts["random decoder"] = refined_random(generator, nearer, training, task, seed, kept).sample(SAMPLES, **draw)

    flow_alone = replace(generator, refined=None).sample(SAMPLES, **draw)
    parts["flow alone, fine-tuned"] = ws.train(
        flow_alone, task, budget.length_for(gradients / SAMPLES, task), folder=folder / "tuned"
    )
    parts["tickets trained on"] = trained_on(model, training, task, folder / "trained-on")

    for name, masks in {"shared support": ws.SharedMask(), "gates": ws.GateMask()}.items():
        other = replace(model, masks=masks, refine=None).fit(training, seed=seed, folder=folder / name)
        parts[f"flow alone, {name}"] = other.sample(SAMPLES, **draw)
    refined_gates = replace(model, masks=ws.GateMask()).fit(
        training, task=task, seed=seed, folder=folder / "gates-refined"
    )
    parts["gates, refined"] = refined_gates.sample(SAMPLES, **draw)
    return parts


def trained_on(model: ws.TicketGenerator, training: ws.Collection, task: ws.Task, folder: Path) -> ws.Collection:
    """Tickets, trained further for as many gradients as the refinement takes."""
    assert model.refine is not None
    length = budget.length_for(budget.gradients(model.refine) / len(training), task)
    return ws.train(training, task, length, folder=folder)[:SAMPLES]


def refined_random(
    generator: FittedGenerator,
    refine: ws.TaskRefinement,
    tickets: ws.Collection,
    task: ws.Task,
    seed: int,
    checkpoint: Path | None = None,
) -> FittedGenerator:
    """A generator refined from an untrained network for the mean and random directions: nothing of the tickets."""
    assert generator.compress is not None
    assert generator.align is not None
    compress = generator.compress
    start = task.architecture.build_seeded(seed)
    random = torch.randn(compress.components.shape, generator=torch.Generator().manual_seed(seed))
    directions = torch.nn.functional.normalize(random, dim=1) * compress.components.norm(dim=1, keepdim=True)
    decoder = replace(compress, mean=generator.layout.pack(start.state_dict()), components=directions)
    aligned = generator.align.transform(tickets)
    refined = refine.fit(aligned, task, generator.masks, decoder, generator.flow, seed=seed, checkpoint=checkpoint)
    return replace(generator, compress=decoder, refined=refined)


if __name__ == "__main__":
    tyro.cli(main)

"""Can a generator that is told what a task is make networks for tasks nobody trained, and does it need its flow?

    python -m experiments.generator.unseen_tasks --data-root data          (about 20 minutes on one core; resumable)

A task is a group of digits: is the digit on this small image one of them? Each of 800 tasks has one ticket, a network
196-16-1 at density 0.2. A generator learns from 700 of them with the description of each task as a condition, and is
asked for 60 tasks that it has not seen. Beside its samples stands what needs no flow: the ticket of the nearest task,
the mean ticket, ridge regression from descriptions to codes, the same with a Gaussian kernel, and training from
scratch. All are then trained on for up to 300 steps. Three families: groups alone, digits that are turned as well, and
tickets from three starts that no record names. The strengths of guidance and of the regressions are chosen on 40 other
tasks and on validation images; test images are read once, at the end.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

import weightspace as ws
from experiments.common import tables
from experiments.generator.task_families import (
    DENSITY,
    FAMILIES,
    JUDGED_IMAGES,
    NETWORK,
    TEST,
    TRAINING,
    TRAINING_IMAGES,
    VALIDATION,
    Digits,
    Family,
)
from weightspace.compress import FittedPCA
from weightspace.report.intervals import half_width
from weightspace.report.plots import style

COMPONENTS = 64
PENALTIES = (0.1, 1.0, 10.0, 100.0)
WIDTHS, SMOOTHING = (2.0, 4.0, 8.0), (0.001, 0.01, 0.1)  # of the Gaussian kernel
GUIDANCE = (1.0, 1.5, 2.0)
SAMPLES = 8  # of a task
FLOW, MEAN_CODE = "flow", "flow, mean of 8 codes"
RIDGE, KERNEL = "ridge regression", "kernel ridge regression"
NEAREST, MEAN, SCRATCH, OWN = "nearest task's ticket", "mean ticket", "from scratch", "the task's own ticket"
TOLD, ALIGNED = ", start known", ", after alignment"
STEPS = (0, 5, 10, 30, 100, 300)


def main(
    families: tuple[str, ...] = tuple(FAMILIES),
    seeds: tuple[int, ...] = (0, 1, 2),
    flow_steps: int = 2000,
    data_root: Path | None = None,
    out: Path = Path("runs/unseen_tasks"),
    results: Path = tables.RESULTS,
    figures: Path = tables.FIGURES,
) -> None:
    """Write one row for each family, kind of network and number of training steps, and a figure.

    Args:
        families: Families of tasks.
        seeds: Seeds of the flows.
        flow_steps: Training steps of a flow.
        data_root: Folder with MNIST/raw; None looks where the library looks.
        out: Folder of the tickets, generators and trained networks; the same command continues there.
        results: Folder of the result tables.
        figures: Folder of the figures.
    """
    mnist = ws.tasks.mnist(data_root=data_root)
    table = results / "generator/unseen_tasks.csv"
    studies: dict[str, Study] = {}
    for steps in STEPS:
        for name in families:
            if name not in studies:
                folder = out / name.replace(",", "").replace(" ", "-")
                studies[name] = Study(FAMILIES[name], mnist, flow_steps, folder, seeds)
            rows = [{"tasks": name, "steps": steps} | row for row in studies[name].rows(steps)]
            for row in rows:
                print(row, flush=True)
            tables.add(table, rows, ["tasks", "networks", "steps"])
    draw(table, figures / "unseen_tasks.svg")


@dataclass(frozen=True)
class Arm:
    """Networks for tasks.

    Args:
        weights: Networks (n, D), sparse.
        numbers: Task of each network (n,).
    """

    weights: Tensor
    numbers: Tensor

    @classmethod
    def pruned(cls, weights: Tensor, numbers: Tensor) -> "Arm":
        """Networks with as many weights as tickets keep."""
        masks = ws.Unstructured(DENSITY).mask(weights.abs(), NETWORK.layout())
        return cls(weights * masks, numbers)


class Study:
    """One family of tasks.

    Args:
        family: The tasks.
        mnist: Where the digits come from.
        flow_steps: Training steps of a flow.
        out: Folder of the runs.
        seeds: Seeds of the flows.
    """

    def __init__(self, family: Family, mnist: ws.Task, flow_steps: int, out: Path, seeds: Sequence[int]) -> None:
        self.family, self.mnist, self.flow_steps, self.out = family, mnist, flow_steps, out
        self.task = family.task(Digits.of(mnist.train, TRAINING_IMAGES))
        everything = family.tickets(self.task, out / "tickets")
        self.training, _, self.own = everything.split(TRAINING, VALIDATION, TEST)
        self.validation, self.test = torch.arange(TRAINING, family.count).split([VALIDATION, TEST])
        self.chosen: dict[str, tuple[float, ...]] = {}
        self.seeds = seeds
        self.arms = self.prepared()

    def prepared(self) -> dict[str, list[Arm]]:
        """Networks of every kind for the tasks that are judged, before any test image is read."""
        generators = [self.generator(seed) for seed in self.seeds]
        self.choose(generators[0])
        arms: dict[str, list[Arm]] = {FLOW: [], MEAN_CODE: []}
        for seed, generator in zip(self.seeds, generators, strict=True):
            (guidance,) = self.chosen[FLOW]
            sampled = self.sampled(generator, self.test, guidance, SAMPLES, seed)
            codes = generator.encode(self.collection(sampled)).reshape(TEST, SAMPLES, -1).mean(1)
            arms[FLOW].append(sampled)
            arms[MEAN_CODE].append(self.decoded(generator, codes, self.test))
        arms |= {name: [arm] for name, arm in self.baselines(generators[0]).items()}
        return arms | {OWN: [Arm(self.own.weights, self.test)]}

    def rows(self, steps: int) -> Iterator[dict[str, object]]:
        """Rows of the table, one for each kind of network.

        Args:
            steps: Training steps on each task.
        """
        arms = {name: group for name, group in self.arms.items() if not steps or name != OWN}
        judged = self.judged(arms, steps, Digits.of(self.mnist.test, JUDGED_IMAGES))
        for name, (accuracies, spread) in judged.items():
            ahead = [ours - other for ours, other in zip(judged[FLOW][0], accuracies, strict=True)]
            row: dict[str, object] = {"networks": name, "n": TEST, "seeds": len(arms[name])}
            row |= {"setting": " ".join(f"{one:g}" for one in self.chosen.get(name, ()))}
            row |= {"accuracy": statistics.mean(accuracies), "half width": half_width(accuracies)}
            row |= {"std of seeds": spread}
            row |= {} if name == FLOW else {"ahead": statistics.mean(ahead), "ahead half width": half_width(ahead)}
            yield row

    def judged(
        self, arms: Mapping[str, Sequence[Arm]], steps: int, digits: Digits
    ) -> dict[str, tuple[list[float], float | None]]:
        """Accuracy on each task after some steps, mean over seeds and samples, and its deviation over seeds."""
        flat = [(name, arm) for name, group in arms.items() for arm in group]
        if steps:  # one of the samples of a task
            flat = [(name, Arm(arm.weights[:: len(arm.numbers) // TEST], self.test)) for name, arm in flat]
        weights = torch.cat([arm.weights for _, arm in flat])
        numbers = torch.cat([arm.numbers for _, arm in flat])
        if steps:
            networks = self.collection(Arm(weights, numbers))
            folder = self.out / f"trained-{self.flow_steps}-{'-'.join(map(str, self.seeds))}-{steps}"
            weights = ws.train(networks, self.task, ws.Step(iterations=steps), folder=folder).weights
        parts = self.family.accuracy(weights, numbers, digits).split([len(arm.numbers) for _, arm in flat])
        found: dict[str, list[Tensor]] = {}
        for (name, _), part in zip(flat, parts, strict=True):
            found.setdefault(name, []).append(part.reshape(TEST, -1).mean(1))
        spread = {name: torch.stack(each).mean(1).std().item() for name, each in found.items() if len(each) > 1}
        return {name: (torch.stack(each).mean(0).tolist(), spread.get(name)) for name, each in found.items()}

    def generator(self, seed: int) -> ws.FittedGenerator:
        """A generator that is told what each task is."""
        model = ws.TicketGenerator(
            align=None,
            compress=ws.PCA(COMPONENTS),
            generate=ws.FlowMatching(steps=self.flow_steps, validation_fraction=0.1),
            conditions=("description",),
        )
        return model.fit(self.training, seed=seed, folder=self.out / f"generator-{self.flow_steps}-{seed}")

    def choose(self, generator: ws.FittedGenerator) -> None:
        """Choose guidance and the settings of regressions on validation tasks and validation images."""
        candidates: dict[tuple[str, tuple[float, ...]], Arm] = {
            (FLOW, (guidance,)): self.sampled(generator, self.validation, guidance, 2, seed=0) for guidance in GUIDANCE
        }
        for name, regression in self.regressions(generator).items():
            settings = [(one,) for one in PENALTIES]
            if name.startswith(KERNEL):
                settings = [(one, width) for one in SMOOTHING for width in WIDTHS]
            candidates |= {(name, one): regression.arm(self.validation, *one) for one in settings}
        parts = list(candidates.values())
        weights, numbers = torch.cat([arm.weights for arm in parts]), torch.cat([arm.numbers for arm in parts])
        digits = Digits.of(self.mnist.validation, JUDGED_IMAGES)
        found = self.family.accuracy(weights, numbers, digits).split([len(arm.numbers) for arm in parts])
        best: dict[str, float] = {}
        for (name, setting), accuracies in zip(candidates, found, strict=True):
            accuracy = accuracies.mean().item()
            print(f"validation tasks: {name} {setting}: {accuracy:.4f}", flush=True)
            if accuracy > best.get(name, 0):
                best[name], self.chosen[name] = accuracy, setting

    def sampled(self, generator: ws.FittedGenerator, numbers: Tensor, guidance: float, n: int, seed: int) -> Arm:
        """Samples for tasks, n of each, one task after another."""
        drawn = [
            generator.sample(
                n,
                density=DENSITY,
                condition={"description": self.family.descriptions[number]},
                guidance=guidance,
                seed=10_000 * seed + number,
            ).weights
            for number in numbers.tolist()
        ]
        return Arm(torch.cat(drawn), numbers.repeat_interleave(n))

    def decoded(self, generator: ws.FittedGenerator, codes: Tensor, numbers: Tensor) -> Arm:
        """Networks of codes."""
        return Arm(generator.decode(codes, density=DENSITY).weights, numbers)

    def regressions(self, generator: ws.FittedGenerator) -> dict[str, "Regression"]:
        """Regressions from descriptions to codes: on the tickets as they are, of one start, and aligned."""
        assert generator.compress is not None
        told = self.family.descriptions
        found = {"": Regression(told, generator.encode(self.training), generator.compress)}
        if self.family.starts > 1:
            found[TOLD] = Regression(told, found[""].codes, generator.compress, self.family.start[:TRAINING] == 0)
            matching = ws.WeightMatching().fit(self.training)
            aligned = matching.transform(self.training).weights
            compress = ws.PCA(COMPONENTS).fit(aligned)
            found[ALIGNED] = Regression(told, compress.transform(aligned), compress)
        return {kind + which: one for which, one in found.items() for kind in (RIDGE, KERNEL)}

    def baselines(self, generator: ws.FittedGenerator) -> dict[str, Arm]:
        """What is known without a flow."""
        arms = {name: one.arm(self.test, *self.chosen[name]) for name, one in self.regressions(generator).items()}
        told, weights = self.family.descriptions, self.training.weights
        arms[NEAREST] = Arm(weights[torch.cdist(told[self.test], told[:TRAINING]).argmin(1)], self.test)
        arms[MEAN] = Arm.pruned(weights.mean(0).expand(TEST, -1), self.test)
        start = self.family.beginnings(self.task).weights[:1]
        arms[SCRATCH] = Arm((start * (arms[MEAN].weights[:1] != 0)).expand(TEST, -1), self.test)
        return arms

    def collection(self, arm: Arm) -> ws.Collection:
        """Networks under their masks; each record says which task's data are its own."""
        layout = NETWORK.layout()
        masks = ws.Unstructured(DENSITY).mask(arm.weights.abs(), layout)
        records = [{"kind": "start", "seed": i, "index": i, "data": n} for i, n in enumerate(arm.numbers.tolist())]
        return ws.Collection(layout, arm.weights * masks, architecture=NETWORK, masks=masks, records=records)


@dataclass(frozen=True)
class Regression:
    """Ridge regression from descriptions to codes.

    Args:
        descriptions: Descriptions of all tasks.
        codes: Codes of the training tickets.
        compress: Compression that made the codes.
        among: Tickets that are learned from; None for all.
    """

    descriptions: Tensor
    codes: Tensor
    compress: FittedPCA
    among: Tensor | None = None

    def arm(self, numbers: Tensor, penalty: float, width: float | None = None) -> Arm:
        """Networks for tasks.

        Args:
            numbers: The tasks.
            penalty: Ridge.
            width: Width of a Gaussian kernel in standard deviations of a description's numbers; None is linear.
        """
        known, codes = self.descriptions[:TRAINING].double(), self.codes.double()
        known, codes = (known, codes) if self.among is None else (known[self.among], codes[self.among])
        centre, std = known.mean(0), known.std(0)
        x, asked = (known - centre) / std, (self.descriptions[numbers].double() - centre) / std
        within, across = x @ x.T, asked @ x.T
        if width is not None:
            within, across = (torch.exp(-(torch.cdist(one, x) ** 2) / (2 * width**2)) for one in (x, asked))
        mean = codes.mean(0)
        slopes = torch.linalg.solve(within + penalty * torch.eye(len(x), dtype=x.dtype), codes - mean)
        predicted = (mean + across @ slopes).to(self.codes.dtype)
        return Arm.pruned(self.compress.inverse_transform(predicted), numbers)


def draw(table: Path, path: Path) -> None:
    """Accuracy over training steps, a panel for each family.

    Args:
        table: Table of results.
        path: Figure to write.
    """
    rows = tables.read(table)
    colours = {
        FLOW: style.ACCENT, RIDGE: "#0ea5e9", KERNEL: "#1d4ed8", RIDGE + TOLD: "#14b8a6", KERNEL + TOLD: "#0f766e",
        NEAREST: "#a16207", MEAN: "#7c3aed", SCRATCH: style.OTHER,
    }  # fmt: skip
    names = list(dict.fromkeys(row["tasks"] for row in rows))
    figure = style.blank(4.4 * len(names), 4.0)
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        style.tidy(axes)
        for kind, colour in colours.items():
            own = [row for row in rows if row["tasks"] == name and row["networks"] == kind]
            if own:
                x = [STEPS.index(int(row["steps"])) for row in own]
                y, halves = ([float(row[part]) for row in own] for part in ("accuracy", "half width"))
                axes.errorbar(x, y, halves, fmt="o-", color=colour, label=kind, markersize=3, capsize=2, linewidth=1.2)
        (ticket,) = (float(row["accuracy"]) for row in rows if row["tasks"] == name and row["networks"] == OWN)
        axes.axhline(ticket, color="#475569", linewidth=1, linestyle=":", label=OWN)
        axes.set_xticks(range(len(STEPS)), [str(one) for one in STEPS])
        axes.set(title=name, xlabel="training steps on the task", ylim=(0.45, 0.92))
        if not i:
            axes.set_ylabel("accuracy on test images")
        axes.legend(frameon=False, fontsize=7, loc="lower right")
    style.save(figure, path)


if __name__ == "__main__":
    tyro.cli(main)

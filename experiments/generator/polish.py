"""How many training steps do samples need to be as good as tickets, and what is left of their novelty then?

    python -m experiments.generator.polish --data-root data          (under an hour on one core; every stage is kept)

Networks 784-100-50-10 on Fashion-MNIST at density 0.10 (`--hidden 300 100` is LeNet-300-100, in thrice the time): 40
tickets of 3 epochs of training and 5 of gradual pruning, of which the generator sees 28. It is the novel setting of
`experiments.generator.fashion` with fewer components and steps. 20 samples get a new last layer (`LastLayer`), or are
trained on for 10, 30, 100 or 300 steps of the task's recipe, under their masks; so are 20 of the tickets, and 20 copies
of the mean of the aligned tickets, pruned to the density, each through the data in an order of its own. The learning
rate of each of the three is chosen by validation loss, for each number of steps. Another design for the cost of about
30 steps: four times as many samples, of which the quarter with the lowest loss on 2,000 validation images is kept and
trained for 12 steps. All are judged beside the same training and held-out tickets.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import report_rows, tables
from experiments.generator.fashion import Fit, Study, ready
from weightspace.storage.files import make_folder, write_text

SETTINGS = ("hidden", "density", "arm", "polish", "seed")
ARMS = SAMPLES, TICKETS, HELD_OUT, MEAN = "samples", "tickets", "held-out tickets", "the mean"
LAST_LAYER = "last layer"
CHOSEN, THEN = "best of 4", 12  # samples that are chosen, and the steps after it
CHOSEN_THEN = f"{CHOSEN}, {THEN}"
JUDGES = 2000  # validation images that choose
STEPS = (10, 30, 100, 300)
RATES = (3e-4, 1e-3, 3e-3)
TIMED = 8  # networks that times are taken of
FLOW = ws.FlowMatching(width=256, blocks=2, steps=1500, validation_fraction=0.1)
NORMAL = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Polishing:
    """Three kinds of networks, polished in every way.

    Args:
        study: The tickets and how a generator is fitted to them.
        steps: Numbers of steps.
    """

    study: Study
    steps: tuple[int, ...]

    @property
    def density(self) -> float:
        """Density of the tickets and the samples."""
        return self.study.ladder[0].density

    def generator(self, training: ws.Collection, seed: int) -> ws.FittedGenerator:
        """The generator of one seed."""
        model = ws.TicketGenerator(
            compress=ws.PCA(self.study.fit.components),
            generate=FLOW,
            refine=self.study.refine(self.density),
        )
        return model.fit(training, task=self.study.task(), seed=seed, folder=self.study.out / f"generator-{seed}")

    def polished(
        self, start: Callable[..., ws.Collection], name: str, rates: Mapping[str, tuple[float, ...]]
    ) -> tuple[dict[str, float], dict[str, ws.Collection]]:
        """The learning rate of each number of steps, and networks after every kind of polishing.

        Args:
            start: Makes the networks, polished as `FittedGenerator.sample` polishes.
            name: Name of their folders.
            rates: Learning rates to choose from, for each number of steps.
        """
        task, here, chosen = self.study.task(), self.study.out, dict[str, float]()
        found = {"0": start(None, None, here / f"{name}-0")}
        found[LAST_LAYER] = start(ws.LastLayer(), task, here / f"{name}-last-layer")
        for steps, allowed in rates.items():
            tried = {
                rate: start(f"{steps}it", with_rate(task, rate), here / f"{name}-{steps}-{rate}") for rate in allowed
            }
            chosen[steps] = min(tried, key=lambda rate, tried=tried: validated(tried[rate], "loss"))
            found[steps] = tried[chosen[steps]]
            for one, nets in tried.items():
                loss, accuracy = (validated(nets, metric) for metric in ("loss", "accuracy"))
                print(
                    f"{name}, {steps} steps of {one}: validation loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True
                )
        return chosen, found

    def rows(self, seeds: tuple[int, ...]) -> Iterator[list[dict[str, object]]]:
        """A row for each kind of networks and way of polishing, seed by seed of the generator."""
        study, task = self.study, self.study.task()
        training, held_out = study.tickets(self.density).split(study.learned_from, study.networks - study.learned_from)
        rates, groups = dict[str, dict[str, float]](), dict[tuple[str, str], ws.Collection]()
        all_rates = {str(steps): RATES for steps in self.steps}
        fixed = {TICKETS: training[: study.samples], MEAN: mean_of(training, task, study.samples)}
        for arm, networks in fixed.items():
            rates[arm], found = self.polished(
                lambda *asked, to=networks: polish(to, *asked), arm.split()[-1], all_rates
            )
            groups |= {(arm, how): one for how, one in found.items() if (arm, how) != (TICKETS, "0")}
        cost, ways = self.costs(training), ["0", LAST_LAYER, *map(str, self.steps), CHOSEN, CHOSEN_THEN]
        widths = "-".join(map(str, study.hidden))
        for seed in seeds:
            generator = self.generator(training, seed)

            def sampled(
                how: str | ws.LastLayer | None,
                task: ws.Task | None,
                folder: Path,
                generator: ws.FittedGenerator = generator,
                seed: int = seed,
            ) -> ws.Collection:
                return generator.sample(
                    study.samples, density=self.density, polish=how, task=task, seed=seed + 1, folder=folder
                )

            first = {steps: (rate,) for steps, rate in rates.get(SAMPLES, {}).items()}  # chosen with the first seed
            rates[SAMPLES], found = self.polished(sampled, f"samples-{seed}", first or all_rates)
            many = generator.sample(4 * study.samples, density=self.density, seed=seed + 1)
            found[CHOSEN] = best(many, task, study.samples)
            rate = rates[SAMPLES][str(self.steps[0])]
            trained = with_rate(task, rate), study.out / f"samples-{seed}-chosen-{rate}"
            found[CHOSEN_THEN] = polish(found[CHOSEN], f"{THEN}it", *trained)
            others = groups | {(SAMPLES, how): one for how, one in found.items()}
            report = ws.evaluate(
                others.pop((SAMPLES, "0")),
                task,
                training=training,
                held_out=held_out,
                others={f"{arm}, {how}": one for (arm, how), one in others.items()},
                dropout=None,
                knowledge=generator.knowledge,
                seed=seed,
            )
            report.write(study.out / f"report-{seed}")
            named = {f"{arm}, {how}": (arm, how) for arm, how in others} | {SAMPLES: (SAMPLES, "0")}
            named |= {"training tickets": (TICKETS, "0"), "held-out tickets": (HELD_OUT, "0")}
            rows: list[dict[str, object]] = []
            for name, (arm, how) in named.items():
                settings = {"hidden": widths, "density": self.density, "arm": arm, "polish": how, "seed": seed}
                rate = rates[SAMPLES][str(self.steps[0])] if how == CHOSEN_THEN else rates.get(arm, {}).get(how, "")
                shown = report_rows.row(report, name) | beside_tickets(report, name)
                rows.append(settings | {"lr": rate, "cost": cost[how]} | shown)
            yield sorted(rows, key=lambda row: (ARMS.index(str(row["arm"])), ways.index(str(row["polish"]))))

    def costs(self, tickets: ws.Collection) -> dict[str, float]:
        """What a network's polishing costs, as a fraction of a ticket's training, in seconds of this processor."""
        task, few, path = self.study.task(), tickets[:TIMED], self.study.out / "seconds.json"
        if not path.exists():
            step = (seconds(lambda: ws.train(few, task, "60it")) - seconds(lambda: ws.train(few, task, "20it"))) / 40
            found = {"step": step / TIMED, "last layer": seconds(lambda: ws.LastLayer().refit(few, task)) / TIMED}
            make_folder(path.parent)
            write_text(path, json.dumps(found))
        taken = json.loads(path.read_text(encoding="utf-8"))
        length = task.recipe.per_epoch(len(task.train)) * (self.study.epochs + self.study.ladder[0].length.epochs)
        costs = {str(steps): steps / length for steps in (0, *self.steps)}
        choice = 4 * JUDGES / (3 * task.recipe.batch_size)  # a step is three passes, a choice one, as counted usually
        costs |= {CHOSEN: choice / length, CHOSEN_THEN: (choice + THEN) / length}
        return costs | {LAST_LAYER: taken["last layer"] / (length * taken["step"])}


def polish(
    networks: ws.Collection, how: str | ws.LastLayer | None, task: ws.Task | None, folder: Path
) -> ws.Collection:
    """Networks as `FittedGenerator.sample` polishes its samples."""
    if task is None or how is None:
        return networks
    return how.refit(networks, task) if isinstance(how, ws.LastLayer) else ws.train(networks, task, how, folder=folder)


def best(networks: ws.Collection, task: ws.Task, count: int) -> ws.Collection:
    """The networks with the lowest loss on some validation images."""
    return ws.measured(networks, task, samples=JUDGES).best(count, "validation_loss", lowest=True)


def with_rate(task: ws.Task, rate: float) -> ws.Task:
    """The task with another learning rate."""
    return replace(task, recipe=replace(task.recipe, optimizer=replace(task.recipe.optimizer, lr=rate)))


def validated(networks: ws.Collection, name: str) -> float:
    """Mean of a validation metric over networks that were trained."""
    return statistics.fmean(record.metrics[f"validation_{name}"] for record in networks.records)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the shortest of three runs."""
    taken: list[float] = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def beside_tickets(report: ws.Report, name: str) -> dict[str, object]:
    """How much more accurate networks are than training tickets, with half of its 95 % interval over networks."""
    group, tickets = report[name], report[report.reference]
    error = sum(one.std("accuracy") ** 2 / one.count for one in (group, tickets)) ** 0.5
    return {"gain": group.mean("accuracy") - tickets.mean("accuracy"), "gain ±": NORMAL * error}


def mean_of(training: ws.Collection, task: ws.Task, copies: int) -> ws.Collection:
    """Copies of the tickets' mean, pruned, each with a seed of its own."""
    aligned = ws.WeightMatching().fit(training, example=task.train.head(8).x).transform(training)
    mean = aligned.weights.mean(0, keepdim=True).expand(copies, -1).clone()
    masks = ws.Unstructured(float(training.densities.median())).mask(mean.abs(), training.layout)
    records = [{"kind": "mean", "index": i, "seed": 10_000 + i} for i in range(copies)]
    return ws.Collection(
        training.layout, mean * masks, architecture=training.architecture, masks=masks, records=records
    )


def main(
    data_root: Path | None = None,
    steps: tuple[int, ...] = STEPS,
    seeds: tuple[int, ...] = (0, 1),
    hidden: tuple[int, ...] = (100, 50),
    networks: int = 40,
    learned_from: int = 28,
    samples: int = 20,
    epochs: int = 3,
    pruning_epochs: int = 5,
    density: float = 0.10,
    components: int = 16,
    refinement: int = 1500,
    out: Path = Path("runs/generator_polish"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each kind of networks, way of polishing and seed to generator/polish.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        steps: Numbers of training steps.
        seeds: Seeds of the generators and their samples; networks and tickets are the same.
        hidden: Widths of the hidden layers.
        networks: Number of tickets.
        learned_from: How many of them the generator sees.
        samples: Number of samples, and of tickets and copies of the mean that are polished alike.
        epochs: Epochs of training before pruning.
        pruning_epochs: Epochs of gradual pruning.
        density: Density of tickets and samples.
        components: Components of the generator.
        refinement: Steps of refinement of the generator.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    ready()
    pruned = ws.tickets.GradualPruning(density=density, length=ws.Step(epochs=pruning_epochs), ramp=0.5)
    fit = Fit(components=components, steps=refinement)
    study = Study(
        data_root,
        out,
        fit,
        networks=networks,
        learned_from=learned_from,
        samples=samples,
        shards=1,
        hidden=hidden,
        epochs=epochs,
        ladder=(pruned,),
    )
    study.prepare((0, 1))
    found: list[dict[str, object]] = []
    for rows in Polishing(study, steps).rows(seeds):
        tables.add(results / "generator/polish.csv", rows, SETTINGS)
        found += rows
    report_rows.summary(found, ("arm", "polish"))


if __name__ == "__main__":
    tyro.cli(main)

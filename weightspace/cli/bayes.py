"""The command line's verb for Bayesian tickets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from weightspace.cli.inputs import Common, Shared, find_task
from weightspace.cli.workers import workers_of
from weightspace.errors import InputError
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.report.page import wrapped

ScoreName = Literal[
    "magnitude", "signal-to-noise", "root-second-moment", "lower-bound", "upper-bound", "band", "kl-gain", "inclusion"
]


@dataclass(frozen=True, kw_only=True)
class Bayes:
    """Study Bayesian tickets: several scores over all densities, with deterministic tickets and controls.

    Args:
        out: Folder for all levels, rows.csv and report.html.
        task: Task: digits, iris, wine, breast_cancer, mnist, fashion_mnist, cifar10, or MODULE:FUNCTION that returns
            one.
        hidden: Sizes of the hidden layers of the task's MLP; None is the task's.
        n: Number of networks; every method gets the same seeds.
        seed: Seed of everything.
        scores: Scores that weights are ranked by; the first is the one that others are compared with.
        density: Density of the last level.
        rate: Fraction of the remaining weights removed at each level.
        scope: Whether weights are ranked over the whole network (global) or inside each layer (layer).
        rewind: Step of the first training that the survivors are put back to.
        sigma: Standard deviations after a reset: initial, learned, or rescaled to the inputs that are left.
        temperature: Weight of the KL to the prior.
        noise_std: Standard deviation of a regression's targets around the outputs; None learns it.
        deterministic: Names of layers that stay deterministic, such as embeddings.
        draws: Networks drawn from each posterior to predict.
        length: Length of the training of each level, such as 30ep.
        batch_size: Samples in each step.
        lr: Learning rate of Adam, with cosine decay.
        workers: Number of processes that search and train methods at the same time, one thread each.
        ray: Whether a Ray cluster does so instead (RAY_ADDRESS, or one on this machine).
        common: Options that mean the same in every verb.
    """

    out: Path
    task: str = "digits"
    hidden: tuple[int, ...] | None = None
    n: int = 3
    seed: int = 0
    scores: tuple[ScoreName, ...] = ("magnitude", "signal-to-noise", "root-second-moment")
    density: float = 0.02
    rate: float = 0.5
    scope: Literal["global", "layer"] = "global"
    rewind: Step = Step()
    sigma: Literal["initial", "learned", "rescaled"] = "initial"
    temperature: float = 0.1
    noise_std: float | None = None
    deterministic: tuple[str, ...] = ()
    draws: int = 20
    length: Step = Step(epochs=30)
    batch_size: int = 64
    lr: float = 3e-3
    workers: int = 1
    ray: bool = False
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Run the study and write its report."""
        from weightspace import bayes as bayesian  # here, as it imports Pyro, which takes seconds

        task = find_task(self.task, self.common, {} if self.hidden is None else {"hidden": self.hidden})
        recipe = Recipe(self.length, batch_size=self.batch_size, optimizer=Adam(lr=self.lr), schedule="cosine")
        chosen = dict(zip(get_args(ScoreName), bayesian.STUDY_SCORES.items(), strict=True))
        if len(set(self.scores)) < len(self.scores):
            raise InputError(f"name each score once, got {', '.join(self.scores)}")
        finder = bayesian.BayesianIMP(
            density=self.density,
            rate=self.rate,
            scope=self.scope,
            sigma=self.sigma,
            rewind=self.rewind,
            variational=bayesian.Variational(
                temperature=self.temperature, noise_std=self.noise_std, deterministic=self.deterministic
            ),
        )
        study = bayesian.Study(
            replace(task, recipe=recipe),
            finder,
            dict(chosen[name] for name in self.scores),
            networks=self.n,
            draws=self.draws,
            seed=self.seed,
        )
        with workers_of(self.workers, self.ray, "bayes", self.common) as executor:
            result = study.run(self.out, device=self.common.device, executor=executor)
        bayesian.write_report(result, self.out)
        print(f"{wrapped(bayesian.pages.headline(result))}\n")
        print(bayesian.pages.over_densities(result, result.main.name).text())
        print(f"written to {self.out / 'report.html'}")
